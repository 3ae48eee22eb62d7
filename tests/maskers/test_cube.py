"""Cube masks: the public sampler's numbers, a loop over single draws, exact counts, symmetry in space and time, and copies."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.maskers.laws import (
    Numbers,
    deviation,
    grow,
    histogram,
    is_like_its_image,
    most_blocks,
    place,
    planes,
    same,
    seeded,
    sides,
    tells_one_story,
)

from sslkit.maskers import CubeMasker, _boxes
from sslkit.testing import grids, proves

NAME = "maskers.CubeMasker"
CLIPS = grids(ndim=(3, 3), side=(1, 7))
WINDOW = (8, 7, 7)
DRAWS = 10_000


def public(g):
    *window, ratio = g["cube0_meta"].tolist()
    return CubeMasker(ratio, exact=False), tuple(int(n) for n in window)


@proves(NAME, "golden")
def test_recorded_draws_give_the_public_masks(golden):
    g = golden("maskfeat_video_masks")
    masker, window = public(g)
    for i, expected in enumerate(g["cube0_masks"]):
        draws = g["cube0_draws"][g["cube0_offsets"][i] : g["cube0_offsets"][i + 1]]
        assert torch.equal(planes(masker.replay(draws, window))[0], torch.as_tensor(expected).bool())
    with pytest.raises(ValueError, match=r"CubeMasker.replay: got \d+ draws, \d+ of them used"):
        masker.replay(np.concatenate([draws, draws]), window)


@proves(NAME, "golden")
def test_the_ragged_form_has_the_public_law(golden):
    """4 standard errors of both samples a token; count and rate of exact hits within 4 of theirs; the histogram within 0.03."""
    g = golden("maskfeat_video_masks")
    masker, window = public(g)
    mine = planes(masker(DRAWS, window, generator=seeded(1)))
    counts, draws = mine.flatten(1).sum(dim=1), int(g["cube0_count_freq"].sum())
    assert deviation(mine.double().mean(dim=0), g["cube0_pos_prob"], DRAWS, draws) < 4
    target = round(masker.ratio * math.prod(window))
    expected = torch.zeros(target + 1, dtype=torch.double)
    expected[torch.as_tensor(g["cube0_count_values"])] = g.tensor("cube0_count_freq", torch.double) / draws
    mean = (expected * torch.arange(target + 1)).sum()
    spread = (expected * (torch.arange(target + 1) - mean) ** 2).sum().sqrt()
    assert abs(counts.double().mean() - mean) < 4 * spread * math.sqrt(1 / DRAWS + 1 / draws)
    assert deviation((counts == target).double().mean(), expected[target], DRAWS, draws) < 4
    assert (histogram(counts, target + 1) - expected).abs().sum() / 2 < 0.03


@proves(NAME, "golden")
def test_coverage_of_the_frames():
    """Measured of the public sampler, to 0.01: 0.23 of the first and last frame, 0.51 of the middle ones."""
    frames = planes(CubeMasker(exact=False)(DRAWS, WINDOW, generator=seeded(1))).double().mean(dim=(0, 2, 3))
    assert frames[0] == pytest.approx(0.23, abs=0.01)
    assert frames[-1] == pytest.approx(0.23, abs=0.01)
    assert frames[3:5].mean() == pytest.approx(0.51, abs=0.01)


def loop(numbers, grid, target, least, most, min_aspect, exact):
    """The docstring of CubeMasker, one sample, one box at a time."""
    t, h, w = grid
    mask, blocks = np.zeros(grid, dtype=bool), most_blocks(math.prod(grid), target) if target else 0
    for block in range(blocks):
        for attempt in range(100):
            slot = 3 * (100 * block + attempt)
            height, width = sides(numbers(slot), least or max(h * w // 5, 1), most or h * w, min_aspect)
            duration = 1 + (numbers(slot + 2) * t >> 32)
            if height < h and width < w:
                front, top, left = place(numbers(slot + 1), t - duration + 1, h - height + 1, w - width + 1)
                box = np.zeros(grid, dtype=bool)
                box[front : front + duration, top : top + height, left : left + width] = True
                if 0 < (box & ~mask).sum() <= target - mask.sum():
                    mask |= box
                    break
        else:
            break
        if mask.sum() == target:
            break
    if mask.sum() < (target if exact else min(target, 1)):
        grow(mask, target, numbers, 3 * 100 * blocks)
    return mask


@proves(NAME, "loop")
@settings(max_examples=25)
@given(
    grid=CLIPS,
    share=st.floats(0, 1),
    least=st.none() | st.integers(1, 20),
    most=st.none() | st.integers(1, 30),
    min_aspect=st.floats(0.05, 1),
    exact=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_a_loop_in_both_forms(grid, share, least, most, min_aspect, exact, seed):
    target = round(share * math.prod(grid))
    masker = CubeMasker(count=target, min_patches=least, max_patches=most, min_aspect=min_aspect, exact=exact)
    u = torch.rand(2, masker.slots(grid), generator=seeded(seed))
    expected = np.stack([loop(Numbers.of(row), grid, target, least, most, min_aspect, exact) for row in u])
    assert np.array_equal(planes(masker.from_uniforms(u, grid)).numpy(), expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_boxes, "_can_count_bits", lambda: False)  # the form of other devices
        assert np.array_equal(planes(masker.from_uniforms(u, grid)).numpy(), expected)


@proves(NAME, "loop")
def test_the_two_forms_agree_on_many_rows(monkeypatch):
    for masker in (CubeMasker(), CubeMasker(0.8, exact=False)):
        words = masker(60, WINDOW, generator=seeded())
        with monkeypatch.context() as patch:
            patch.setattr(_boxes, "_can_count_bits", lambda: False)
            assert torch.equal(masker(60, WINDOW, generator=seeded()).mask, words.mask)


@proves(NAME, "property")
@settings(max_examples=60)
@given(grid=CLIPS, ratio=st.floats(0, 1, exclude_max=True), batch=st.integers(0, 3), seed=st.integers(0, 2**32 - 1))
def test_hides_the_stated_number_in_every_row(grid, ratio, batch, seed):
    m = CubeMasker(ratio)(batch, grid, generator=seeded(seed))
    count = round(ratio * math.prod(grid))
    tells_one_story(m, count)
    ragged = CubeMasker(ratio, exact=False)(batch, grid, generator=seeded(seed)).mask
    assert not (ragged & ~m.mask).any()  # the exact mask is the public one, completed
    assert (ragged.sum(dim=1) > 0).all() or count == 0


@proves(NAME, "property")
@pytest.mark.parametrize("grid", [(1, 1, 1), (5, 1, 1), (1, 1, 9), (4, 2, 2), WINDOW])
def test_from_none_to_all(grid):
    tokens = math.prod(grid)
    for count in {0, 1, tokens // 2, tokens - 1, tokens}:
        tells_one_story(CubeMasker(count=count)(2, grid, generator=seeded()), count)


@proves(NAME, "property")
@pytest.mark.parametrize(("masker", "grid"), [(CubeMasker(), WINDOW), (CubeMasker(0.5, exact=False), (5, 4, 6))], ids=str)
def test_a_mask_is_as_likely_as_its_mirror_image_and_backwards_in_time(masker, grid):
    flags = planes(masker(DRAWS, grid, generator=seeded(2)))
    for axis in range(3):
        assert is_like_its_image(flags, lambda p, axis=axis: p.flip(axis))
        assert not is_like_its_image(flags.roll(1, dims=axis + 1), lambda p, axis=axis: p.flip(axis))  # the test can fail
    if grid == WINDOW:
        assert is_like_its_image(flags, lambda p: p.transpose(1, 2))
    assert flags.double().mean(dim=0).min() > 0  # every token is hidden at times


@proves(NAME, "property")
def test_rows_depend_on_their_own_numbers():
    masker = CubeMasker()
    u = torch.rand(20, 2, generator=seeded())
    m = masker.from_uniforms(u, WINDOW)
    order = torch.randperm(20, generator=seeded(1))
    same(masker.from_uniforms(u[order], WINDOW), type(m).from_ids_keep(m.ids_keep[order], WINDOW))
    whole = masker.for_indices(torch.arange(20), WINDOW, seed=3, epoch=5)
    assert torch.equal(masker.for_indices(torch.tensor([7, 0, 7]), WINDOW, seed=3, epoch=5).mask, whole.mask[[7, 0, 7]])


@proves(NAME, "property")
def test_a_coarse_window_is_resized_to_the_tokens():
    coarse = CubeMasker(0.4)(3, WINDOW, generator=seeded())
    fine = coarse.resize((8, 14, 14))
    tells_one_story(fine, 4 * 157)
    same(fine.resize(WINDOW, "all"), type(fine)(coarse.mask, WINDOW))


@proves(NAME, "compile")
def test_compiles_in_one_graph_to_the_same_masks(monkeypatch):
    """With two blocks at most, as the graph has one part for each."""
    monkeypatch.setattr(_boxes.Law, "blocks", 2)
    torch.compiler.reset()
    compiled = torch.compile(lambda i: CubeMasker().for_indices(i, (3, 4, 5), seed=1), fullgraph=True, backend="aot_eager")
    same(compiled(torch.arange(6)), CubeMasker().for_indices(torch.arange(6), (3, 4, 5), seed=1))


@pytest.mark.full
def test_compiles_with_all_blocks():
    torch.compiler.reset()
    compiled = torch.compile(lambda i: CubeMasker().for_indices(i, (3, 4, 5), seed=1), fullgraph=True, backend="aot_eager")
    same(compiled(torch.arange(6)), CubeMasker().for_indices(torch.arange(6), (3, 4, 5), seed=1))


@proves(NAME, "pickle")
def test_copies_are_equal():
    masker = CubeMasker(0.5, min_patches=4)
    for other in (copy.deepcopy(masker), pickle.loads(pickle.dumps(masker))):
        assert other == masker
        same(other(2, WINDOW, generator=seeded()), masker(2, WINDOW, generator=seeded()))


@proves(NAME, "errors")
def test_wrong_options_and_calls():
    for options, message in [
        ({"ratio": -0.1}, "got ratio=-0.1"),
        ({"count": True}, "got count=True"),
        ({"min_patches": 0}, "got min_patches=0; expected a whole min_patches from 1 on"),
        ({"max_patches": -3}, "got max_patches=-3"),
        ({"min_aspect": 0}, "got min_aspect=0; expected above 0 and at most 1"),
    ]:
        with pytest.raises(ValueError, match="CubeMasker: " + message):
            CubeMasker(**options)
    with pytest.raises(ValueError, match=r"CubeMasker: got grid \(14, 14\); expected \(t, h, w\). To mend: use BlockwiseMasker"):
        CubeMasker()(1, (14, 14))
    with pytest.raises(ValueError, match=r"got count=99 on grid \(2, 3, 4\); expected at most 24"):
        CubeMasker(count=99)(1, (2, 3, 4))
