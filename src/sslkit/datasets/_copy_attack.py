"""The attack of the copy-detection test: a copy of a picture that a search should still recognise."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkit import counter
from sslkit._checks import bind_axes, need_floating

_PART = -3  # of the seed's streams: below 0, so apart from the pictures' and the augmentations'
_GREY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601


def copy_attack(images: Tensor, *, indices: Tensor, seed: int) -> Tensor:
    """One attacked copy of each picture: a function of (the picture, its index, seed), whatever else is in the batch.

    In this order: a crop of 35 to 70 % of the area, aspect 3/4 to 4/3, stretched to the full size, mirrored half of the time;
    brightness, contrast and saturation by up to 40 %; hue by up to 5 % of the circle; grey with probability .1; with probability
    .5 down by 2 and up again; noise with sigma .06; 16 levels per channel; a strip of a sixth of the height, black or mid-grey,
    at a random row.

    Args:
        images: [batch, 3, height, width] floating, in [0, 1]; 24 pixels a side or more make sense.
        indices: [batch] integers, the pictures' numbers: the draws belong to them.
        seed: another seed, another attack.

    Returns:
        [batch, 3, height, width] float32 in [0, 1].

    Raises:
        TypeError: images are not floating point. ValueError: the axes disagree.

    Source: the task is Douze et al. 2009, "Evaluation of GIST descriptors" (Copydays), as used by Caron et al. 2021, table 4. Its
    attacks are scans and photographs by hand; this one is a generated stand-in of like strength.
    """
    bind_axes("copy_attack", images=(images, "batch 3 height width"), indices=(indices, "batch"))
    need_floating("copy_attack", images=images)
    key = counter.keys(indices, counter.stream(seed, _PART))

    def u(slot: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """[batch, 1, 1, 1]"""
        return (low + (high - low) * counter.uniform(key, slot, torch.float64)).float()[:, None, None, None]

    x = _crop(images.float(), key)
    x = (x * u(5, 0.6, 1.4)).clamp(0, 1)
    mean = _luma(x).mean(dim=(-2, -1), keepdim=True)
    x = (mean + (x - mean) * u(6, 0.6, 1.4)).clamp(0, 1)
    luma = _luma(x)
    x = (luma + (x - luma) * u(7, 0.6, 1.4)).clamp(0, 1)
    x = _turn_hue(x, u(8, -0.05, 0.05))
    x = torch.where(u(9) < 0.1, _luma(x).expand_as(x), x)
    x = torch.where(u(10) < 0.5, _blurred(x), x)
    x = (x + 0.06 * _normal(key, x.shape)).clamp(0, 1)
    x = (x * 15).round() / 15
    return _strip(x, u(11), u(12))


def _luma(x: Tensor) -> Tensor:
    return (x * x.new_tensor(_GREY)[:, None, None]).sum(dim=1, keepdim=True)


def _crop(x: Tensor, key: Tensor) -> Tensor:
    u = counter.uniform(key[:, None], torch.arange(5, device=key.device), torch.float64)
    area, aspect = 0.35 + 0.35 * u[:, 0], ((2 * u[:, 1] - 1) * math.log(4 / 3)).exp()
    # shares of width and height; an aspect that would pass an edge is cut there, as the area is at most .7 of the picture.
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    mirror = torch.where(u[:, 4] < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(width)
    theta = torch.stack(
        [
            torch.stack([width * mirror, zero, (2 * u[:, 2] - 1) * (1 - width)], dim=1),
            torch.stack([zero, height, (2 * u[:, 3] - 1) * (1 - height)], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta.float(), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _turn_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Rotates colours around the grey axis; turns [batch, 1, 1, 1]. Cheaper than through HSV, and smooth everywhere."""
    cos, sin = (2 * math.pi * turns).cos(), (2 * math.pi * turns).sin() / math.sqrt(3)
    mean = x.mean(dim=1, keepdim=True)
    across = x.roll(1, dims=1) - x.roll(2, dims=1)  # the cross product with the grey axis
    return (mean + (x - mean) * cos + across * sin).clamp(0, 1)


def _blurred(x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    small = F.interpolate(x, size=(max(1, height // 2), max(1, width // 2)), mode="area")
    return F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)


def _normal(key: Tensor, shape: torch.Size) -> Tensor:
    """Box and Muller: two uniform numbers a value."""
    count = math.prod(shape[1:])
    slots = 32 + torch.arange(count, device=key.device)
    radius = (-2 * (1 - counter.uniform(key[:, None], slots, torch.float64)).log()).sqrt()
    angle = 2 * math.pi * counter.uniform(key[:, None], slots + count, torch.float64)
    return (radius * angle.cos()).float().view(shape)


def _strip(x: Tensor, place: Tensor, kind: Tensor) -> Tensor:
    height = x.shape[-2]
    tall = max(1, height // 6)
    top = (place * (height - tall + 1)).floor()
    row = torch.arange(height, device=x.device)[:, None]
    return torch.where((row >= top) & (row < top + tall), torch.where(kind < 0.5, 0.0, 0.5), x)
