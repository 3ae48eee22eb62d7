"""Eight procedural kinds of background, drawn once per (size, seed, split) as grey tiles from which pictures cut their crops."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from sslkit import counter

FAMILIES = ("gradient", "stripes", "checkers", "cloud", "cells", "grain", "waves", "dead leaves")
TILES = 16  # per family and split


def tile_side(size: int) -> int:
    """Tiles are half as large again as the picture, so that a crop has room."""
    return size * 3 // 2


@lru_cache(maxsize=8)
def tile_bank(size: int, seed: int, split: int) -> Tensor:
    """[families, 16, side, side] uint8, side = 1.5 size; every tile reaches from 0 to 255. A function of its arguments alone.

    Quantities are given in tiles, not pixels: the same seed gives the same tiles, finer or coarser, at every size.
    """
    side = tile_side(size)
    numbers = torch.arange(len(FAMILIES) * TILES).view(len(FAMILIES), TILES)
    # a part below 0: the splits' pictures and the augmentations' epochs use the parts from 0 on.
    key = counter.keys(numbers, counter.stream(seed, -1 - split))  # [families, tiles]
    draw = (_gradient, _stripes, _checkers, _cloud, _cells, _grain, _waves, _dead_leaves)
    grey = torch.stack([paint(key[family], side) for family, paint in enumerate(draw)])
    low, high = grey.amin(dim=(-2, -1), keepdim=True), grey.amax(dim=(-2, -1), keepdim=True)
    return ((grey - low) / (high - low) * 255).round().to(torch.uint8)


def _u(key: Tensor, slot: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """[tiles, 1, 1] float64: one uniform number a tile."""
    return (low + (high - low) * counter.uniform(key, slot, torch.float64))[:, None, None]


def _xy(side: int) -> tuple[Tensor, Tensor]:
    """Pixel centres in [-1, 1], x [1, side] and y [side, 1]."""
    at = (torch.arange(side, dtype=torch.float64) * 2 + 1) / side - 1
    return at[None, :], at[:, None]


def _turned(key: Tensor, slot: int, side: int) -> tuple[Tensor, Tensor]:
    """Coordinates turned by a random angle: two tensors [tiles, side, side]."""
    x, y = _xy(side)
    angle = _u(key, slot, 0, 2 * math.pi)
    return angle.cos() * x + angle.sin() * y, angle.cos() * y - angle.sin() * x


def _edge(wave: Tensor, key: Tensor, slot: int) -> Tensor:
    """A wave in [-1, 1] with soft to hard edges: gain 1 leaves it a sine, gain 12 makes it nearly a step."""
    return (wave * (_u(key, slot) * math.log(12)).exp()).tanh()


def _gradient(key: Tensor, side: int) -> Tensor:
    along, across = _turned(key, 0, side)
    return along + _u(key, 1, -0.4, 0.4) * along.square() + _u(key, 2, -0.4, 0.4) * across.square()


def _stripes(key: Tensor, side: int) -> Tensor:
    along, _ = _turned(key, 0, side)
    return _edge((math.pi * _u(key, 1, 5, 14) * along + _u(key, 2, 0, 2 * math.pi)).sin(), key, 3)


def _checkers(key: Tensor, side: int) -> Tensor:
    along, across = _turned(key, 0, side)
    rate = math.pi * _u(key, 1, 3, 9)
    product = (rate * along + _u(key, 2, 0, 2 * math.pi)).sin() * (rate * across + _u(key, 3, 0, 2 * math.pi)).sin()
    return torch.tanh(8 * product)


def _noise(key: Tensor, side: int, power: Tensor) -> Tensor:
    """Random phases under the amplitude spectrum 1 / f^power."""
    fx, fy = torch.fft.rfftfreq(side, dtype=torch.float64), torch.fft.fftfreq(side, dtype=torch.float64)
    f = torch.hypot(fx[None, :], fy[:, None])
    f[0, 0] = math.inf  # no mean: tiles are normalised anyway
    slot = 16 + torch.arange(f.numel()).view(f.shape)
    phase = 2 * math.pi * counter.uniform(key[:, None, None], slot, torch.float64)
    field: Tensor = torch.fft.irfft2(torch.polar(f.pow(-power), phase), s=(side, side))
    return field


def _cloud(key: Tensor, side: int) -> Tensor:
    return _noise(key, side, _u(key, 0, 1.2, 1.8))


def _grain(key: Tensor, side: int) -> Tensor:
    return _noise(key, side, _u(key, 0, 0.1, 0.5))


def _cells(key: Tensor, side: int) -> Tensor:
    """The nearest of 8 to 40 random points gives its grey."""
    count = 8 + counter.integer(key, 0, 33)
    x, y = _xy(side)
    pixels = torch.stack([x.expand(side, side), y.expand(side, side)], dim=-1).view(-1, 2)
    tiles = []
    for one, points in zip(key, count.tolist(), strict=True):
        u = counter.uniform(one, 1 + torch.arange(3 * points), torch.float64).view(points, 3)
        # the exact form: cdist's default for many points multiplies matrices, and its rounding depends on the thread count.
        nearest = torch.cdist(pixels, u[:, :2] * 2 - 1, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)
        tiles.append(u[nearest, 2].view(side, side))
    return torch.stack(tiles)


def _waves(key: Tensor, side: int) -> Tensor:
    x, y = _xy(side)
    radius = torch.hypot(x - _u(key, 0, -1.2, 1.2), y - _u(key, 1, -1.2, 1.2))
    return _edge((math.pi * _u(key, 2, 5, 14) * radius + _u(key, 3, 0, 2 * math.pi)).sin(), key, 4)


def _dead_leaves(key: Tensor, side: int) -> Tensor:
    """160 overlapping discs with radius ~ 1 / u: edges at all scales, as in photographs."""
    leaves = 160
    u = counter.uniform(key[:, None], torch.arange(4 * leaves), torch.float64).view(len(key), leaves, 4)
    x, y = _xy(side)
    tiles = torch.full((len(key), side, side), 0.5, dtype=torch.float64)
    for tile, discs in zip(tiles, u.tolist(), strict=True):
        for ux, uy, ur, grey in discs:
            cx, cy, radius = 2.4 * ux - 1.2, 2.4 * uy - 1.2, min(0.07 / ur, 0.8)
            pixel = side / 2
            left, right = (int(max(0, min(side, (c * pixel) + pixel))) for c in (cx - radius - 2 / side, cx + radius + 4 / side))
            top, low = (int(max(0, min(side, (c * pixel) + pixel))) for c in (cy - radius - 2 / side, cy + radius + 4 / side))
            window = tile[top:low, left:right]
            distance = torch.hypot(x[:, left:right] - cx, y[top:low] - cy) - radius
            window += (grey - window) * (0.5 - distance * pixel).clamp(0, 1)
    return tiles
