"""The kernels on tokens equal their references: values, gradients and second gradients."""

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.kernels.fused.conftest import INTERPRETED
from tests.kernels.operations import OPERATIONS, double_gradients, seeded, unique_ids, value_and_gradients

from sslkit.kernels import explain, gather_tokens, scatter_tokens

FUSED = ("gather_tokens", "scatter_tokens")
every = pytest.mark.parametrize("name", FUSED)
# The interpreter cuts bf16 off where GPUs round it: one unit in the last place.
ULP = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 2**-7 if INTERPRETED else 2**-8}


def same(got, expected, tolerance):
    assert (got.shape, got.dtype, got.stride()) == (expected.shape, expected.dtype, expected.stride())
    torch.testing.assert_close(got.float(), expected.float(), rtol=tolerance, atol=tolerance)


def on(device, function, inputs):
    return [x.detach().to(device).requires_grad_(x.requires_grad) for x in inputs]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FUSED), batch=st.integers(0, 3), tokens=st.integers(0, 9), share=st.floats(0, 1), dim=st.integers(1, 40),
       prefix=st.integers(0, 2), wanted=st.integers(0, 7), id_type=st.sampled_from([torch.int64, torch.int32]),
       seed=st.integers(0, 99))  # fmt: skip
@example(name="gather_tokens", batch=2, tokens=3, share=1.0, dim=300, prefix=2, wanted=7, id_type=torch.int64, seed=0)
@example(name="scatter_tokens", batch=5, tokens=3, share=0.0, dim=300, prefix=2, wanted=7, id_type=torch.int32, seed=0)
@example(name="scatter_tokens", batch=0, tokens=3, share=1.0, dim=4, prefix=0, wanted=7, id_type=torch.int32, seed=0)
def test_equals_the_reference(device, name, batch, tokens, share, dim, prefix, wanted, id_type, seed):
    """Every subset of gradients, all sizes off the blocks', ids of both kinds; in float32 to its last digit."""
    ids = unique_ids(batch, tokens, round(share * tokens), seed, id_type).to(device)
    g = seeded(seed)
    if name == "gather_tokens":
        shapes = [(batch, tokens, dim), (tokens, dim), (prefix, dim)]

        def function(x, positions, front, backend):
            return gather_tokens(x, ids, positions=positions, prefix=front if prefix else None, backend=backend) + 0 * front.sum()
    else:
        shapes = [(batch, prefix + ids.shape[1], dim), (dim,), (prefix + tokens, dim)]

        def function(x, token, positions, backend):
            return scatter_tokens(x, ids, tokens, token, positions=positions, prefix=prefix, backend=backend)

    inputs = [torch.randn(s, generator=g).to(device).requires_grad_(bool(wanted >> i & 1)) for i, s in enumerate(shapes)]
    results = [value_and_gradients(lambda *leaves, b=backend: function(*leaves, backend=b), inputs) for backend in ("fused", "reference")]
    for got, expected in zip(*results, strict=True):
        same(got, expected, 1e-6)


@every
@pytest.mark.parametrize("types", [(a, b) for a in ULP for b in ULP], ids=str)
def test_every_pair_of_dtypes(device, name, types):
    """Tokens of one dtype, parameters of another, and every dtype asked for: computed in float32, rounded once."""
    inputs, function = OPERATIONS[name](dim=20)
    first, rest = types
    leaves = on(device, function, [x.detach().to(first if i == 0 else rest).requires_grad_() for i, x in enumerate(inputs)])
    moved = _moved(name, device)
    for out_dtype in (None, *ULP):
        options = {"out_dtype": out_dtype}
        got, expected = (value_and_gradients(lambda *x, o=options, b=b: moved(*x, backend=b, **o), leaves) for b in ("fused", "reference"))
        for a, b in zip(got, expected, strict=True):
            same(a, b, max(ULP[a.dtype], ULP[got[0].dtype]))


def _moved(name, device):
    """The operation of tests/kernels/operations.py with its ids on the device."""
    ids = unique_ids(3, 7, 3).to(device)
    if name == "gather_tokens":
        return lambda x, positions, prefix, **o: gather_tokens(x, ids, positions=positions, prefix=prefix, **o)
    return lambda x, token, positions, **o: scatter_tokens(x, ids, 7, token, positions=positions, prefix=2, **o)


@every
def test_second_gradients(device, name):
    inputs, _ = OPERATIONS[name](dtype=torch.float32)
    leaves, moved = on(device, None, inputs), _moved(name, device)
    pair = [double_gradients(lambda *x, b=b: moved(*x, backend=b), leaves) for b in ("fused", "reference")]
    for got, expected in zip(*pair, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@every
@pytest.mark.parametrize("layout", ["slice", "offset", "transposed", "every second", "expanded"])
def test_strides(device, name, layout):
    """Slices are read where they are, other layouts are copied; a misaligned start loses speed, not numbers."""
    batch, tokens, dim, prefix = 3, 7, 24, 2
    length = tokens if name == "gather_tokens" else prefix + 3
    base = torch.randn(batch, length + 1, 2 * dim + 1, generator=seeded()).to(device)
    x = {
        "slice": base[:, 1:, :dim].contiguous(),
        "offset": base[:, 1:, 1 : dim + 1],
        "transposed": base[:, :length, :dim].transpose(0, 1).contiguous().transpose(0, 1),
        "every second": base[:, :length, 1 : 2 * dim + 1 : 2],
        "expanded": base[:1, :length, :dim].expand(batch, -1, -1),
    }[layout]
    if layout == "slice":
        x = torch.cat([x[:, :1], x], dim=1)[:, 1:]
    table = torch.randn(prefix + tokens, 2 * dim, generator=seeded(1)).to(device)
    wide_ids = unique_ids(batch, tokens, 6).to(device)
    for ids in (wide_ids[:, :3], wide_ids[:, ::2], wide_ids[:1, :3].expand(batch, -1)):
        if name == "gather_tokens":
            arguments, options = (x, ids), {"positions": table[:tokens, ::2], "prefix": table[2:4, :dim]}
        else:
            arguments, options = (x, ids, tokens, table[0, ::2]), {"positions": table[:, 3 : 3 + dim], "prefix": prefix}
        function = gather_tokens if name == "gather_tokens" else scatter_tokens
        same(function(*arguments, **options, backend="fused"), function(*arguments, **options, backend="reference"), 1e-6)


@every
def test_offsets_beyond_two_to_the_31(device, name):
    """Samples 2^31 + 64 numbers apart, in memory of which only a few pages are ever touched."""
    memory = torch.empty(2 * (2**31 + 64) + 64, dtype=torch.float16, device=device)
    x = memory.as_strided((3, 4, 16), (2**31 + 64, 16, 1))
    x.copy_(torch.randn(3, 4, 16, generator=seeded()))
    ids = unique_ids(3, 4, 4).to(device)
    if name == "gather_tokens":
        same(gather_tokens(x, ids, backend="fused"), gather_tokens(x.clone(), ids, backend="reference"), 0)
    else:
        token = x[2, 3].clone()
        same(scatter_tokens(x, ids, 4, token, backend="fused"), scatter_tokens(x.clone(), ids, 4, token, backend="reference"), 0)


def test_a_foreign_id_reads_nothing():
    """Where the reference would raise, the kernel gives NaN: no memory of others is read, and the mistake is loud."""
    device = "cpu" if INTERPRETED else "cuda"
    x = torch.randn(2, 5, 8, generator=seeded()).to(device)
    ids = torch.tensor([[0, 5, -1], [2**40, 3, -(2**40)]], device=device)
    out = gather_tokens(x, ids, backend="fused")
    assert torch.equal(out[0, 0], x[0, 0])
    assert torch.equal(out[1, 1], x[1, 3])
    assert out.isnan().any(dim=2).tolist() == [[False, True, True], [True, False, True]]


@every
def test_hidden_numbers_never_leak(device, name):
    """NaN in a token that is not kept, or in the mask token when nothing is hidden, reaches neither the result nor a gradient."""
    ids = torch.tensor([[0, 2]], device=device)
    x = torch.randn(1, 3, 8, generator=seeded()).to(device)
    if name == "gather_tokens":
        x[:, 1] = float("nan")
        x.requires_grad_()
        out = gather_tokens(x, ids, backend="fused")
        (to_x,) = torch.autograd.grad(out.sum(), x)
        assert to_x[0].sum(dim=1).tolist() == [8, 0, 8]
    else:
        token = torch.full((8,), float("nan"), device=device, requires_grad=True)
        out = scatter_tokens(x, torch.tensor([[2, 0, 1]], device=device), 3, token, backend="fused")
        (to_token,) = torch.autograd.grad(out.sum(), token)
        assert to_token.eq(0).all()
    assert out.isfinite().all()


@every
def test_what_cannot_run_says_so(device, name):
    inputs, _ = OPERATIONS[name]()
    moved, doubles = _moved(name, device), on(device, None, inputs)
    with pytest.raises(ValueError, match=f'{name}: got backend="fused", but {name} has no fused version for {device} and torch.float64'):
        moved(*doubles, backend="fused")
    with pytest.raises(ValueError, match=f'{name}: got backend="fused", but {name} has no fused version for torch.float64; expected'):
        moved(*[x.float() if i == 0 else x for i, x in enumerate(doubles)], backend="fused")
    assert moved(*doubles).dtype == torch.float64  # "auto" takes the reference
    assert explain(name, doubles[0].float(), "fused").version == "fused"
    assert explain(name, doubles[0].float()).version == ("reference" if INTERPRETED else "fused")
    assert explain(name, doubles[0]).version == "reference"


@every
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles(device, name, backend):
    torch.compiler.reset()
    inputs, _ = OPERATIONS[name](dtype=torch.float32)
    leaves, moved = on(device, None, inputs), _moved(name, device)

    def function(*x):
        return moved(*x, backend="fused")

    for got, expected in zip(value_and_gradients(torch.compile(function, fullgraph=True, backend=backend), leaves),
                             value_and_gradients(function, leaves), strict=True):  # fmt: skip
        assert torch.equal(got, expected)
