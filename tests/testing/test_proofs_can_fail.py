"""Every mechanical proof refuses a component that is broken in the way it looks for."""

import math

import pytest
import torch
import torch.distributed as dist
from torch import nn

from sslkit.testing import (
    Component,
    assert_proven,
    compiles,
    computes_in_float32,
    equals_single_process,
    gradient_is_exact,
    pickles,
    proves,
    resumes,
    stays_near_float32,
)

INPUTS = tuple(torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(0)))


def mean_square(a, b, *, group=None):
    return (a.float() if a.dtype != torch.float64 else a).sub(b).square().mean()


def local_only(a, b, *, group=None):
    """Correct on one process; on more, each has its own value."""
    return (a - b).square().mean()


def without_summed_gradient(a, b, *, group=None):
    """The global mean as value, but gradients not scaled by the number of processes."""
    loss = (a - b).square().sum(dim=1)
    if group is None:
        return loss.mean()
    total = loss.detach().sum()
    dist.all_reduce(total, group=group)
    count = torch.tensor(float(len(loss)))
    dist.all_reduce(count, group=group)
    path = loss.sum() / count
    return path + (total / count - path).detach()


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * 3


class Forgetful(nn.Module):
    """Keeps its state outside state_dict."""

    def __init__(self):
        super().__init__()
        self.register_buffer("value", torch.zeros(()))
        self.count = 0

    def step(self):
        self.count += 1
        self.value += self.count


@pytest.mark.parametrize("fn", [local_only, without_summed_gradient])
def test_worlds(fn):
    with pytest.raises(AssertionError, match="of 2|2 processes"):
        equals_single_process(fn, worlds=(2,))


def test_gradient():
    with pytest.raises(Exception, match="Jacobian mismatch"):
        gradient_is_exact(WrongGradient.apply, (torch.ones(2),))


class WrongWeight(nn.Module):
    """Right by its input, wrong by its weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, x):
        return x * WrongGradient.apply(self.weight) / 2


def test_gradient_of_a_parameter():
    with pytest.raises(Exception, match="Jacobian mismatch"):
        gradient_is_exact(WrongWeight(), INPUTS[:1])


class Overflowing(nn.Module):
    def forward(self, x):
        return x.half().mul(60000).mul(60000)


def test_half_of_a_module():
    with pytest.raises(AssertionError, match="in autocast"):
        stays_near_float32(Overflowing(), INPUTS[:1])


def test_compile():
    with pytest.raises(Exception, match="(?i)graph break|data-dependent|Unsupported"):
        compiles(lambda a, b: (a - b).sum() if a.sum().item() > math.pi else a.sum(), INPUTS)


def test_half():
    with pytest.raises(AssertionError, match=r"not close|gradient error"):
        computes_in_float32(lambda a, b: (a - b).square().mean().to(torch.promote_types(a.dtype, torch.float32)), INPUTS)


def test_pickle():
    with pytest.raises(Exception, match="pickle"):
        pickles(lambda a, b: (a - b).sum(), INPUTS)


def test_resume():
    with pytest.raises(AssertionError, match="value after the resume"):
        resumes(Forgetful(), Forgetful.step)


def test_a_sound_component_passes_and_wrong_registrations_are_refused():
    assert_proven(Component("mine", "loss", lambda: mean_square, lambda generator: INPUTS, ("gradcheck", "compile", "half", "pickle")))
    with pytest.raises(ValueError, match="Component: got kind='los'; expected one of loss, masker"):
        Component("mine", "los")
    with pytest.raises(ValueError, match=r"got \['loop'\]"):
        Component("mine", "loss", mechanical=("loop",))
    with pytest.raises(ValueError, match="mechanical proofs without build"):
        Component("mine", "loss", mechanical=("half",))
    with pytest.raises(ValueError, match="proves: got 'gold'; expected one of golden, loop"):
        proves("mine", "gold")
