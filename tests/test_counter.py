"""Counter-based draws: the published check values, independence of everything but (seed, epoch, sample, slot), and evenness."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkit.counter import bits, integer, keys, mix, permutation, stream, uniform, uniforms
from sslkit.testing import proves


@proves("counter.mix", "golden")
@proves("counter.keys", "golden")
@proves("counter.uniform", "golden")
@proves("counter.integer", "golden")
def test_check_values():
    assert mix(torch.tensor([0, 1, 2, 12345, 2**32 - 1])).tolist() == [0, 1753845952, 3507691905, 2435775735, 1734902346]
    key = keys(torch.arange(4), stream(0))
    assert key.tolist() == [218692842, 1372949003, 1676441168, 1244325726]
    assert uniform(key, 0).tolist() == pytest.approx([0.247247, 0.799307, 0.878927, 0.781963], abs=1e-6)
    assert uniform(key, 1, torch.float64).tolist() == pytest.approx([0.361289, 0.530934, 0.774093, 0.783833], abs=1e-6)
    assert integer(key, 0, 12).tolist() == [2, 9, 10, 9]
    assert integer(key, 1, 8).tolist() == [2, 4, 6, 6]


@proves("counter.mix", "property")
@given(x=st.integers(0, 2**32 - 1))
def test_a_number_and_a_tensor_mix_alike(x):
    assert mix(x) == mix(torch.tensor(x)).item() < 2**32


def test_mix_is_one_to_one_on_a_stretch():
    x = torch.arange(2**18)
    assert mix(x * 16001 % 2**32).unique().numel() == x.numel()


@proves("counter.uniforms", "property")
@proves("counter.keys", "property")
@given(seed=st.integers(-5, 2**40), epoch=st.integers(0, 1000), rows=st.integers(1, 20))
def test_a_row_depends_on_its_own_index_alone(seed, epoch, rows):
    indices = torch.arange(100, 100 + rows)
    table = uniforms(rows, 5, indices=indices, seed=seed, epoch=epoch)
    one = uniforms(1, 2, indices=indices[-1:], seed=seed, epoch=epoch, offset=3)
    assert torch.equal(table[-1:, 3:], one)
    assert not torch.equal(table, uniforms(rows, 5, indices=indices, seed=seed, epoch=epoch + 1))
    assert ((table >= 0) & (table < 1)).all()


@proves("counter.bits", "property")
@proves("counter.integer", "property")
@proves("counter.stream", "property")
@given(seed=st.integers(0, 2**31), part=st.integers(0, 5000), slot=st.integers(0, 999), n=st.integers(1, 2**31))
def test_integers_are_the_upper_end_of_the_bits(seed, part, slot, n):
    key = keys(torch.arange(3), stream(seed, part))
    assert integer(key, slot, n).tolist() == [b * n // 2**32 for b in bits(key, slot).tolist()]
    assert stream(seed, part) != stream(seed, part + 1) != stream(seed + 1, part)


def test_draws_are_even_and_slots_uncorrelated():
    table = uniforms(20_000, 8, indices=torch.arange(20_000), seed=3)
    assert (table.mean(dim=0) - 0.5).abs().max() < 5 / 12**0.5 / 20_000**0.5
    assert (torch.corrcoef(table.T) - torch.eye(8)).abs().max() < 5 / 20_000**0.5


@proves("counter.uniform", "property")
def test_the_largest_bits_stay_below_one():
    key = torch.arange(2**16)
    assert uniform(key, torch.arange(64)[:, None]).max() < 1


def test_a_generator_draws_reproducibly(generator):
    first = uniforms(3, 2, generator=generator)
    assert torch.equal(first, uniforms(3, 2, generator=torch.Generator().manual_seed(0)))


@proves("counter.permutation", "property")
@given(n=st.integers(1, 300), seed=st.integers(0, 9), epoch=st.integers(0, 9))
def test_permutation_is_one(n, seed, epoch):
    order = permutation(n, seed=seed, epoch=epoch)
    assert torch.equal(order.sort().values, torch.arange(n))
    assert n < 20 or not torch.equal(order, permutation(n, seed=seed, epoch=epoch + 1))


@proves("counter.uniform", "errors")
def test_16_bit_floats_would_round_up_to_one():
    with pytest.raises(ValueError, match="got dtype=torch.float16; expected torch.float32 or torch.float64. To mend: draw in float32"):
        uniform(torch.arange(3), 0, torch.float16)


@proves("counter.uniforms", "errors")
@proves("counter.keys", "errors")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": 1}, "got seed without indices; expected generator=, or indices= with seed="),
        ({"indices": torch.arange(3)}, "got indices without a seed"),
        ({"indices": torch.arange(3), "seed": 1, "generator": torch.Generator()}, "got indices with a generator"),
        ({"indices": torch.arange(4), "seed": 1}, r"got indices \[4\]; expected \[3\], one a sample"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        uniforms(3, 2, **arguments)
    with pytest.raises(TypeError, match="indices of dtype torch.float32; expected integers"):
        keys(torch.ones(3), 0)
