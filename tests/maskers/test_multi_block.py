"""Context and target blocks: a loop over single draws, counts, disjointness, symmetry, sizes of a batch, and copies."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.maskers.laws import Numbers, deviation, is_like_its_image, place, planes, same, seeded, tells_one_story

from sslkit.counter import uniforms
from sslkit.maskers import MultiBlockMasker, multi_block
from sslkit.maskers._base import OFFSET, row_keys
from sslkit.testing import grids, proves

NAME = "maskers.MultiBlockMasker"
SQUARE = (14, 14)
OPTIONS = {
    "targets": st.integers(1, 5),
    "target_scale": st.tuples(st.floats(0.05, 0.3), st.floats(0, 0.2)).map(lambda x: (x[0], x[0] + x[1])),
    "target_aspect": st.tuples(st.floats(0.3, 1.5), st.floats(0, 1)).map(lambda x: (x[0], x[0] + x[1])),
    "context_scale": st.floats(0.3, 1).map(lambda x: (x, 1.0)),
}


def sizes_of(masker, grid, numbers):
    """Height and width of target and context from the three numbers of a batch."""
    h, w = grid
    sizes = []
    for (low, high), (least, most), u, v in [
        (masker.target_scale, masker.target_aspect, numbers[0], numbers[1]),
        (masker.context_scale, (1, 1), numbers[2], 0),
    ]:
        scale, aspect = low + (high - low) * u, least + (most - least) * v
        height = min(max(round(h * math.sqrt(scale * aspect)), 1), h)
        sizes.append((height, min(max(round(scale * h * w / height), 1), w)))
    if sizes[0] == (h, w):
        sizes[0] = (h - 1, w) if h >= w else (h, w - 1)
    return sizes


def rectangle(grid, size, number):
    top, left = place(number, *(side - n + 1 for side, n in zip(grid, size, strict=True)))
    flags = np.zeros(grid, dtype=bool)
    flags[top : top + size[0], left : left + size[1]] = True
    return flags


def loop(numbers, grid, targets, target, context, count):
    """The docstring of MultiBlockMasker for one sample: visible tokens of the context, hidden ones of each target."""
    for attempt in range(5):
        slot = attempt * (targets + 1)
        hidden = [rectangle(grid, target, numbers(slot + (k if attempt < 4 else 0))) for k in range(targets)]
        block = rectangle(grid, context, numbers(slot + targets))
        free = block & ~np.any(hidden, axis=0)
        if free.sum() >= count:
            break
    beside = ~np.any(hidden, axis=0) & ~block
    order = [(numbers(5 * (targets + 1) + n), n) for n in range(math.prod(grid))]
    ranked = [n for flags in (free, beside) for _, n in sorted(order[n] for n in np.flatnonzero(flags))]
    visible = np.zeros(math.prod(grid), dtype=bool)
    visible[ranked[:count]] = True
    return visible, np.stack(hidden).reshape(targets, -1)


@proves(NAME, "loop")
@settings(max_examples=40)
@given(grid=grids(ndim=(2, 2), side=(2, 9)), seed=st.integers(0, 99), epoch=st.integers(0, 9), options=st.fixed_dictionaries(OPTIONS))
def test_equals_a_loop(grid, seed, epoch, options):
    masker = MultiBlockMasker(**options)
    numbers = uniforms(1, 3, indices=torch.tensor([-1]), seed=seed, epoch=epoch, offset=OFFSET)[0].tolist()
    sizes = sizes_of(masker, grid, numbers)
    context, targets = masker.for_indices(torch.arange(3), grid, seed=seed, epoch=epoch)
    count = multi_block.context_count(multi_block.Blocks(grid, masker.targets, *sizes))
    u = uniforms(3, 2, indices=torch.arange(3), seed=seed, epoch=epoch, offset=OFFSET)
    for b in range(3):
        visible, hidden = loop(Numbers.of(u[b]), grid, masker.targets, *sizes, count)
        assert np.array_equal(~context.mask[b].numpy(), visible)
        for k, m in enumerate(targets):
            assert np.array_equal(m.mask[b].numpy(), hidden[k])
    key = row_keys(u)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multi_block, "eager", lambda x: False)  # the form of other devices
        assert torch.equal(multi_block.Blocks(grid, masker.targets, *sizes).drawn(key)[0], ~context.mask)


@proves(NAME, "loop")
def test_the_contexts_count_is_what_one_row_in_128_does_not_reach():
    sizes = (6, 6), (13, 13)
    count = multi_block.context_count(multi_block.Blocks(SQUARE, 4, *sizes))
    rng, found = np.random.default_rng(0), []
    for _ in range(5000):
        hidden = [rectangle(SQUARE, sizes[0], int(rng.integers(2**32))) for _ in range(4)]
        found.append((rectangle(SQUARE, sizes[1], int(rng.integers(2**32))) & ~np.any(hidden, axis=0)).sum())
    below = np.mean(np.array(found) < count)
    # 1 / 128 of 1024 rows, 8, has a standard deviation of 2.8; counts are whole, so a few rows more may lie at it
    assert 0.001 < below < 0.02


@proves(NAME, "property")
@settings(max_examples=60)
@given(grid=grids(side=(1, 10)).filter(lambda g: g[-2:] != (1, 1)), batch=st.integers(0, 4), seed=st.integers(0, 2**32 - 1),
       options=st.fixed_dictionaries({**OPTIONS, "target_scale": st.floats(0.05, 1).map(lambda x: (x, 1.0))}))  # fmt: skip
def test_context_and_targets_are_disjoint_and_of_one_count(grid, batch, seed, options):
    masker = MultiBlockMasker(**options)
    context, targets = masker(batch, grid, generator=seeded(seed))
    tokens = math.prod(grid)
    assert len(targets) == masker.targets
    for m in (context, *targets):
        tells_one_story(m, tokens - m.ids_keep.shape[1])
    assert context.ids_keep.shape[1] > 0
    assert len({m.ids_hidden.shape[1] for m in targets}) == 1
    for m in targets:
        assert not (m.mask & ~context.mask).any()  # a target is hidden in the context
        flags = planes(m)
        for row in flags:
            i = row.nonzero()
            box = i.max(dim=0).values - i.min(dim=0).values + 1
            assert box.prod() == row.sum()  # a whole rectangle
        if len(grid) == 3:
            assert (flags == flags[:, :1]).all()  # at all times
    if len(grid) == 3:
        assert (planes(context) == planes(context)[:, :1]).all()


@proves(NAME, "property")
def test_sizes_are_those_of_the_paper():
    areas, aspects, contexts = [], [], []
    for step in range(300):
        context, (m, *_) = MultiBlockMasker().for_indices(torch.arange(1), (28, 28), seed=0, epoch=step)
        i, j = planes(m)[0].nonzero().T
        height, width = (i.max() - i.min() + 1).item(), (j.max() - j.min() + 1).item()
        areas.append(height * width / 784)
        aspects.append(height / width)
        contexts.append(context.ids_keep.shape[1])
    # sides are whole: half a token in 9 to 16
    assert 0.14 < min(areas) < 0.16 < 0.19 < max(areas) < 0.21
    assert 0.65 < min(aspects) < 0.8 < 1.4 < max(aspects) < 1.65
    assert np.mean(areas) == pytest.approx(0.175, abs=0.005)
    assert np.mean(aspects) == pytest.approx(1.125, abs=0.05)
    assert len(set(contexts)) > 20


@proves(NAME, "property")
@pytest.mark.parametrize("grid", [SQUARE, (7, 21)])
def test_a_mask_is_as_likely_as_its_mirror_image(grid):
    context, targets = MultiBlockMasker()(20_000, grid, generator=seeded(1))
    for flags in (~planes(context), *(planes(m) for m in targets)):
        assert is_like_its_image(flags, lambda p: p.flip(0))
        assert is_like_its_image(flags, lambda p: p.flip(1))
    first, last = (planes(m).double().mean(dim=0) for m in (targets[0], targets[-1]))
    assert first.min() > 0  # the last row and column are reached
    assert deviation(first, last, 20_000, 20_000) < 4.5


@proves(NAME, "property")
def test_without_enough_context_targets_lie_on_each_other():
    """On 2 x 2 tokens four targets of one token leave nothing free in 9 % of the attempts; a context token there is all the same."""
    context, targets = MultiBlockMasker(target_scale=(0.25, 0.25), context_scale=(1, 1))(100_000, (2, 2), generator=seeded(2))
    assert context.ids_keep.shape == (100_000, 1)
    for m in targets:
        assert not (m.mask & ~context.mask).any()
    stacked = torch.stack([(m.mask == targets[0].mask).all(dim=1) for m in targets]).all(dim=0).double().mean()
    assert stacked == pytest.approx(1 / 64, abs=0.002)  # by chance alone


@proves(NAME, "property")
def test_rows_depend_on_their_own_numbers():
    masker = MultiBlockMasker()
    order = torch.tensor([7, 0, 19, 7])
    whole, some = (masker.for_indices(indices, SQUARE, seed=3, epoch=5) for indices in (torch.arange(20), order))
    for m, n in zip((whole[0], *whole[1]), (some[0], *some[1]), strict=True):
        same(n, type(m).from_ids_keep(m.ids_keep[order], SQUARE))
    shapes = {tuple(m.ids_keep.shape[1] for m in (c, t[0])) for c, t in (masker(1, SQUARE, generator=seeded(s)) for s in range(9))}
    assert len(shapes) > 3  # another call, another size


@proves(NAME, "property")
def test_an_accelerators_generator_is_not_read_back():
    """Its sizes come from its state, which lies on the host: here the state of one on the CPU."""
    numbers = {seed: multi_block._numbers_of_state(seeded(seed).get_state()) for seed in range(200)}
    values = np.array(list(numbers.values()))
    assert multi_block._numbers_of_state(seeded(3).get_state()) == numbers[3]
    assert ((values >= 0) & (values < 1)).all()
    assert len(np.unique(values)) == values.size
    assert np.abs(values.mean(axis=0) - 0.5).max() < 4.5 / math.sqrt(12 * 200)
    moving = seeded(3)
    torch.rand(1, generator=moving)
    assert multi_block._numbers_of_state(moving.get_state()) != numbers[3]


@proves(NAME, "pickle")
def test_copies_are_equal():
    masker = MultiBlockMasker(3, (0.1, 0.2))
    for other in (copy.deepcopy(masker), pickle.loads(pickle.dumps(masker))):
        assert other == masker
        same(other(2, SQUARE, generator=seeded())[1][2], masker(2, SQUARE, generator=seeded())[1][2])
    context, targets = masker(2, SQUARE, generator=seeded(), device="meta")
    assert {m.mask.device.type for m in (context, *targets)} == {"meta"}


@proves(NAME, "errors")
def test_wrong_options_and_calls():
    for options, message in [
        ({"targets": 0}, "got targets=0; expected a whole targets from 1 on"),
        ({"target_scale": (0.2, 0.15)}, r"got target_scale=\(0.2, 0.15\); expected \(least, largest\), above 0 and up to 1"),
        ({"target_aspect": (0, 1)}, r"got target_aspect=\(0, 1\)"),
        ({"context_scale": (0.85, 1.1)}, r"got context_scale=\(0.85, 1.1\)"),
    ]:
        with pytest.raises(ValueError, match="MultiBlockMasker: " + message):
            MultiBlockMasker(**options)
    with pytest.raises(ValueError, match=r"got grid \(1, 1\); expected two tokens or more in a frame"):
        MultiBlockMasker()(1, (1, 1))
    with pytest.raises(ValueError, match=r"got grid \(14,\); expected \(h, w\) or \(t, h, w\)"):
        MultiBlockMasker()(1, (14,))
    with pytest.raises(ValueError, match="got batch=-1; expected 0 or more"):
        MultiBlockMasker()(-1, SQUARE)
    with pytest.raises(ValueError, match=r"MultiBlockMasker.for_indices: got indices \[2, 2\]"):
        MultiBlockMasker().for_indices(torch.zeros(2, 2, dtype=torch.int64), SQUARE, seed=0)
