"""BYOL and SimSiam: official numbers, loops, limits, no gradient into the target."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkit.losses import byol_loss, simsiam_loss
from sslkit.testing import equals_single_process, proves

BYOL, SIMSIAM = "losses.byol_loss", "losses.simsiam_loss"
both = pytest.mark.parametrize("loss", [byol_loss, simsiam_loss])


@proves(BYOL, "golden")
def test_official_byol(golden):
    g = golden("byol")
    p, p_b = (g.tensor(name).requires_grad_() for name in ("p", "p_b"))
    one = byol_loss(p, g.tensor("z"))
    torch.testing.assert_close(one.detach(), g.tensor("loss"), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(one, p)[0], g.tensor("grad_p"), rtol=1e-4, atol=1e-6)
    both_ways = byol_loss(p, g.tensor("z")) + byol_loss(p_b, g.tensor("z_b"))
    torch.testing.assert_close(both_ways.detach(), g.tensor("loss_sym"), rtol=1e-5, atol=1e-6)
    for gradient, name in zip(torch.autograd.grad(both_ways, (p, p_b)), ("grad_p_sym", "grad_p_b_sym"), strict=True):
        torch.testing.assert_close(gradient, g.tensor(name), rtol=1e-4, atol=1e-6)


@proves(SIMSIAM, "golden")
def test_official_simsiam(golden):
    g = golden("simsiam")
    p1, p2 = (g.tensor(name).requires_grad_() for name in ("p1", "p2"))
    one = simsiam_loss(p1, g.tensor("z1"))
    torch.testing.assert_close(one.detach(), g.tensor("loss_p1_z1"), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(one, p1)[0], g.tensor("grad_p1"), rtol=1e-4, atol=1e-6)
    both_ways = (simsiam_loss(p1, g.tensor("z2")) + simsiam_loss(p2, g.tensor("z1"))) / 2
    torch.testing.assert_close(both_ways.detach(), g.tensor("loss_sym"), rtol=1e-5, atol=1e-6)
    for gradient, name in zip(torch.autograd.grad(both_ways, (p1, p2)), ("grad_p1_sym", "grad_p2_sym"), strict=True):
        torch.testing.assert_close(gradient, g.tensor(name), rtol=1e-4, atol=1e-6)


@proves(BYOL, "loop", "property")
@proves(SIMSIAM, "loop", "property")
@given(batch=st.integers(0, 4), dim=st.integers(1, 5), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_equal_a_loop_and_each_other_at_any_length(batch, dim, scale, seed):
    p, z = torch.randn(2, batch, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    cosines = [float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)) for a, b in zip(p, z, strict=True)]
    expected = sum(2 - 2 * c for c in cosines) / max(batch, 1)
    assert byol_loss(p * scale, z / scale).item() == pytest.approx(expected, abs=1e-9)
    assert simsiam_loss(p * scale, z / scale).item() == pytest.approx(expected / 2 - 1 if batch else 0, abs=1e-9)


@proves(BYOL, "property")
@proves(SIMSIAM, "property")
@both
def test_the_least_is_at_the_target_which_gets_no_gradient(loss, generator):
    z = torch.randn(3, 5, generator=generator, requires_grad=True)
    p = (2 * z).detach().requires_grad_()
    value = loss(p, z)
    assert value.item() == pytest.approx(0 if loss is byol_loss else -1, abs=1e-6)
    value.backward()
    assert z.grad is None
    assert p.grad.abs().max() < 1e-6


def halves(loss, x, *, group=None):
    """The first half of the numbers predicts the second, which travels with it to its process."""
    return loss(x[:, :3], x[:, 3:], group=group)


@proves(BYOL, "worlds", "gradcheck")
@proves(SIMSIAM, "worlds", "gradcheck")
@both
def test_processes_equal_one_and_the_gradient_is_exact(loss, generator):
    x = torch.randn(7, 6, generator=generator)
    equals_single_process(partial(halves, loss), inputs=(x,))
    assert torch.autograd.gradcheck(lambda p: loss(p, x[:, 3:].double()), x[:, :3].double().requires_grad_())


@proves(BYOL, "errors")
@proves(SIMSIAM, "errors")
@both
def test_errors(loss):
    name = loss.__name__
    with pytest.raises(ValueError, match=rf"{name}: got target \[2, 4\] with dim=4; expected dim=5 as in prediction"):
        loss(torch.zeros(2, 5), torch.zeros(2, 4))
    with pytest.raises(TypeError, match=f"{name}: got prediction of dtype torch.int64; expected a floating dtype"):
        loss(torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 5))
