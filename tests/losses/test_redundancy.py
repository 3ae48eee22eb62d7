"""Barlow Twins and VICReg: official numbers, loops, limits, processes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkit.losses import barlow_twins_loss, vicreg_loss
from sslkit.testing import proves

BARLOW, VICREG = "losses.barlow_twins_loss", "losses.vicreg_loss"


@proves(BARLOW, "golden")
def test_official_barlow_twins(golden):
    g = golden("barlow")
    z1, z2 = (g.tensor(name).requires_grad_() for name in ("z_a", "z_b"))
    loss = barlow_twins_loss(z1, z2, lambd=g.number("lambd"))
    torch.testing.assert_close(loss.detach(), g.tensor("loss"), rtol=1e-5, atol=1e-6)
    for gradient, name in zip(torch.autograd.grad(loss, (z1, z2)), ("grad_a", "grad_b"), strict=True):
        torch.testing.assert_close(gradient, g.tensor(name), rtol=1e-4, atol=1e-6)


@proves(VICREG, "golden")
def test_official_vicreg(golden):
    g = golden("vicreg")
    z1, z2 = (g.tensor(name).requires_grad_() for name in ("z_a", "z_b"))
    weights = dict(zip(("invariance", "variance", "covariance"), g["weights"].tolist(), strict=True))
    loss = vicreg_loss(z1, z2, **weights)
    torch.testing.assert_close(loss.detach(), g.tensor("loss"), rtol=1e-5, atol=1e-6)
    for gradient, name in zip(torch.autograd.grad(loss, (z1, z2)), ("grad_a", "grad_b"), strict=True):
        torch.testing.assert_close(gradient, g.tensor(name), rtol=1e-4, atol=1e-5)
    nothing = dict.fromkeys(weights, 0.0)
    for name, parts in (("invariance", ["inv"]), ("variance", ["var_a", "var_b"]), ("covariance", ["cov_a", "cov_b"])):
        alone = vicreg_loss(z1, z2, **{**nothing, name: 1.0}).detach()
        share = 2 if name == "variance" else 1
        torch.testing.assert_close(alone, sum(g.tensor(part) for part in parts) / share, rtol=1e-5, atol=1e-6)


views = given(batch=st.integers(2, 5), dim=st.integers(1, 4), seed=st.integers(0, 99))


def two(batch, dim, seed):
    return torch.randn(2, batch, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@proves(BARLOW, "loop", "property")
@views
def test_barlow_twins_equals_the_loop(batch, dim, seed):
    z1, z2 = two(batch, dim, seed)
    n1, n2 = ((z - z.mean(dim=0)) / (z.var(dim=0, unbiased=False) + 1e-5).sqrt() for z in (z1, z2))
    expected = 0.0
    for i in range(dim):
        for j in range(dim):
            c = sum(float(n1[b, i] * n2[b, j]) for b in range(batch)) / batch
            expected += (1 - c) ** 2 if i == j else 0.1 * c**2
    assert barlow_twins_loss(z1, z2, lambd=0.1).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert barlow_twins_loss(z1 + 5, z2 - 2, lambd=0.1).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@proves(VICREG, "loop", "property")
@views
def test_vicreg_equals_the_loop(batch, dim, seed):
    z1, z2 = two(batch, dim, seed)
    expected = 25 * sum(float(d) ** 2 for d in (z1 - z2).flatten()) / (batch * dim)
    for z in (z1, z2):
        c = z - z.mean(dim=0)
        for i in range(dim):
            expected += 25 / 2 * max(0.0, 1 - (float(c[:, i] @ c[:, i]) / (batch - 1) + 1e-4) ** 0.5) / dim
            expected += sum((float(c[:, i] @ c[:, j]) / (batch - 1)) ** 2 for j in range(dim) if j != i) / dim
    assert vicreg_loss(z1, z2).item() == pytest.approx(expected, rel=1e-9)


@proves(BARLOW, "property")
@proves(VICREG, "property")
def test_the_least_is_where_views_agree_and_dimensions_do_not():
    z = 3 * torch.tensor([[1.0, -1, -1, 1], [1, 1, -1, -1], [1, -1, 1, -1]]).T  # three orthogonal columns of mean 0
    assert barlow_twins_loss(z, z).item() < 1e-9
    assert vicreg_loss(z, z).item() < 1e-9
    twins = z[:, [0, 1, 1]]  # two dimensions that say the same
    assert barlow_twins_loss(twins, twins, lambd=0.5).item() == pytest.approx(1, rel=1e-4)
    assert vicreg_loss(twins, twins).item() > 1
    assert barlow_twins_loss(torch.ones(1, 3), torch.ones(1, 3)).item() == 3  # one row has no correlation
    collapsed = torch.ones(4, 3, requires_grad=True)
    vicreg_loss(collapsed, collapsed).backward()
    assert collapsed.grad.isfinite().all()


@proves(BARLOW, "errors")
@proves(VICREG, "errors")
def test_errors():
    for loss in (barlow_twins_loss, vicreg_loss):
        with pytest.raises(ValueError, match=rf"{loss.__name__}: got z2 \[4, 2\] with dim=2; expected dim=3 as in z1"):
            loss(torch.zeros(4, 3), torch.zeros(4, 2))
        with pytest.raises(TypeError, match=f"{loss.__name__}: got z1 of dtype torch.int64"):
            loss(torch.zeros(4, 3, dtype=torch.int64), torch.zeros(4, 3))
    with pytest.raises(
        ValueError, match="vicreg_loss: got 1 rows; expected at least two, over all processes. To mend: pass a larger batch"
    ):
        vicreg_loss(torch.zeros(1, 3), torch.zeros(1, 3))
