"""The memory bank: official numbers, the loop, resumed, equal on every process."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from sslkit.modules import MemoryBank
from sslkit.testing import compiles, pickles, proves, run_in_processes

NAME = "modules.MemoryBank"


def bank(size=9, dim=4, **options):
    return MemoryBank(size, dim, generator=torch.Generator().manual_seed(0), **options)


@proves(NAME, "golden")
def test_official_similarities_and_update(golden):
    g = golden("memory_bank")
    x, memory = g.tensor("x"), g.tensor("memory")
    got = MemoryBank(*memory.shape, momentum=g.number("momentum"))
    got.rows.copy_(memory)
    torch.testing.assert_close(got(x, g.tensor("idx")) / g.number("temperature"), g.tensor("logits"), rtol=1e-5, atol=1e-5)
    got.update(g.tensor("y"), x)
    torch.testing.assert_close(got.rows, g.tensor("memory_after"), rtol=1e-5, atol=1e-6)


@proves(NAME, "loop", "property")
@given(batch=st.integers(0, 5), momentum=st.floats(0, 1), drawn=st.integers(1, 6), seed=st.integers(0, 99))
def test_equals_the_loop(batch, momentum, drawn, seed):
    generator = torch.Generator().manual_seed(seed)
    got = bank(momentum=momentum)
    indices, z = torch.randperm(9, generator=generator)[:batch], torch.randn(batch, 4, generator=generator)
    candidates = got.candidates(indices, drawn, generator=generator)
    assert torch.equal(candidates[:, 0], indices)
    assert candidates.shape == (batch, 1 + drawn)
    assert ((candidates >= 0) & (candidates < 9)).all()
    expected = got.rows.clone()
    similarity = got(z, candidates)
    for b in range(batch):
        for k in range(1 + drawn):
            torch.testing.assert_close(similarity[b, k], functional.normalize(z[b], dim=0) @ expected[candidates[b, k]])
    for b, i in enumerate(indices.tolist()):
        expected[i] = functional.normalize(momentum * expected[i] + (1 - momentum) * functional.normalize(z[b], dim=0), dim=0)
    got.update(indices, z)
    torch.testing.assert_close(got.rows, expected)


class FromTheEnd(TorchDispatchMode):
    """A device that writes rows in the opposite order: there the first of equal numbers would win."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.index_copy_.default:
            rows, dim, ids, values = args
            args = rows, dim, ids.flip(0), values.flip(0)
        return func(*args, **(kwargs or {}))


@proves(NAME, "property", "loop")
@given(indices=st.lists(st.integers(0, 3), max_size=8), dtype=st.sampled_from([torch.int64, torch.int32]), seed=st.integers(0, 99))
def test_of_a_picture_that_comes_again_the_last_counts_in_whatever_order_rows_are_written(indices, dtype, seed):
    z = torch.randn(len(indices), 4, generator=torch.Generator().manual_seed(seed))
    one, other = bank(), bank()
    expected = one.rows.clone()
    for i, last in dict(zip(indices, z, strict=True)).items():
        expected[i] = functional.normalize(0.5 * expected[i] + 0.5 * functional.normalize(last, dim=0), dim=0)
    one.update(torch.tensor(indices, dtype=dtype), z)
    with FromTheEnd():
        other.update(torch.tensor(indices, dtype=dtype), z)
    torch.testing.assert_close(one.rows, expected)
    assert torch.equal(one.rows, other.rows)


@proves(NAME, "property")
def test_a_zero_row_moves_nothing_and_has_a_bounded_gradient():
    """1 / eps of the norm, 1e6, and not torch's 1e12."""
    z, got = torch.zeros(2, 4, requires_grad=True), bank()
    before = got.rows.clone()
    (gradient,) = torch.autograd.grad(got(z, torch.tensor([[0, 1], [2, 3]])).sum(), z)
    assert 1e5 < gradient.abs().max() < 2e6
    got.update(torch.arange(2), z)
    torch.testing.assert_close(got.rows, before)


@proves(NAME, "property")
def test_draws_of_a_picture_do_not_depend_on_its_batch():
    got, indices = bank(size=1000), torch.tensor([7, 3, 500])
    whole = got.candidates(indices, 200, seed=1, epoch=2)
    parts = [got.candidates(indices[part], 200, seed=1, epoch=2) for part in (slice(0, 1), slice(1, 3))]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(got.candidates(indices, 200, seed=1, epoch=3), whole)
    assert 400 < whole[:, 1:].float().mean() < 600


@proves(NAME, "property", "gradcheck", "half")
def test_gradient_flows_into_the_embedding_alone_and_survives_an_update(generator):
    got = bank().double()
    z, indices = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True), torch.arange(3)
    candidates = got.candidates(indices, 5, generator=generator)
    similarity = got(z, candidates)
    (before,) = torch.autograd.grad(similarity.sum(), z, retain_graph=True)
    got.update(indices, z)
    (after,) = torch.autograd.grad(similarity.sum(), z)
    assert torch.equal(before, after)
    assert torch.autograd.gradcheck(lambda z: got(z, candidates), z)
    for dtype in (torch.float16, torch.bfloat16):
        narrow, plain = z.detach().to(dtype), bank()
        assert torch.equal(plain(narrow, candidates), plain(narrow.float(), candidates))
        with torch.autocast("cpu", dtype):
            assert torch.equal(plain(narrow, candidates), plain(narrow.float(), candidates))


@proves(NAME, "resume", "pickle", "compile")
def test_a_resumed_bank_goes_on_exactly(generator):
    one, other = bank(), MemoryBank(9, 4)
    z = torch.randn(2, 3, 4, generator=generator)
    one.update(torch.tensor([1, 2, 3]), z[0])
    other.load_state_dict(one.state_dict())
    for each in (one, other):
        each.update(torch.tensor([3, 4, 5]), z[1])
    assert torch.equal(one.rows, other.rows)
    inputs = (z[0], torch.tensor([[0, 1], [2, 3], [4, 5]]))
    pickles(bank(), inputs)
    compiles(bank(), inputs)


def rank_update(indices, z, *, group):
    got, rank = bank(), torch.distributed.get_rank(group)
    got.update(indices[rank], z[rank], group)
    return got.rows


@proves(NAME, "worlds")
@pytest.mark.parametrize("cut", [[2, 4], [1, 0, 5]])
@pytest.mark.parametrize("twice", [False, True])
def test_the_banks_of_all_processes_stay_equal(cut, twice, generator):
    """Also where a picture comes on two ranks: then the later rank's counts, as in one process the later row."""
    indices, z = torch.randperm(9, generator=generator)[:6], torch.randn(6, 4, generator=generator)
    if twice:
        indices[3:] = indices[:3]
    whole = bank()
    whole.update(indices, z)
    for rows in run_in_processes(rank_update, len(cut), indices.split(cut), z.split(cut)):
        assert torch.equal(rows, whole.rows)


@proves(NAME, "errors")
def test_errors():
    with pytest.raises(ValueError, match=r"MemoryBank: got momentum=1.5; expected momentum in \[0, 1\]"):
        MemoryBank(3, 2, momentum=1.5)
    with pytest.raises(ValueError, match="MemoryBank: got size=0"):
        MemoryBank(0, 2)
    with pytest.raises(ValueError, match=r"MemoryBank: got rows \[9, 4\] with dim=4; expected dim=5 as in z"):
        bank()(torch.zeros(2, 5), torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"MemoryBank.update: got z of dtype torch.int64"):
        bank().update(torch.arange(2), torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="uniforms: got indices with a generator"):
        bank().candidates(torch.arange(2), 3, generator=torch.Generator(), seed=0)


@proves(NAME, "errors")
@pytest.mark.parametrize("call", ["candidates", "update", "forward"])
def test_numbers_that_are_no_pictures(call):
    """A float would be rounded, a bool is a mask, -1 would be the last picture."""
    got, z = bank(), torch.zeros(2, 4)
    where = "MemoryBank" if call == "forward" else f"MemoryBank.{call}"
    use = {"candidates": lambda i: got.candidates(i, 3), "update": lambda i: got.update(i, z), "forward": lambda i: got(z, i[:, None])}[
        call
    ]
    for wrong in (torch.zeros(2), torch.zeros(2, dtype=torch.bool), torch.zeros(2, dtype=torch.uint8)):
        with pytest.raises(TypeError, match=rf"{where}: got (indices|candidates) of dtype {wrong.dtype}; expected int64 or int32"):
            use(wrong)
    for wrong in (torch.tensor([-1, 2]), torch.tensor([-1, 9]), torch.tensor([-1, 8], dtype=torch.int32)):
        with pytest.raises(IndexError, match=rf"{where}: got (indices|candidates) from -1 to {wrong[1]}; expected 0 to 8"):
            use(wrong)
