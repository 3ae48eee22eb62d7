"""Crops of several sizes through one network."""

import pytest
import torch
from torch import nn

from sslkit.backbones import convnet_small
from sslkit.modules import encode_views
from sslkit.testing import proves

NAME = "modules.encode_views"


def crops(*sides, batch=3):
    return [torch.randn(batch, 3, *side, generator=torch.Generator().manual_seed(i)) for i, side in enumerate(sides)]


@proves(NAME, "property")
def test_views_come_back_in_order_and_runs_of_one_size_share_a_call():
    encoder, calls = convnet_small().eval(), []

    def counted(images):
        calls.append(tuple(images.shape))
        return encoder(images)

    views = crops((8, 8), (8, 8), (4, 4), (4, 6), (4, 6), (8, 8))
    out = encode_views(counted, views)
    assert out.shape == (6, 3, 96)
    for v, view in enumerate(views):
        torch.testing.assert_close(out[v], encoder(view))
    assert calls == [(6, 3, 8, 8), (3, 3, 4, 4), (6, 3, 4, 6), (3, 3, 8, 8)]  # equal widths of other heights are another call


@proves(NAME, "property")
def test_batch_norm_sees_a_size_at_once_and_gradients_reach_every_view():
    norm = nn.Sequential(nn.Flatten(), nn.LazyLinear(5), nn.BatchNorm1d(5, momentum=1.0, affine=False))
    views = [view.requires_grad_() for view in crops((2, 2), (2, 2))]
    out = encode_views(norm, views)
    torch.testing.assert_close(out.mean(dim=(0, 1)), torch.zeros(5), atol=1e-6, rtol=0)
    out.square().sum().backward()
    out_of = encode_views(norm, views)[:, :, :1].pow(3).sum()
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(out_of, views))
    clips = [torch.zeros(2, 3, 4, 8, 8), torch.zeros(2, 3, 2, 8, 8)]
    assert encode_views(lambda x: x.mean(dim=(2, 3, 4)), clips).shape == (2, 2, 3)


@proves(NAME, "errors")
def test_wrong_input():
    for views, message in [
        ([], r"encode_views: got 0 views of batches \[\]"),
        (crops((2, 2)) + crops((2, 2), batch=2), r"of batches \[2, 3\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            encode_views(convnet_small(), views)
