"""Prototypes: cosines, rows on the sphere, started as the authors' layer."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkit.modules import Prototypes
from sslkit.optim import drop_gradients
from sslkit.testing import proves, resumes

NAME = "modules.Prototypes"


@proves(NAME, "loop", "property")
@given(batch=st.integers(1, 3), dim=st.integers(1, 4), count=st.integers(1, 5), seed=st.integers(0, 99))
def test_scores_are_cosines(batch, dim, count, seed):
    torch.manual_seed(seed)
    prototypes, z = Prototypes(dim, count).double(), torch.randn(2, batch, dim, dtype=torch.float64)
    torch.testing.assert_close(prototypes.weight.norm(dim=1), torch.ones(count, dtype=torch.float64), rtol=0, atol=1e-6)
    scores = prototypes(z)
    for v in range(2):
        for b in range(batch):
            for k in range(count):
                torch.testing.assert_close(scores[v, b, k], z[v, b] @ prototypes.weight[k] / z[v, b].norm())


@proves(NAME, "property")
def test_a_step_leaves_the_sphere_and_normalize_comes_back():
    torch.manual_seed(0)
    prototypes = Prototypes(4, 5)
    before = prototypes.weight.detach().clone()
    prototypes(torch.randn(3, 4)).sum().backward()
    drop_gradients(torch.nn.ModuleDict({"prototypes": prototypes}), "prototypes")
    assert prototypes.weight.grad is None
    prototypes.weight.data.mul_(3)
    prototypes.normalize()
    torch.testing.assert_close(prototypes.weight.detach(), before)


@proves(NAME, "half")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_computes_in_float32_whatever_comes_in(dtype, generator):
    """A 16-bit cosine would lose the digits that a temperature of 0.05 magnifies; the gradient as well."""
    prototypes, z = Prototypes(64, 5), torch.randn(2, 3, 64, generator=generator).to(dtype)
    expected = prototypes(z.float())
    assert expected.dtype == torch.float32
    (gradient,) = torch.autograd.grad(expected.square().sum(), prototypes.weight, retain_graph=True)
    for autocast in (False, True):
        with torch.autocast("cpu", dtype, enabled=autocast):
            assert torch.equal(prototypes(z), expected)
            torch.testing.assert_close(prototypes(z[0, 0]), expected[0, 0])  # a single row
            assert torch.equal(torch.autograd.grad(prototypes(z).square().sum(), prototypes.weight)[0], gradient)


@proves(NAME, "property")
def test_a_zero_row_has_a_gradient_of_one_over_eps():
    """1e6, and not the 1e12 of torch's own eps."""
    prototypes, z = Prototypes(4, 5), torch.zeros(3, 4, requires_grad=True)
    scores = prototypes(z)
    assert scores.eq(0).all()
    (gradient,) = torch.autograd.grad(scores.sum(), z)
    assert 1e5 < gradient.abs().max() < 1e7
    with torch.no_grad():
        prototypes.weight[0] = 0
    prototypes.normalize()
    assert prototypes.weight[0].eq(0).all()


def step(prototypes):
    prototypes.normalize()
    loss = prototypes(torch.linspace(-1, 1, 12).view(3, 4)).square().sum()
    (gradient,) = torch.autograd.grad(loss, prototypes.weight)
    with torch.no_grad():
        prototypes.weight -= 0.1 * gradient
    return loss.detach()


@proves(NAME, "resume")
def test_resumed_prototypes_go_on_exactly():
    resumes(Prototypes(4, 5), step, fresh=lambda: Prototypes(4, 5))


@proves(NAME, "errors")
def test_errors():
    with pytest.raises(ValueError, match="Prototypes: got count=0"):
        Prototypes(4, 0)
    with pytest.raises(ValueError, match=r"Prototypes: got weight \[3, 4\] with dim=4; expected dim=5 as in z"):
        Prototypes(4, 3)(torch.zeros(2, 5))
    with pytest.raises(TypeError, match="Prototypes: got z of dtype torch.int64"):
        Prototypes(4, 3)(torch.zeros(2, 4, dtype=torch.int64))
