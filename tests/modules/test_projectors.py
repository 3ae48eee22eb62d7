"""The projector against the layers written out, and its options."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sslkit.modules import MLPProjector
from sslkit.testing import proves, resumes

NAME = "modules.MLPProjector"


@proves(NAME, "loop")
@pytest.mark.parametrize(("batch_norm", "last"), [(True, False), (True, "affine"), (True, "plain"), (False, False)])
def test_equals_the_layers_written_out(batch_norm, last, generator):
    projector = MLPProjector(6, 8, 4, layers=3, batch_norm=batch_norm, last_batch_norm=last)
    x = torch.randn(5, 6, generator=generator)
    linears = [m for m in projector.layers if isinstance(m, nn.Linear)]
    y = x
    for i, linear in enumerate(linears):
        y = y @ linear.weight.T + (0 if linear.bias is None else linear.bias)
        if (batch_norm and i < 2) or (last and i == 2):
            y = (y - y.mean(dim=0)) / (y.var(dim=0, unbiased=False) + 1e-5).sqrt()
        if i < 2:
            y = y.relu()
    torch.testing.assert_close(projector(x), y)


@proves(NAME, "property")
@given(sizes=st.tuples(*[st.integers(1, 9)] * 3), layers=st.integers(1, 4), batch=st.integers(2, 5))
def test_shapes_and_layer_counts(sizes, layers, batch):
    projector = MLPProjector(*sizes, layers=layers)
    assert projector(torch.randn(batch, sizes[0], generator=torch.Generator().manual_seed(0))).shape == (batch, sizes[2])
    assert sum(isinstance(m, nn.Linear) for m in projector.layers) == layers
    assert all((m.bias is None) == (i + 1 < layers) for i, m in enumerate(m for m in projector.layers if isinstance(m, nn.Linear)))


@proves(NAME, "resume")
def test_a_resumed_projector_goes_on_exactly():
    def step(projector):
        x = torch.linspace(-1, 1, 24).view(4, 6)
        for parameter, gradient in zip(
            projector.parameters(), torch.autograd.grad(projector(x).square().sum(), projector.parameters()), strict=True
        ):
            parameter.data -= 0.01 * gradient

    torch.manual_seed(0)
    resumes(MLPProjector(6, 8, 4), step, fresh=lambda: MLPProjector(6, 8, 4))


@proves(NAME, "errors")
def test_errors():
    with pytest.raises(
        ValueError, match=r"MLPProjector: got embeddings \[2, 6, 7, 7\]; expected \[batch, 6\]. To mend: pool the backbone's output"
    ):
        MLPProjector(6, 8, 4)(torch.zeros(2, 6, 7, 7))
    with pytest.raises(ValueError, match="layers=0; expected whole numbers from 1 on"):
        MLPProjector(6, 8, 4, layers=0)
    with pytest.raises(ValueError, match='last_batch_norm=True; expected False, "affine" or "plain"'):
        MLPProjector(6, 8, 4, last_batch_norm=True)
