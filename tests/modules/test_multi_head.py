"""Several heads: each its own, stages of their own, features side by side."""

import pytest
import torch
from torch import nn

from sslkit.modules import MultiHeadProjector
from sslkit.testing import proves, resumes

NAME = "modules.MultiHeadProjector"


def stage():
    return nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@proves(NAME, "loop", "property")
def test_every_head_is_a_projector_of_its_own(generator):
    heads = MultiHeadProjector(6, 3, 4, hidden=5)
    x = torch.randn(2, 6, generator=generator)
    out = heads(x)
    assert out.shape == (4, 2, 3)
    for h in range(4):
        first, _, last = heads.projectors[h].layers
        torch.testing.assert_close(out[h], (x @ first.weight.T + first.bias).relu() @ last.weight.T + last.bias)
        (gradient,) = torch.autograd.grad(
            out[h].sum(), heads.projectors[(h + 1) % 4].layers[0].weight, allow_unused=True, retain_graph=True
        )
        assert gradient is None or gradient.abs().max() == 0


@proves(NAME, "loop", "property")
def test_stages_of_their_own_side_by_side(generator):
    heads = MultiHeadProjector(6, 3, 2, head_factory=stage)
    maps = torch.randn(2, 4, 5, 5, generator=generator)
    assert not torch.equal(heads.stages[0][0].weight, heads.stages[1][0].weight)
    torch.testing.assert_close(heads.concatenate(maps), torch.cat([s(maps) for s in heads.stages], dim=1))
    torch.testing.assert_close(heads(maps)[1], heads.projectors[1](heads.stages[1](maps)))


def step(heads):
    x = torch.linspace(-1, 1, 12).view(2, 6)
    loss = heads(x).square().sum()
    gradients = torch.autograd.grad(loss, list(heads.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(heads.parameters(), gradients, strict=True):
            parameter -= 0.01 * gradient
    return loss.detach()


@proves(NAME, "resume")
def test_resumed_heads_go_on_exactly():
    resumes(MultiHeadProjector(6, 3, 2), step, fresh=lambda: MultiHeadProjector(6, 3, 2))


@proves(NAME, "errors")
def test_errors():
    with pytest.raises(ValueError, match="MultiHeadProjector: got heads=0"):
        MultiHeadProjector(6, 3, 0)
    for hidden in (0, 0.5, True):
        with pytest.raises(ValueError, match=f"MultiHeadProjector: got hidden={hidden}; expected a whole hidden from 1 on"):
            MultiHeadProjector(6, 3, 2, hidden=hidden)
    one = stage()
    for factory in (lambda: one, lambda: nn.Sequential(one[0], nn.AdaptiveAvgPool2d(1), nn.Flatten())):
        with pytest.raises(ValueError, match="MultiHeadProjector: got a head_factory whose stages share weights; expected a new stage"):
            MultiHeadProjector(6, 3, 2, head_factory=factory)
    with pytest.raises(ValueError, match="MultiHeadProjector.concatenate: got heads without a stage of their own; expected a head_factory"):
        MultiHeadProjector(6, 3, 2).concatenate(torch.zeros(2, 6))
    with pytest.raises(ValueError, match=r"MLPProjector: got embeddings \[2, 5\]; expected \[batch, 6\]"):
        MultiHeadProjector(6, 3, 2)(torch.zeros(2, 5))
