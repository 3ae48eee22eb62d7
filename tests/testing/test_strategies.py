"""The shipped strategies make what they say."""

import torch
from hypothesis import given

from sslkit.testing import grids, images, masks, views


@given(grid=grids())
def test_grids(grid):
    assert len(grid) in (2, 3)
    assert min(grid) >= 1


@given(mask=masks())
def test_masks_hide_the_same_number_in_every_row(mask):
    assert mask.dtype == torch.bool
    assert mask.sum(dim=1).unique().numel() == 1


@given(float_images=images(), byte_images=images(dtype=torch.uint8))
def test_images(float_images, byte_images):
    assert 0 <= float_images.min() <= float_images.max() < 1
    assert byte_images.dtype == torch.uint8
    assert byte_images.ndim == 4


@given(z=views(count=3, dtype=torch.float64))
def test_views(z):
    assert len({x.shape for x in z}) == 1
    assert all(x.dtype == torch.float64 for x in z)
