"""The predictor against the layers written out, and its shape."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkit.modules import MLPPredictor
from sslkit.testing import proves, resumes

NAME = "modules.MLPPredictor"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@proves(NAME, "loop")
@pytest.mark.parametrize("last", [False, True])
def test_equals_the_layers_written_out(last):
    torch.manual_seed(0)
    predictor = MLPPredictor(4, 6, last_batch_norm=last)
    z = torch.randn(5, 4, generator=seeded())

    def normalised(x):
        return (x - x.mean(dim=0)) / (x.var(dim=0, unbiased=False) + 1e-5).sqrt()

    first, norm, _, second, *_ = predictor.layers
    norm.weight.data.uniform_(0.5, 2, generator=seeded(1))
    norm.bias.data.uniform_(-1, 1, generator=seeded(2))
    hidden = (normalised(z @ first.weight.T) * norm.weight + norm.bias).relu()
    expected = normalised(hidden @ second.weight.T) if last else hidden @ second.weight.T + second.bias
    torch.testing.assert_close(predictor(z), expected)


@proves(NAME, "property")
@given(dim=st.integers(1, 9), hidden=st.integers(1, 9), batch=st.integers(2, 5), last=st.booleans())
def test_a_prediction_has_the_size_of_the_projection(dim, hidden, batch, last):
    predictor = MLPPredictor(dim, hidden, last_batch_norm=last)
    assert predictor(torch.randn(batch, dim, generator=seeded())).shape == (batch, dim)
    names = [name for name, _ in predictor.named_parameters()]
    assert names == ["layers.0.weight", "layers.1.weight", "layers.1.bias", "layers.3.weight", *([] if last else ["layers.3.bias"])]


@proves(NAME, "property")
def test_byols_size():
    with torch.device("meta"):
        sizes = [p.numel() for p in MLPPredictor(256).parameters()]
    assert math.prod((256, 4096)) in sizes
    assert sum(sizes) == 2 * 256 * 4096 + 2 * 4096 + 256  # two maps, the norm's scale and offset, one bias


@proves(NAME, "property")
def test_statistics_are_those_of_the_batch_in_training_and_remembered_afterwards():
    predictor, z = MLPPredictor(4, 6), torch.randn(5, 4, generator=seeded())
    assert not torch.allclose(predictor(z)[:2], predictor(z[:2]))
    predictor.eval()
    torch.testing.assert_close(predictor(z)[:2], predictor(z[:2]))


@proves(NAME, "resume")
def test_a_resumed_predictor_goes_on_exactly():
    def step(predictor):
        z = torch.linspace(-1, 1, 24).view(4, 6).sin()
        for p, gradient in zip(
            predictor.parameters(), torch.autograd.grad(predictor(z).square().sum(), predictor.parameters()), strict=True
        ):
            p.data -= 0.01 * gradient

    torch.manual_seed(0)
    resumes(MLPPredictor(6, 8), step, fresh=lambda: MLPPredictor(6, 8))


@proves(NAME, "errors")
def test_errors():
    with pytest.raises(ValueError, match=r"MLPPredictor: got projections \[2, 3, 6\], 3 axes; expected the axes \[batch, 6\]. To mend"):
        MLPPredictor(6, 8)(torch.zeros(2, 3, 6))
    with pytest.raises(ValueError, match="got projections .* with an axis=7; expected an axis=6"):
        MLPPredictor(6, 8)(torch.zeros(2, 7))
    for sizes in ((0, 8), (6, 0)):
        with pytest.raises(ValueError, match="MLPPredictor: got .*=0; expected a whole"):
            MLPPredictor(*sizes)
