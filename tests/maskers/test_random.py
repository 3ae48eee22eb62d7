"""Random masks against the official code, a loop, exact counts, and chance."""

import copy
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkit.maskers import RandomMasker, TokenMask
from sslkit.testing import grids, proves, run_in_processes

NAME = "maskers.RandomMasker"
GRID = (5, 7)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def same(a, b):
    assert a.grid == b.grid
    assert torch.equal(a.mask, b.mask)
    assert torch.equal(a.ids_keep, b.ids_keep)
    assert torch.equal(a.ids_hidden, b.ids_hidden)


@proves(NAME, "golden")
def test_official_masks(golden):
    g = golden("mae_random_masking")
    cases = [name.removesuffix("_noise") for name in g if name.endswith("_noise")]
    assert cases
    for case in cases:
        noise, x = g.tensor(f"{case}_noise"), g.tensor(f"{case}_x")
        order = g.tensor(f"{case}_ids_keep").long()  # theirs: [batch, kept] in the order of the noise
        ids, places = order.sort(dim=1)
        m = RandomMasker.from_noise(noise, ids.shape[1], (1, noise.shape[1]))
        assert torch.equal(m.ids_keep, ids)
        assert torch.equal(m.mask, g.tensor(f"{case}_mask").bool())
        theirs = g.tensor(f"{case}_x_masked")
        assert torch.equal(m.keep(x), theirs.gather(1, places[..., None].expand_as(theirs)))
        shuffled = torch.cat([m.keep(x), m.hidden(x)], dim=1)  # their inverse order says where each token of [visible, hidden] belongs
        assert torch.equal(m.mask, g.tensor(f"{case}_ids_restore") >= ids.shape[1])
        assert torch.equal(shuffled.sort(dim=1).values, x.sort(dim=1).values)


@proves(NAME, "golden")
def test_official_counts_and_where_they_lose_a_token(golden):
    g = golden("mae_random_masking")
    lost = 0
    for tokens, row in zip(g["table_L"].tolist(), g["table_len_keep"].tolist(), strict=True):
        for ratio, kept in zip(g["table_ratio"].tolist(), row, strict=True):
            assert kept == int(tokens * (1 - ratio))  # their count can be had by count=
            assert RandomMasker(count=tokens - kept)(1, (1, tokens)).ids_keep.shape == (1, kept)
            exact = tokens * (1 - Fraction(str(round(ratio, 6))))  # of the ratio as it is written
            ours = RandomMasker(ratio)(1, (1, tokens)).ids_keep.shape[1]
            assert abs(ours - exact) <= Fraction(1, 2)
            lost += exact.denominator == 1 and kept != exact
            if exact.denominator == 1:
                assert ours == exact
    assert lost > 0


@proves(NAME, "property")
@pytest.mark.parametrize(
    ("tokens", "ratio", "kept", "theirs"),
    [(10, 0.9, 1, 0), (50, 0.9, 5, 4), (100, 0.9, 10, 9), (100, 0.8, 20, 19), (200, 0.8, 40, 39), (400, 0.9, 40, 39),
     (196, 0.75, 49, 49), (196, 0.8, 39, 39), (196, 0.9, 20, 19), (256, 0.75, 64, 64), (1568, 0.9, 157, 156), (1568, 0.75, 392, 392)],
)  # fmt: skip
def test_no_token_is_lost_to_truncation(tokens, ratio, kept, theirs):
    assert int(tokens * (1 - ratio)) == theirs
    m = RandomMasker(ratio)(3, (2, tokens // 2))
    assert m.ids_keep.shape == (3, kept)
    assert m.mask.sum(dim=1).tolist() == [round(ratio * tokens)] * 3 == [tokens - kept] * 3


@proves(NAME, "loop", "property")
@settings(max_examples=60)
@given(
    grid=grids(), batch=st.integers(0, 4), share=st.floats(0, 1), seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["u", "n", "ties"])
)
def test_keeps_the_smallest_like_a_loop(grid, batch, share, seed, kind):
    tokens = math.prod(grid)
    kept = round(share * tokens)
    noise = torch.rand(batch, tokens, generator=seeded(seed)) if kind == "u" else torch.randn(batch, tokens, generator=seeded(seed))
    if kind == "ties":
        noise = noise.round() * -1.0  # many equal values, and zeros of both signs
    m = RandomMasker.from_noise(noise, kept, grid)
    for b in range(batch):
        visible = sorted(sorted(range(tokens), key=lambda n, b=b: (noise[b, n].item(), n))[:kept])
        assert m.ids_keep[b].tolist() == visible
        assert m.ids_hidden[b].tolist() == [n for n in range(tokens) if n not in visible]
        assert m.mask[b].tolist() == [n not in visible for n in range(tokens)]
    same(m, RandomMasker.from_noise(noise.double(), kept, grid))


@proves(NAME, "property")
@settings(max_examples=60)
@given(batch=st.integers(0, 4), grid=grids(), ratio=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 2**32 - 1))
def test_hides_the_stated_number_in_every_row(batch, grid, ratio, seed):
    tokens = math.prod(grid)
    m = RandomMasker(ratio)(batch, grid, generator=seeded(seed))
    assert m.mask.shape == (batch, tokens)
    assert m.mask.sum(dim=1).tolist() == [round(ratio * tokens)] * batch
    assert torch.equal((~m.mask).nonzero()[:, 1].view(m.ids_keep.shape), m.ids_keep)  # mask and ids tell one story
    assert m.ids_keep.dtype == m.ids_hidden.dtype == torch.int64
    assert torch.equal(torch.cat([m.ids_keep, m.ids_hidden], 1).sort(1).values, torch.arange(tokens).expand(batch, -1))
    same(m, RandomMasker(ratio)(batch, grid, generator=seeded(seed)))
    # from one generator, the masks of the official code: it draws one torch.rand and keeps the smallest
    same(m, RandomMasker.from_noise(torch.rand(batch, tokens, generator=seeded(seed)), tokens - round(ratio * tokens), grid))


@proves(NAME, "property")
@pytest.mark.parametrize("grid", [(1, 1), (1, 9), (16, 16), (1, 257), (3, 5, 7), (8, 14, 14)])
@pytest.mark.parametrize("hidden", [0, 1, -1, -2])
def test_from_none_to_all(grid, hidden):
    tokens = math.prod(grid)
    count = hidden % (tokens + 1)
    m = RandomMasker(count=count)(2, grid)
    assert m.mask.sum(dim=1).tolist() == [count] * 2
    assert m.ids_keep.shape == (2, tokens - count)
    assert m.ids_hidden.shape == (2, count)


@proves(NAME, "property")
def test_rows_and_columns():
    noise = torch.rand(6, 35, generator=seeded())
    m = RandomMasker.from_noise(noise, 9, GRID)
    for b in range(6):
        assert torch.equal(RandomMasker.from_noise(noise[b : b + 1], 9, GRID).mask[0], m.mask[b])
    order = torch.randperm(35, generator=seeded(1))
    assert torch.equal(RandomMasker.from_noise(noise[:, order], 9, GRID).mask, m.mask[:, order])


@proves(NAME, "property")
@pytest.mark.parametrize("draw", ["generator", "indices"])
def test_every_token_and_every_pair_is_as_likely(draw):
    n, tokens, ratio = 20_000, 12, 0.75
    if draw == "generator":
        m = RandomMasker(ratio)(n, (3, 4), generator=seeded())
    else:
        m = RandomMasker(ratio).for_indices(torch.arange(n), (3, 4), seed=0)
    hidden = m.mask.double()
    one = hidden.mean(dim=0)
    two = (hidden.T @ hidden / n)[~torch.eye(tokens, dtype=torch.bool)]
    for found, p in [(one, ratio), (two, 9 * 8 / (tokens * (tokens - 1)))]:
        assert (found - p).abs().max() < 5 * math.sqrt(p * (1 - p) / n)  # 5 standard errors, 144 numbers
    neighbours = (m.mask[1:] & m.mask[:-1]).double().sum(dim=1).mean()  # hidden in one row and the next: 12 * 0.75**2 if independent
    assert neighbours.item() == pytest.approx(tokens * ratio**2, abs=0.05)


@proves(NAME, "property")
def test_for_indices_is_a_function_of_seed_epoch_and_index():
    masker = RandomMasker(0.6)
    whole = masker.for_indices(torch.arange(20), GRID, seed=3, epoch=5)
    order = torch.tensor([7, 0, 19, 7])
    same(masker.for_indices(order, GRID, seed=3, epoch=5), TokenMask.from_ids_keep(whole.ids_keep[order], GRID))
    for other in [{"seed": 4, "epoch": 5}, {"seed": 3, "epoch": 6}]:
        rows = masker.for_indices(torch.arange(20), GRID, **other)
        assert (rows.mask == whole.mask).all(dim=1).sum() == 0
    from sslkit.counter import uniforms

    first = uniforms(20, 35, indices=torch.arange(20), seed=3, epoch=5)  # what an augmentation of the same sample draws
    assert not torch.equal(RandomMasker.from_noise(first, 14, GRID).mask, whole.mask)


@proves(NAME, "compile")
@pytest.mark.parametrize("grid", [(14, 14), (4, 9, 9)])
def test_compiles_in_one_graph_to_the_same_masks(grid):
    torch.compiler.reset()
    masker = RandomMasker()
    indices = torch.arange(5)
    compiled = torch.compile(lambda i: masker.for_indices(i, grid, seed=1), fullgraph=True, backend="aot_eager")
    same(compiled(indices), masker.for_indices(indices, grid, seed=1))
    kept = math.prod(grid) // 4
    noise = torch.randn(5, math.prod(grid), generator=seeded())
    compiled = torch.compile(lambda n: RandomMasker.from_noise(n, kept, grid), fullgraph=True, backend="aot_eager")
    same(compiled(noise), RandomMasker.from_noise(noise, kept, grid))
    same(compiled(noise[:3]), RandomMasker.from_noise(noise[:3], kept, grid))
    torch.manual_seed(0)
    drawn = torch.compile(lambda: masker(5, grid), fullgraph=True, backend="aot_eager")()
    torch.manual_seed(0)
    same(drawn, masker(5, grid))


def test_the_form_for_other_devices_gives_the_same_masks(monkeypatch):
    noise = torch.rand(4, 300, generator=seeded())
    expected = RandomMasker.from_noise(noise, 75, (15, 20))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    same(RandomMasker.from_noise(noise, 75, (15, 20)), expected)


def draw(masker, *, group):
    return masker.for_indices(torch.arange(4), GRID, seed=2).ids_keep


@proves(NAME, "pickle")
def test_copies_draw_the_same():
    masker = RandomMasker(count=11)
    for other in (copy.deepcopy(masker), pickle.loads(pickle.dumps(masker))):
        assert other == masker
        assert torch.equal(draw(other, group=None), draw(masker, group=None))
    (elsewhere,) = run_in_processes(draw, 1, masker)
    assert torch.equal(elsewhere, draw(masker, group=None))
    assert repr(masker) == "RandomMasker(ratio=0.75, count=11)"


@proves(NAME, "errors")
@pytest.mark.parametrize("ratio", [-0.1, 1.0, 75, math.nan])
def test_wrong_ratios(ratio):
    with pytest.raises(ValueError, match=r"RandomMasker: got ratio=.*; expected a ratio in \[0, 1\), the fraction hidden. To mend: divide"):
        RandomMasker(ratio)


@proves(NAME, "errors")
@pytest.mark.parametrize("count", [-1, 1.5, True])
def test_wrong_counts(count):
    with pytest.raises(ValueError, match="RandomMasker: got count=.*; expected a whole number from 0 on"):
        RandomMasker(count=count)
    with pytest.raises(ValueError, match=r"got count=10 on grid \(3, 3\); expected at most 9, its tokens"):
        RandomMasker(count=10)(1, (3, 3))


@proves(NAME, "errors")
@pytest.mark.parametrize("grid", [(4,), (2, 2, 2, 2), (0, 3), (-1, 2), (2.5, 2), 14])
def test_wrong_grids(grid):
    for call in (lambda: RandomMasker()(1, grid), lambda: RandomMasker().for_indices(torch.arange(2), grid, seed=0)):
        with pytest.raises(ValueError, match=r"got grid .*; expected \(h, w\) or \(t, h, w\), positive whole numbers. To mend"):
            call()


@proves(NAME, "errors")
def test_wrong_calls():
    with pytest.raises(ValueError, match="got batch=-1; expected 0 or more"):
        RandomMasker()(-1, GRID)
    with pytest.raises(ValueError, match=r"RandomMasker.for_indices: got indices \[2, 2\]; expected \[batch\]"):
        RandomMasker().for_indices(torch.zeros(2, 2, dtype=torch.int64), GRID, seed=0)
    with pytest.raises(TypeError, match="got indices of dtype torch.float32; expected integers"):
        RandomMasker().for_indices(torch.zeros(2), GRID, seed=0)
    with pytest.raises(ValueError, match=r"got kept=36; expected 0..35, the tokens of grid \(5, 7\)"):
        RandomMasker.from_noise(torch.rand(2, 35), 36, GRID)
    with pytest.raises(ValueError, match="got noise .2, 34. with an axis=34; expected an axis=35"):
        RandomMasker.from_noise(torch.rand(2, 34), 3, GRID)
    with pytest.raises(TypeError, match="got noise of dtype torch.int64; expected a floating dtype"):
        RandomMasker.from_noise(torch.zeros(2, 35, dtype=torch.int64), 3, GRID)


def test_a_generator_draws_where_it_lives_and_the_mask_moves():
    m = RandomMasker()(2, GRID, generator=seeded(), device="meta")
    assert m.mask.device.type == m.ids_keep.device.type == "meta"
    assert RandomMasker()(2, GRID, device="meta").mask.device.type == "meta"
    assert RandomMasker()(2, GRID, device="cpu").mask.device.type == "cpu"
    with torch._subclasses.FakeTensorMode():
        m = RandomMasker()(2, GRID)
    assert m.ids_keep.shape == (2, 9)
    assert not np.any([m.mask.requires_grad, m.ids_keep.requires_grad])
