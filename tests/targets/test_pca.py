"""Principal components against the singular value decomposition; what is kept, what is saved."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkit.targets import PatchPCA
from sslkit.testing import proves, resumes

NAME = "targets.PatchPCA"


def rows(n, values, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, values, generator=generator) @ torch.randn(values, values, generator=generator) + 3


@proves(NAME, "loop")
@given(values=st.integers(2, 9), seed=st.integers(0, 99))
def test_equals_the_singular_value_decomposition(values, seed):
    x = rows(40, values, seed)
    dim = values - 1
    _, _, v = torch.linalg.svd((x - x.mean(dim=0)).double(), full_matrices=False)
    for i, direction in enumerate(v[:dim]):
        expected = (x - x.mean(dim=0)).double() @ (direction * direction[direction.abs().argmax()].sign())
        torch.testing.assert_close(PatchPCA(dim).fit(x)(x)[:, i].double(), expected, rtol=1e-3, atol=1e-3)


@proves(NAME, "property")
@given(values=st.integers(1, 9), dim=st.integers(1, 9), seed=st.integers(0, 99))
def test_coefficients_are_uncorrelated_falling_and_invert(values, dim, seed):
    dim = min(dim, values)
    x = rows(50, values, seed).view(5, 10, values)
    pca = PatchPCA(dim).fit(x)
    out = pca(x).flatten(0, 1).double()
    variance = out.var(dim=0)
    assert (variance.diff() <= 1e-4 * variance[0]).all()
    covariance = torch.cov(out.T).view(dim, dim)
    assert (covariance - torch.diag(variance)).abs().max() < 1e-3 * variance[0]
    torch.testing.assert_close(pca(pca.inverse(pca(x))), pca(x), rtol=1e-3, atol=1e-3)
    if dim == values:
        torch.testing.assert_close(pca.inverse(pca(x)), x, rtol=1e-3, atol=1e-3)


@proves(NAME, "property")
def test_a_fitted_one_loads_into_a_new_one_exactly():
    fitted, new = PatchPCA(3).fit(rows(20, 6)), PatchPCA(3)
    new.load_state_dict(fitted.state_dict())
    assert torch.equal(new(rows(4, 6, 1)), fitted(rows(4, 6, 1)))
    resumes(fitted, lambda module: module.fit(rows(20, 6, 2)), fresh=lambda: PatchPCA(3))


@proves(NAME, "half")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_is_projected_in_float32(dtype):
    pca, x = PatchPCA(2).fit(rows(20, 6)), rows(4, 6, 1).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pca(x), pca(x.float()))
        assert pca(x).dtype == torch.float32


@proves(NAME, "errors")
def test_errors():
    with pytest.raises(ValueError, match="PatchPCA: got no components; expected a fitted PatchPCA. To mend: call fit"):
        PatchPCA(2)(torch.zeros(3, 6))
    with pytest.raises(ValueError, match=r"PatchPCA: got input \[3, 5\]; expected 6 numbers on the last axis"):
        PatchPCA(2).fit(rows(9, 6))(torch.zeros(3, 5))
    with pytest.raises(ValueError, match=r"PatchPCA.fit: got 1 tokens of 6 values; expected at least 2 tokens of 2 values"):
        PatchPCA(2).fit(torch.zeros(1, 6))
    with pytest.raises(ValueError, match="dim=0; expected at least 1"):
        PatchPCA(0)
