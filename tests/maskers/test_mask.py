"""TokenMask: one story told by mask and ids, what it does with tokens, and how it travels."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils.collate import default_collate

from sslkit.maskers import RandomMasker, TokenMask
from sslkit.testing import grids, masks, proves, run_in_processes

NAME = "maskers.TokenMask"
GRID = (3, 4)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def mask():
    return RandomMasker(count=7)(3, GRID, generator=seeded())


def tokens_of(mask, prefix=0, dim=5):
    return torch.randn(mask.mask.shape[0], prefix + mask.mask.shape[1], dim, generator=seeded(1))


@proves(NAME, "loop", "property")
@settings(max_examples=50)
@given(flags=masks(), prefix=st.integers(0, 2), seed=st.integers(0, 99))
def test_a_mask_by_hand_like_a_loop(flags, prefix, seed):
    batch, tokens = flags.shape
    m = TokenMask(flags, (1, tokens))
    x = torch.randn(batch, prefix + tokens, 3, generator=seeded(seed))
    token = torch.randn(3, generator=seeded(seed + 1))
    keep, hidden, replaced = m.keep(x, prefix), m.hidden(x, prefix), m.replace(x, token, prefix)
    restored = m.restore(keep, token, prefix)
    places = torch.randn(prefix + tokens, 3, generator=seeded(seed + 2))
    assert torch.equal(m.restore(keep, token, prefix, positions=places), restored + places)
    for b in range(batch):
        visible = [n for n in range(tokens) if not flags[b, n]]
        masked = [n for n in range(tokens) if flags[b, n]]
        assert m.ids_keep[b].tolist() == visible
        assert m.ids_hidden[b].tolist() == masked
        front = list(range(prefix))
        assert torch.equal(keep[b], x[b, front + [prefix + n for n in visible]])
        assert torch.equal(hidden[b], x[b, front + [prefix + n for n in masked]])
        for n in range(prefix + tokens):
            expected = token if n >= prefix and flags[b, n - prefix] else x[b, n]
            assert torch.equal(restored[b, n], expected)
            assert torch.equal(replaced[b, n], expected)


@proves(NAME, "property")
@settings(max_examples=30)
@given(flags=masks())
def test_from_ids_in_any_order(flags):
    by_hand = TokenMask(flags, (1, flags.shape[1]))
    shuffled = by_hand.ids_keep.flip(1)
    for ids in (shuffled, shuffled.int()):
        m = TokenMask.from_ids_keep(ids, by_hand.grid)
        assert torch.equal(m.mask, flags)
        assert torch.equal(m.ids_keep, by_hand.ids_keep)
        assert torch.equal(m.ids_hidden, by_hand.ids_hidden)
    asked_backwards = TokenMask(flags, by_hand.grid)
    assert torch.equal(asked_backwards.ids_hidden, by_hand.ids_hidden)
    assert torch.equal(asked_backwards.ids_keep, by_hand.ids_keep)


class Looks(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts what would make a GPU wait."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.equal.default):
            self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@proves(NAME, "property")
def test_nothing_of_known_count_looks_at_values():
    ids = torch.rand(3, 12, generator=seeded()).argsort(dim=1)[:, :5]
    on_device = torch.empty(3, 12, 5, device="meta")  # has no values: whatever looks at one fails
    with Looks() as looks:
        m = TokenMask.from_ids_keep(ids, GRID)
        assert m.ids_keep.shape == (3, 5)
        assert m.ids_hidden.shape == (3, 7)
        m.resize((6, 8)).ids_hidden  # noqa: B018
    assert looks.names == []
    m = m.to("meta")
    token = torch.empty(5, device="meta")
    assert m.replace(m.restore(m.keep(on_device), token), token).shape == (3, 12, 5)
    assert m.hidden(on_device).shape == (3, 7, 5)
    assert m.resize((6, 8)).ids_keep.shape == (3, 20)
    assert "hidden=7" in repr(m)


@proves(NAME, "property")
def test_by_hand_it_looks_once(monkeypatch):
    m = TokenMask(torch.arange(24).view(2, 12) % 2 == 0, GRID)
    looks = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: looks.append(self.shape) or tolist(self))
    for _ in range(2):
        assert m.ids_keep.shape == m.ids_hidden.shape == (2, 6)
    assert looks == [(2,)]
    assert m.ids_keep is m.ids_keep


def test_frozen_and_compared_by_identity(mask):
    with pytest.raises(AttributeError):
        mask.grid = (1, 12)
    assert mask == mask
    assert mask != copy.deepcopy(mask)
    assert len({mask, mask, copy.deepcopy(mask)}) == 2
    assert repr(mask) == "TokenMask(batch=3, grid=(3, 4), hidden=7, device='cpu')"
    assert repr(TokenMask(mask.mask, list(GRID))) == "TokenMask(batch=3, grid=(3, 4), device='cpu')"


@proves(NAME, "property")
def test_gradients_reach_kept_tokens_alone(mask):
    x = tokens_of(mask, prefix=1).requires_grad_()
    mask.keep(x, 1).sum().backward()
    assert torch.equal(x.grad[:, 1:, 0] == 0, mask.mask)
    assert (x.grad[:, 0] == 1).all()


@proves(NAME, "property")
def test_nothing_hidden_leaks_through_replace(mask):
    x = tokens_of(mask).masked_fill(mask.mask[..., None], math.nan)
    token = torch.zeros(5)
    assert mask.replace(x, token).isfinite().all()
    assert mask.keep(x).isfinite().all()


@proves(NAME, "property")
@settings(max_examples=40)
@given(grid=grids(side=(1, 4)), data=st.data(), seed=st.integers(0, 99))
def test_resize_up_and_down(grid, data, seed):
    factors = [data.draw(st.integers(1, 3)) for _ in grid]
    large = tuple(n * f for n, f in zip(grid, factors, strict=True))
    m = RandomMasker(0.5)(2, grid, generator=seeded(seed))
    up = m.resize(large)
    expected = m.mask.view(2, *grid)
    for axis, factor in enumerate(factors, start=1):
        expected = expected.repeat_interleave(factor, dim=axis)
    assert torch.equal(up.mask, expected.flatten(1))
    by_hand = TokenMask(up.mask, large)
    assert torch.equal(up.ids_keep, by_hand.ids_keep)
    assert torch.equal(up.ids_hidden, by_hand.ids_hidden)
    for reduce in ("any", "all"):
        assert torch.equal(up.resize(grid, reduce).mask, m.mask)
        fine = TokenMask(torch.rand(2, math.prod(large), generator=seeded(seed)) < 0.5, large)
        cells = fine.mask.view(2, *(n for pair in zip(grid, factors, strict=True) for n in pair))
        for axis in range(len(grid), 0, -1):
            cells = getattr(cells, reduce)(dim=2 * axis)
        assert torch.equal(fine.resize(grid, reduce).mask, cells.flatten(1))


@proves(NAME, "property")
def test_resize_to_the_nearest_and_both_ways():
    m = TokenMask(torch.tensor([[True, False, False]]), (1, 3))
    assert m.resize((1, 5)).mask.tolist() == [[True, True, False, False, False]]  # floor(i * 3 / 5) = 0 0 1 1 2
    m = TokenMask(torch.tensor([[True, False, False, False]]), (2, 2))
    assert m.resize((1, 4), "any").mask.tolist() == [[True, True, False, False]]
    assert m.resize((1, 4), "all").mask.tolist() == [[False] * 4]


@proves(NAME, "compile")
def test_compiles_as_argument_and_result(mask):
    torch.compiler.reset()

    def step(x, m, token):
        visible = m.keep(x, 1)
        larger = m.resize((6, 8))
        return m.restore(visible, token, 1) + m.replace(x, token, 1), m.hidden(x, 1), larger, TokenMask.from_ids_keep(m.ids_keep, GRID)

    x, token = tokens_of(mask, prefix=1).requires_grad_(), torch.randn(5).requires_grad_()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for m in (mask, RandomMasker(count=7)(3, GRID, generator=seeded(4))):
        expected, got = step(x, m, token), compiled(x, m, token)
        for a, b in zip(got[:2], expected[:2], strict=True):
            torch.testing.assert_close(a, b)
        for a, b in zip(got[2:], expected[2:], strict=True):
            assert a.grid == b.grid
            assert torch.equal(a.mask, b.mask)
            assert torch.equal(a.ids_keep, b.ids_keep)
        wanted = torch.autograd.grad(expected[0].square().sum(), (x, token))
        for a, b in zip(torch.autograd.grad(got[0].square().sum(), (x, token)), wanted, strict=True):
            torch.testing.assert_close(a, b)


def test_a_pytree(mask):
    from torch.utils import _pytree

    leaves, spec = _pytree.tree_flatten({"m": mask})
    assert [leaf.shape for leaf in leaves] == [(3, 12), (3, 5)]
    back = _pytree.tree_unflatten(leaves, spec)["m"]
    assert back.grid == GRID
    assert back.ids_keep is mask.ids_keep
    assert _pytree.treespec_loads(_pytree.treespec_dumps(spec)) == spec
    by_hand = _pytree.tree_map(lambda t: t, TokenMask(mask.mask, GRID))
    assert torch.equal(by_hand.ids_keep, mask.ids_keep)
    assert _pytree.tree_map(lambda t: None, mask).mask is None  # leaves need not be tensors

    class Model(torch.nn.Module):
        def forward(self, x, m):
            return m.keep(x)

    x = tokens_of(mask)
    exported = torch.export.export(Model(), (x, mask)).module()
    assert torch.equal(exported(x, mask), mask.keep(x))


def test_moves_and_pins(mask, monkeypatch):
    mask.ids_hidden  # noqa: B018
    there = mask.to("meta", non_blocking=True)
    assert there.mask.device.type == there.ids_keep.device.type == there.ids_hidden.device.type == "meta"
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *device: pinned.append(device) or self)
    assert torch.equal(mask.pin_memory().ids_keep, mask.ids_keep)
    assert torch.equal(mask.pin_memory("cuda").mask, mask.mask)
    assert pinned == [(), (), ("cuda",), ("cuda",)]


class Samples(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, i):
        return torch.full((2,), float(i)), RandomMasker().for_indices(torch.tensor([i]), GRID, seed=1)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_data_loader_joins_masks(workers):
    whole = RandomMasker().for_indices(torch.arange(6), GRID, seed=1)
    batches = list(DataLoader(Samples(), batch_size=3, num_workers=workers, multiprocessing_context="spawn" if workers else None))
    assert torch.equal(torch.cat([x for x, _ in batches])[:, 0], torch.arange(6.0))
    joined = TokenMask.collate([m for _, m in batches])
    assert joined.grid == GRID
    assert torch.equal(joined.mask, whole.mask)
    assert torch.equal(joined.ids_keep, whole.ids_keep)
    assert "hidden=9" in repr(joined)


def test_collate_of_unknown_or_unequal_counts(mask):
    ragged = TokenMask.collate([mask, RandomMasker(count=2)(1, GRID)])
    assert ragged.mask.shape == (4, 12)
    assert "hidden" not in repr(ragged)
    joined = default_collate([TokenMask(mask.mask, GRID), mask])
    assert torch.equal(joined.ids_keep, torch.cat([mask.ids_keep] * 2))
    with pytest.raises(ValueError, match=r"TokenMask.collate: got grids \[\(3, 4\), \(4, 3\)\]; expected masks on one grid"):
        TokenMask.collate([mask, RandomMasker()(1, (4, 3))])


def arrived(mask, *, group):
    return mask.mask, mask.ids_keep, mask.ids_hidden


@proves(NAME, "pickle")
def test_copies_say_the_same(mask):
    expected = arrived(mask, group=None)
    answers = [arrived(m, group=None) for m in (copy.deepcopy(mask), pickle.loads(pickle.dumps(mask)), copy.copy(mask))]
    (elsewhere,) = run_in_processes(arrived, 1, mask)
    for answer in [*answers, elsewhere]:
        assert all(torch.equal(a, b) for a, b in zip(answer, expected, strict=True))


@proves(NAME, "errors")
def test_rows_that_differ_in_count_name_the_remedy():
    m = TokenMask(torch.tensor([[True, False], [True, True]]), (1, 2))
    for ask in (lambda: m.ids_keep, lambda: m.ids_hidden, lambda: m.keep(torch.ones(2, 2, 1))):
        with pytest.raises(
            ValueError, match="got rows that hide from 1 to 2 tokens; expected one count in every row. To mend: use a masker"
        ):
            ask()
    assert m.replace(torch.ones(2, 2, 1), torch.zeros(1)).flatten().tolist() == [0, 1, 0, 0]
    empty = TokenMask(torch.zeros(0, 6, dtype=torch.bool), (2, 3))
    assert empty.ids_keep.shape == (0, 6)


@proves(NAME, "errors")
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TokenMask(torch.zeros(2, 12), GRID), r"got mask of dtype torch.float32; expected torch.bool, True = hidden"),
        (lambda: TokenMask(torch.zeros(2, 11, dtype=torch.bool), GRID), r"got mask \[2, 11\] with an axis=11; expected an axis=12"),
        (lambda: TokenMask(torch.zeros(12, dtype=torch.bool), GRID), r"got mask \[12\], 1 axes"),
        (lambda: TokenMask(torch.zeros(2, 12, dtype=torch.bool), (12,)), r"got grid \(12,\); expected \(h, w\) or \(t, h, w\)"),
        (lambda: TokenMask.from_ids_keep(torch.zeros(1, 13, dtype=torch.int64), GRID), "got 13 ids a row; expected at most 12"),
        (lambda: RandomMasker()(2, GRID).resize((4, 4, 4)), r"expected as many axes, each larger or a whole fraction"),
        (lambda: RandomMasker()(2, GRID).resize((2, 4), "any"), r"got grid \(2, 4\) from \(3, 4\)"),
        (lambda: RandomMasker()(2, GRID).resize((3, 2)), r'reduce=None; expected reduce="any" or "all"'),
        (lambda: RandomMasker()(2, GRID).resize((3, 2), "some"), r'reduce=\'some\'; expected reduce="any" or "all"'),
        (lambda: RandomMasker()(2, GRID).keep(torch.ones(2, 13, 4)), r"got x \[2, 13, 4\] with prefix=0; expected \[2, 0 \+ 12, dim\]"),
        (lambda: RandomMasker()(2, GRID).replace(torch.ones(2, 12), torch.ones(1)), r"got x \[2, 12\] with prefix=0"),
    ],
)
def test_wrong_input(build, message):
    with pytest.raises(ValueError, match=message):
        build()
    with pytest.raises(TypeError, match="got ids of dtype torch.float32; expected int64 or int32"):
        TokenMask.from_ids_keep(torch.zeros(1, 3), GRID)
