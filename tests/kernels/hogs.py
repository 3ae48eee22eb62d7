"""What the tests of HOG share: pictures, the three versions, and one histogram a cell to look at."""

import pytest
import torch

from sslkit.kernels import hog
from sslkit.testing import proves

versions = pytest.mark.parametrize("backend", ["auto", "reference"])


def proof(*proofs):
    """One test for both names of the function."""
    return lambda test: proves("targets.hog", *proofs)(proves("kernels.hog", *proofs)(test))


def levels(*shape, seed=0, low=0, high=256):
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def smooth(*shape, seed=0):
    """Levels with edges, shades, flat parts and saturated ones, as photographs have."""
    coarse = torch.randn(*shape[:-2], -(-shape[-2] // 6), -(-shape[-1] // 6), generator=torch.Generator().manual_seed(seed))
    fine = coarse.repeat_interleave(6, -2).repeat_interleave(6, -1)[..., : shape[-2], : shape[-1]]
    ramp = torch.linspace(-1, 1, shape[-1]) + torch.linspace(0, 1, shape[-2])[:, None]
    return (128 + 90 * fine + 40 * ramp).clamp(0, 255).to(torch.uint8)


def cells(images, cell=8, **options):
    """[batch, channels, bins, rows, columns] of images: HOG with a cell a token, arranged as a picture of histograms."""
    out = hog(images, cell=cell, patch=cell, **options)
    rows, columns = images.shape[-2] // cell, images.shape[-1] // cell
    return out.view(len(images), rows, columns, images.shape[1], -1).permute(0, 3, 4, 1, 2)
