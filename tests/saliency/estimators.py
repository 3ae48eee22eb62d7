"""What the tests of the three estimators share."""

import pytest
import torch

from sslkit.saliency import geodesic_saliency, markov_chain_saliency, robust_background_saliency

CASES = range(4)
THREE = {"geodesic_saliency": geodesic_saliency, "markov_chain_saliency": markov_chain_saliency,
         "robust_background_saliency": robust_background_saliency}  # fmt: skip
each = pytest.mark.parametrize("estimator", THREE.values(), ids=THREE)


def case(golden, number, dtype=torch.float64):
    """The official arrays, the image [1, 3, h, w] in [0, 1], its superpixels [1, h, w]."""
    g = golden(f"saliency_{number}")
    image = torch.as_tensor(g["image"]).permute(2, 0, 1)[None]
    return g, image.to(dtype) / 255 if dtype.is_floating_point else image, torch.as_tensor(g["labels"]).long()[None]


def scene(seed=0, side=48):
    """A blob of one colour on a background of another, with a little noise: [3, side, side]."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    centre = side * (0.35 + 0.3 * torch.rand(2, generator=generator))
    blob = ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < (side / 6) ** 2).float()
    colours = torch.tensor([[0.8, 0.3, 0.2], [0.2, 0.4, 0.7]])
    image = colours[0][:, None, None] * blob + colours[1][:, None, None] * (1 - blob)
    return (image + 0.02 * torch.randn(3, side, side, generator=generator)).clamp(0, 1), blob.bool()


def squares(side, cell):
    """Superpixels that are squares: [1, side, side]."""
    index = torch.arange(side) // cell
    return (index[:, None] * (index.max() + 1) + index)[None]
