"""Tube masks: one frame's mask at all times, against VideoMAE's noise and MaskFeat's recorded draws."""

import copy
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.maskers.laws import deviation, is_like_its_image, planes, same, seeded, tells_one_story

from sslkit.maskers import BlockwiseMasker, CellMasker, GridMasker, RandomMasker, TokenMask, TubeMasker
from sslkit.testing import grids, proves

NAME = "maskers.TubeMasker"
GRID = (4, 5, 6)
CLIPS = grids(ndim=(3, 3), side=(1, 8))


@proves(NAME, "golden")
def test_videomaes_noise(golden):
    """Tubes are whole in its code only if it keeps a multiple of t tokens; else one is split, and counts as hidden here."""
    g = golden("mae_video_masking")
    t, h, w = grid = tuple(int(n) for n in g["thw"])
    for case in ("tube_aligned", "tube_split"):
        hidden = g[f"{case}_mask"].reshape(-1, t, h * w).sum(axis=1)  # frames in which a column is hidden
        masker = TubeMasker((hidden > 0).sum(axis=1)[0] / (h * w))
        mine = masker.from_uniforms(g.tensor(f"{case}_noise")[:, 0], grid)
        assert np.array_equal(planes(mine).numpy().reshape(-1, t, h * w).sum(axis=1) > 0, hidden > 0)
        if case == "tube_aligned":
            assert np.array_equal(mine.mask.numpy(), g[f"{case}_mask"] > 0)
            assert masker.ratio == pytest.approx(g.number(f"{case}_ratio"))
        else:
            assert ((hidden > 0) & (hidden < t)).sum() == len(hidden)
    agnostic = RandomMasker.from_noise(g.tensor("agnostic_noise"), g["agnostic_ids_keep"].shape[1], grid)
    assert np.array_equal(agnostic.mask.numpy(), g["agnostic_mask"] > 0)


@proves(NAME, "golden")
def test_maskfeats_tubes(golden):
    g = golden("maskfeat_video_masks")
    h, w, ratio = g["tube2_meta"].tolist()
    h, w = int(h), int(w)
    target = round(ratio * h * w)
    spatial = BlockwiseMasker(ratio, min_patches=target // 5, exact=False)
    for i, expected in enumerate(g["tube2_masks"]):
        draws = g["tube2_draws"][g["tube2_offsets"][i] : g["tube2_offsets"][i + 1]]
        assert np.array_equal(np.broadcast_to(planes(spatial.replay(draws, (h, w))).numpy(), expected.shape), expected > 0)
    n, draws = 20_000, int(g["tube2_count_freq"].sum())
    t = g["tube2_masks"].shape[1]
    mine = planes(TubeMasker(ratio, spatial)(n, (t, h, w), generator=seeded(1)))
    assert deviation(mine.double().mean(dim=0), g["tube2_pos_prob"], n, draws) < 4
    counts = mine.flatten(1).sum(dim=1)
    for value, frequency in zip(g["tube2_count_values"], g["tube2_count_freq"], strict=True):
        assert deviation((counts == int(value)).double().mean(), frequency / draws, n, draws) < 4


@proves(NAME, "loop", "property")
@settings(max_examples=60)
@given(
    grid=CLIPS,
    ratio=st.floats(0, 1, exclude_max=True),
    spatial=st.sampled_from([RandomMasker, RandomMasker(0.1), BlockwiseMasker, BlockwiseMasker(min_patches=3, min_aspect=0.2)]),
    batch=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_one_mask_at_all_times(grid, ratio, spatial, batch, seed):
    t, h, w = grid
    m = TubeMasker(ratio, spatial)(batch, grid, generator=seeded(seed))
    tells_one_story(m, t * round(ratio * h * w))
    one = replace(spatial() if isinstance(spatial, type) else spatial, ratio=ratio)
    frame = one(batch, (h, w), generator=seeded(seed))
    for b in range(batch):
        for k in range(t):
            assert torch.equal(planes(m)[b, k], planes(frame)[b])


@proves(NAME, "property")
def test_every_masker_of_images_serves():
    for spatial, hidden in [(CellMasker(cell=3), 9), (GridMasker, 27), (GridMasker(2), 27)]:
        tells_one_story(TubeMasker(0.75 if hidden == 27 else 0.25, spatial)(2, (3, 6, 6), generator=seeded()), 3 * hidden)
    ragged = TubeMasker(0.4, BlockwiseMasker(min_patches=4, exact=False))(300, (3, 7, 7), generator=seeded())
    assert len(ragged.mask.sum(dim=1).unique()) > 1
    flags = planes(TubeMasker(0.4, BlockwiseMasker(min_patches=4))(10_000, (2, 6, 7), generator=seeded()))
    assert is_like_its_image(flags, lambda p: p.flip(1))
    assert is_like_its_image(flags, lambda p: p.flip(2))


@proves(NAME, "property")
def test_rows_depend_on_their_own_numbers():
    for masker in (TubeMasker(), TubeMasker(0.5, BlockwiseMasker(min_patches=4))):
        whole = masker.for_indices(torch.arange(20), GRID, seed=3, epoch=5)
        order = torch.tensor([7, 0, 19, 7])
        same(masker.for_indices(order, GRID, seed=3, epoch=5), TokenMask.from_ids_keep(whole.ids_keep[order], GRID))
        assert not torch.equal(masker.for_indices(torch.arange(20), GRID, seed=3, epoch=6).mask, whole.mask)


@proves(NAME, "compile")
def test_compiles_in_one_graph_to_the_same_masks():
    torch.compiler.reset()
    masker = TubeMasker()
    compiled = torch.compile(lambda i: masker.for_indices(i, GRID, seed=1), fullgraph=True, backend="aot_eager")
    same(compiled(torch.arange(5)), masker.for_indices(torch.arange(5), GRID, seed=1))


@proves(NAME, "pickle")
def test_copies_are_equal():
    masker = TubeMasker(0.4, BlockwiseMasker(min_patches=4))
    assert masker.spatial == BlockwiseMasker(0.4, min_patches=4)
    assert TubeMasker(0.8, RandomMasker) == TubeMasker(0.8) == TubeMasker(0.8, RandomMasker(0.3))
    for other in (copy.deepcopy(masker), pickle.loads(pickle.dumps(masker))):
        assert other == masker
        same(other(2, GRID, generator=seeded()), masker(2, GRID, generator=seeded()))
    assert repr(TubeMasker()) == "TubeMasker(ratio=0.9, spatial=RandomMasker(ratio=0.9, count=None))"


@proves(NAME, "errors")
def test_wrong_options_and_calls():
    with pytest.raises(ValueError, match="TubeMasker: got ratio=90"):
        TubeMasker(90)
    for spatial in (RandomMasker(count=3), math.prod, 7, TokenMask):
        with pytest.raises(ValueError, match="TubeMasker: got spatial=.*; expected a masker of images that takes a ratio"):
            TubeMasker(0.5, spatial)
    with pytest.raises(ValueError, match=r"TubeMasker: got grid \(14, 14\); expected \(t, h, w\). To mend: use the spatial masker"):
        TubeMasker()(1, (14, 14))
    with pytest.raises(ValueError, match="CellMasker: got grid"):
        TubeMasker(0.5, CellMasker())(1, (2, 3, 4))
