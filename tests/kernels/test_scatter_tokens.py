"""Putting tokens back against a loop, and as the inverse of gathering them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.operations import seeded, unique_ids

from sslkit.kernels import gather_tokens, scatter_tokens
from sslkit.testing import proves

NAME = "kernels.scatter_tokens"
shapes = {"batch": st.integers(0, 3), "tokens": st.integers(0, 9), "share": st.floats(0, 1), "seed": st.integers(0, 99)}


@proves(NAME, "loop", "property")
@settings(max_examples=50)
@given(**shapes, prefix=st.integers(0, 2), positioned=st.booleans())
def test_equals_a_loop(batch, tokens, share, seed, prefix, positioned):
    kept = round(share * tokens)
    ids = unique_ids(batch, tokens, kept, seed)
    x, token = torch.randn(batch, prefix + kept, 3, generator=seeded(seed)), torch.randn(1, 1, 3, generator=seeded(seed + 1))
    positions = torch.randn(1, prefix + tokens, 3, generator=seeded(seed + 2)) if positioned else None
    out = scatter_tokens(x, ids, tokens, token, positions=positions, prefix=prefix)
    assert out.shape == (batch, prefix + tokens, 3)
    for b in range(batch):
        row = [x[b, p] for p in range(prefix)] + [token[0, 0]] * tokens
        for k in range(kept):
            row[prefix + ids[b, k].item()] = x[b, prefix + k]
        for n, expected in enumerate(row):
            assert torch.equal(out[b, n], expected + positions[0, n] if positioned else expected)


@proves(NAME, "property")
@settings(max_examples=30)
@given(**shapes)
def test_inverts_gather(batch, tokens, share, seed):
    ids = unique_ids(batch, tokens, tokens, seed)
    visible, hidden = ids[:, : round(share * tokens)], ids[:, round(share * tokens) :]
    x = torch.randn(batch, tokens, 3, generator=seeded(seed))
    assert torch.equal(scatter_tokens(gather_tokens(x, ids), ids, tokens, torch.zeros(3)), x)
    parts = [scatter_tokens(gather_tokens(x, part), part, tokens, torch.zeros(3)) for part in (visible, hidden)]
    assert torch.equal(sum(parts), x)


@proves(NAME, "property")
def test_the_mask_tokens_gradient():
    """The sum over hidden rows to float32's rounding, exactly 0 if none is hidden, and blind to how large the visible rows' is."""
    grad = torch.randn(64, 49, 8, generator=seeded())
    for kept in (0, 12, 48, 49):
        ids = unique_ids(64, 49, kept)
        x, token = torch.zeros(64, kept, 8, requires_grad=True), torch.zeros(8, requires_grad=True)
        visible = torch.zeros(64, 49, dtype=torch.bool).scatter(1, ids, True)[..., None]
        scatter_tokens(x, ids, 49, token).backward(grad.masked_fill(visible, 1e20))
        exact = grad.double().masked_fill(visible, 0).sum(dim=(0, 1))
        if kept == 49:
            assert token.grad.eq(0).all()
        else:
            assert (token.grad.double() - exact).norm() <= 1e-6 * max(exact.norm().item(), math.sqrt(64 * (49 - kept)))


@proves(NAME, "property")
@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("wrong", [5, -1])
def test_a_sample_sees_no_other(prefix, wrong):
    """An id outside its sample is refused, be it a prefix token's place or another sample's."""
    ids = unique_ids(3, 5, 2)
    ids[1, 0] = wrong
    with pytest.raises(IndexError, match="out of range|out of bounds"):
        scatter_tokens(torch.ones(3, prefix + 2, 2), ids, 5, torch.zeros(2), prefix=prefix)


@proves(NAME, "errors")
def test_wrong_input():
    x, ids, token = torch.ones(2, 3, 4), unique_ids(2, 7, 3), torch.ones(4)
    for arguments, options, message in [
        (
            (x, ids[:, :2], 7, token),
            {},
            r"got x \[2, 3, 4\], ids_keep \[2, 2\], tokens=7, prefix=0; expected x \[batch, prefix \+ kept, dim\]",
        ),
        ((x, ids, 7, token), {"prefix": 1}, "To mend: pass prefix= the number of class and register tokens"),
        ((x, ids, 2, token), {}, "expected .* kept <= tokens"),
        ((x, ids, 7, torch.ones(5)), {}, r"got mask_token \[5\]; expected \[4\] or \[1, 1, 4\], as the tokens have dim=4"),
        ((x, ids, 7, torch.ones(2, 4)), {}, r"got mask_token \[2, 4\]"),
        ((x, ids, 7, torch.tensor(0.0)), {}, r"got mask_token \[\]"),
        ((x, ids, 7, token.to("meta")), {}, "got mask_token on meta; expected cpu"),
        ((x, ids, 7, token), {"positions": torch.ones(6, 4)}, r"got positions \[6, 4\]; expected \[7, 4\]"),
        ((x, ids[:1], 7, token), {}, "expected batch=2 as in x"),
    ]:
        with pytest.raises(ValueError, match=message):
            scatter_tokens(*arguments, **options)
    with pytest.raises(TypeError, match="got ids_keep of dtype torch.bool; expected int64 or int32"):
        scatter_tokens(x, ids.bool(), 7, token)
    with pytest.raises(TypeError, match="got mask_token of type float; expected a tensor"):
        scatter_tokens(x, ids, 7, 0.0)
