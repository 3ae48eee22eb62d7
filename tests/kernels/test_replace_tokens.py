"""Replacing tokens against a loop; nothing hidden leaks; the form for a CPU equals the definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.operations import seeded

from sslkit.kernels import replace_tokens
from sslkit.kernels._replace_tokens import cpu, reference
from sslkit.testing import masks, proves

NAME = "kernels.replace_tokens"


@proves(NAME, "loop", "property")
@settings(max_examples=50)
@given(mask=masks(equal=False), dim=st.integers(1, 5), seed=st.integers(0, 99))
def test_equals_a_loop(mask, dim, seed):
    x, token = torch.randn(*mask.shape, dim, generator=seeded(seed)), torch.randn(dim, generator=seeded(seed + 1))
    out = replace_tokens(x, mask, token.view(1, 1, dim))
    for b in range(mask.shape[0]):
        for n in range(mask.shape[1]):
            assert torch.equal(out[b, n], token if mask[b, n] else x[b, n])


@proves(NAME, "loop", "property")
@settings(max_examples=50)
@given(mask=masks(equal=False), seed=st.integers(0, 99), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
def test_the_cpu_form_equals_the_definition(mask, seed, dtype):
    x, token = torch.randn(*mask.shape, 4, generator=seeded(seed)).to(dtype), torch.randn(4, generator=seeded(seed + 1))
    x = x.transpose(0, 1).contiguous().transpose(0, 1)
    for result in (dtype, torch.float32):
        assert torch.equal(cpu.forward(x, mask, token, result), reference.forward(x, mask, token, result))
    for wanted in [(dtype, torch.float32), (None, torch.float32), (dtype, None)]:
        for a, b in zip(cpu.backward(x, mask, *wanted), reference.backward(x, mask, *wanted), strict=True):
            assert a.dtype == b.dtype
            assert a.stride() == b.stride()
            assert torch.equal(a, b)


@proves(NAME, "property")
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_hidden_values_never_leak(bad):
    mask = torch.rand(4, 9, generator=seeded()) < 0.5
    x = torch.randn(4, 9, 3, generator=seeded()).masked_fill(mask[..., None], bad).requires_grad_()
    token = torch.zeros(3, requires_grad=True)
    out = replace_tokens(x, mask, token)
    assert out.isfinite().all()
    out.square().sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad[mask].eq(0).all()
    assert token.grad.isfinite().all()
    mixed = out * (1 - mask[..., None].float()) + token * mask[..., None]  # the blend of public code, on the finite result
    assert torch.equal(mixed, out)
    assert not (x * (1 - mask[..., None].float()) + token * mask[..., None]).isfinite().all()  # on x itself it leaks


@proves(NAME, "property")
def test_nothing_and_everything_hidden():
    x, token = torch.randn(2, 3, 4, requires_grad=True), torch.randn(4, requires_grad=True)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    out = replace_tokens(x, nothing, token)
    assert torch.equal(out, x)
    out.sum().backward()
    assert token.grad.eq(0).all()
    assert x.grad.eq(1).all()
    assert torch.equal(replace_tokens(x, ~nothing, token), token.expand(2, 3, 4))


@proves(NAME, "errors")
def test_wrong_input():
    x, mask, token = torch.ones(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool), torch.ones(4)
    for arguments, message in [
        ((x, mask.float(), token), r"got mask of dtype torch.float32; expected torch.bool, True = hidden. To mend: write mask.bool\(\)"),
        ((x, mask[:, :2], token), r"got mask \[2, 2\] with tokens=2; expected tokens=3 as in x"),
        ((x, mask, token[:3]), r"got mask_token \[3\]; expected \[4\]"),
        ((x, mask.to("meta"), token), "got mask on meta; expected cpu"),
        ((x[0], mask, token), "expected the axes"),
    ]:
        with pytest.raises(ValueError, match=message):
            replace_tokens(*arguments)
