"""Gathering tokens against the official numbers and a loop."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.operations import seeded, unique_ids

from sslkit.kernels import gather_tokens
from sslkit.testing import proves

NAME = "kernels.gather_tokens"


@proves(NAME, "golden")
def test_official_visible_tokens(golden):
    g = golden("mae_random_masking")
    cases = [name.removesuffix("_x_masked") for name in g if name.endswith("_x_masked")]
    assert cases
    for case in cases:
        for dtype in (torch.int64, torch.int32):
            got = gather_tokens(g.tensor(f"{case}_x"), g.tensor(f"{case}_ids_keep", dtype))
            assert torch.equal(got, g.tensor(f"{case}_x_masked"))


@proves(NAME, "loop", "property")
@settings(max_examples=50)
@given(batch=st.integers(0, 3), tokens=st.integers(0, 9), share=st.floats(0, 1), dim=st.integers(1, 5), prefix=st.integers(0, 2),
       positioned=st.booleans(), seed=st.integers(0, 99))  # fmt: skip
def test_equals_a_loop(batch, tokens, share, dim, prefix, positioned, seed):
    kept = round(share * tokens)
    ids = unique_ids(batch, tokens, kept, seed)
    x, positions = torch.randn(batch, tokens, dim, generator=seeded(seed)), torch.randn(1, tokens, dim, generator=seeded(seed + 1))
    front = torch.randn(prefix, dim, generator=seeded(seed + 2))
    out = gather_tokens(x, ids, positions=positions if positioned else None, prefix=front if prefix else None)
    assert out.shape == (batch, prefix + kept, dim)
    for b in range(batch):
        for p in range(prefix):
            assert torch.equal(out[b, p], front[p])
        for k in range(kept):
            n = ids[b, k].item()
            assert torch.equal(out[b, prefix + k], x[b, n] + positions[0, n] if positioned else x[b, n])


@proves(NAME, "property")
def test_a_sample_sees_no_other():
    """Samples are rows of one table: neither values nor gradients may cross over, and an id outside its sample is refused."""
    x = torch.randn(3, 5, 2, generator=seeded()).requires_grad_()
    ids = unique_ids(3, 5, 2)
    gather_tokens(x, ids)[1].sum().backward()
    assert x.grad[0].eq(0).all()
    assert x.grad[2].eq(0).all()
    assert x.grad[1, ids[1]].eq(1).all()
    for wrong in (5, -1, 9):
        bad = ids.clone()
        bad[1, 0] = wrong
        with pytest.raises(IndexError, match="out of range"):
            gather_tokens(x, bad)


@proves(NAME, "errors")
def test_wrong_input():
    x, ids = torch.ones(2, 5, 3), unique_ids(2, 5, 2)
    for arguments, message in [
        ((x[0], ids), r"got x \[5, 3\], 2 axes; expected the axes \[batch, tokens, dim\]"),
        ((x, ids[:1]), r"got ids \[1, 2\] with batch=1; expected batch=2 as in x"),
        ((x, ids.to("meta")), "got ids on meta; expected cpu, where x is"),
    ]:
        with pytest.raises(ValueError, match=message):
            gather_tokens(*arguments)
    with pytest.raises(TypeError, match=r"got ids of dtype torch.float32; expected int64 or int32. To mend: pass ids.long\(\)"):
        gather_tokens(x, ids.float())
    for options, message in [
        ({"positions": torch.ones(4, 3)}, r"got positions \[4, 3\]; expected \[5, 3\], the same for every sample"),
        ({"positions": torch.ones(2, 5, 3)}, r"got positions \[2, 5, 3\]; expected \[5, 3\]"),
        ({"prefix": torch.ones(2)}, r"got prefix \[2\]; expected \[any, 3\]"),
        ({"prefix": torch.ones(1, 3, device="meta")}, "got prefix on meta; expected cpu, where the tokens are"),
    ]:
        with pytest.raises(ValueError, match=message):
            gather_tokens(x, ids, **options)
    with pytest.raises(TypeError, match="got prefix of type int; expected a tensor or None"):
        gather_tokens(x, ids, prefix=1)
