"""The small ConvNet: its stages written out, its sizes, its errors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkit.backbones import ConvNet, convnet_small
from sslkit.testing import proves, resumes, stays_near_float32

NAME = "backbones.convnet_small"


@proves(NAME, "loop")
def test_equals_the_stages_written_out(generator):
    network = convnet_small(width=4).eval()
    x = images = torch.rand(2, 3, 16, 16, generator=generator)
    for i, stride in enumerate((2, 2, 1, 2, 1)):
        conv, norm = network.stages.get_submodule(f"conv{i}"), network.stages.get_submodule(f"norm{i}")
        x = torch.nn.functional.conv2d(x, conv.weight, stride=stride, padding=1)
        x = ((x - norm.running_mean.view(-1, 1, 1)) / (norm.running_var.view(-1, 1, 1) + 1e-5).sqrt()).relu()
    torch.testing.assert_close(network(images), x.mean(dim=(2, 3)))
    assert network.maps(images).shape == (2, 16, 2, 2)


@proves(NAME, "property")
@given(batch=st.integers(1, 3), channels=st.integers(1, 4), h=st.integers(8, 40), w=st.integers(8, 40))
def test_any_size_and_number_of_channels(batch, channels, h, w):
    network = convnet_small(channels=channels, width=2).eval()
    assert network(torch.zeros(batch, channels, h, w)).shape == (batch, network.dim) == (batch, 8)


def test_the_published_widths():
    network = convnet_small()
    assert network.dim == 96
    assert [m.out_channels for m in network.stages if hasattr(m, "out_channels")] == [24, 48, 48, 96, 96]


@proves(NAME, "resume")
def test_a_resumed_network_goes_on_exactly():
    def step(network):
        network(torch.linspace(0, 1, 2 * 3 * 64).view(2, 3, 8, 8))  # moves the running statistics

    resumes(convnet_small(width=2), step, fresh=lambda: convnet_small(width=2))


@proves(NAME, "half")
def test_16_bit(generator):
    torch.manual_seed(0)
    stays_near_float32(convnet_small(width=4), (torch.rand(8, 3, 32, 32, generator=generator),))


@proves(NAME, "errors")
def test_errors():
    with pytest.raises(
        ValueError,
        match=r"ConvNet: got images \[1, 3, 8, 8\] of dtype torch.uint8; expected floating \[batch, 3, height, width\]. To mend: scale",
    ):
        convnet_small()(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"ConvNet: got images \[1, 1, 8, 8\]"):
        convnet_small()(torch.zeros(1, 1, 8, 8))
    with pytest.raises(
        ValueError, match=r"ConvNet: got channels=3, widths=\(4,\), strides=\(\); expected one width and one stride a stage"
    ):
        ConvNet(3, (4,), ())
