"""Frame masks: whole time steps, as often as each other, against MaskFeat's recorded draws."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.maskers.laws import deviation, is_like_its_image, planes, same, seeded, tells_one_story

from sslkit.maskers import FrameMasker, RandomMasker, TokenMask
from sslkit.testing import grids, proves

NAME = "maskers.FrameMasker"
GRID = (6, 2, 3)


@proves(NAME, "golden")
def test_maskfeats_frames(golden):
    g = golden("maskfeat_video_masks")
    *window, ratio = g["frame1_meta"].tolist()
    grid = tuple(int(n) for n in window)
    t = grid[0]
    for i, expected in enumerate(g["frame1_masks"]):
        drawn = g["frame1_draws"][g["frame1_offsets"][i] : g["frame1_offsets"][i + 1], 3]
        assert len(drawn) == round(ratio * t)
        frames = torch.zeros(1, t, dtype=torch.bool)
        frames[0, torch.as_tensor(drawn).long()] = True
        assert np.array_equal(planes(TokenMask(frames, (t, 1, 1)).resize(grid))[0].numpy(), expected > 0)
    n, draws = 20_000, int(g["frame1_count_freq"].sum())
    mine = planes(FrameMasker(ratio)(n, grid, generator=seeded(1)))
    assert mine.flatten(1).sum(dim=1).unique().tolist() == g["frame1_count_values"].tolist()
    assert deviation(mine.double().mean(dim=0), g["frame1_pos_prob"], n, draws) < 4


@proves(NAME, "loop", "property")
@settings(max_examples=60)
@given(
    grid=grids(ndim=(3, 3), side=(1, 9)),
    ratio=st.floats(0, 1, exclude_max=True),
    batch=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_hides_whole_frames_the_stated_number_of_them(grid, ratio, batch, seed):
    t, h, w = grid
    m = FrameMasker(ratio)(batch, grid, generator=seeded(seed))
    tells_one_story(m, h * w * round(ratio * t))
    noise = torch.rand(batch, t, generator=seeded(seed))
    for b in range(batch):
        visible = sorted(range(t), key=lambda k, b=b: (noise[b, k].item(), k))[: t - round(ratio * t)]
        for k in range(t):
            assert (planes(m)[b, k] == (k not in visible)).all()


@proves(NAME, "property")
def test_every_frame_and_every_pair_is_as_likely():
    n, t = 20_000, 6
    flags = planes(FrameMasker(0.5)(n, GRID, generator=seeded(1)))
    hidden = flags[:, :, 0, 0].double()
    assert deviation(hidden.mean(dim=0), torch.full((t,), 0.5), n) < 4.5
    pairs = (hidden.T @ hidden / n)[~torch.eye(t, dtype=torch.bool)]
    assert deviation(pairs, torch.full((t * (t - 1),), 3 * 2 / (t * (t - 1))), n) < 4.5
    assert is_like_its_image(flags, lambda p: p.flip(0))


@proves(NAME, "property")
def test_for_indices_is_a_function_of_seed_epoch_and_index():
    whole = FrameMasker().for_indices(torch.arange(20), GRID, seed=3, epoch=5)
    order = torch.tensor([7, 0, 19, 7])
    same(FrameMasker().for_indices(order, GRID, seed=3, epoch=5), TokenMask.from_ids_keep(whole.ids_keep[order], GRID))
    assert not torch.equal(FrameMasker().for_indices(torch.arange(20), GRID, seed=3, epoch=6).mask, whole.mask)
    frames = RandomMasker(0.4).for_indices(torch.arange(20), (6, 1, 1), seed=3, epoch=5)
    same(frames.resize(GRID), whole)


@proves(NAME, "compile")
def test_compiles_in_one_graph_to_the_same_masks():
    torch.compiler.reset()
    compiled = torch.compile(lambda i: FrameMasker().for_indices(i, GRID, seed=1), fullgraph=True, backend="aot_eager")
    same(compiled(torch.arange(5)), FrameMasker().for_indices(torch.arange(5), GRID, seed=1))


@proves(NAME, "pickle")
def test_copies_are_equal():
    masker = FrameMasker(0.7)
    for other in (copy.deepcopy(masker), pickle.loads(pickle.dumps(masker))):
        assert other == masker
        same(other(2, GRID, generator=seeded()), masker(2, GRID, generator=seeded()))


@proves(NAME, "errors")
def test_wrong_options_and_calls():
    for ratio in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="FrameMasker: got ratio="):
            FrameMasker(ratio)
    with pytest.raises(ValueError, match=r"FrameMasker: got grid \(14, 14\); expected \(t, h, w\). To mend: an image has one frame"):
        FrameMasker()(1, (14, 14))
