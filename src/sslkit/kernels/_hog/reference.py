"""Histograms of oriented gradients, in plain PyTorch.

    gx(y, x) = sum over r of  w_r (v(y + r, x - 1) - v(y + r, x + 1))         w = 1, 2, 1;  v mirrored at the border, edge not repeated
    gy(y, x) = sum over r of  w_r (v(y - 1, x + r) - v(y + 1, x + r))
    bin      = floor(bins * atan2(gx, gy) / pi) mod bins                      the angle from the vertical, both directions as one
    hist[k]  = sum over the pixels of a cell with bin = k of  sqrt(gx^2 + gy^2)
    out      = hist / max(|hist|, 1e-12)                                      for each channel and cell by itself

The bin is found by comparisons: modulo pi, (gx, gy) may be turned so that gy >= 0, and then floor(bins * angle / pi) is the number of
limits tan(k pi / bins) that gx / gy has reached. Equal neighbours are subtracted before anything is weighted, so that flat cells are
exactly 0, whatever the values; on integers every gradient is exact and every bin is the one of exact arithmetic.
"""

import math
from itertools import product

import torch
from einops import rearrange
from torch import Tensor

from sslkit.kernels._rows import row_numbers, wide

EPS = 1e-12


def forward(images: Tensor, ids: Tensor | None, cell: int, bins: int, window: int | None, patch: int, step: int) -> Tensor:
    """[batch, tokens, values], float32 or wider. `step`: of the frames 0, step, 2 step, ... each makes tokens."""
    v = planes(images, step).to(wide(images.dtype))
    rows, columns = (size // patch * patch for size in v.shape[-2:])
    weight = None if window is None else gaussian(window, rows, columns, v)
    v = mirrored(v)[..., : rows + 2, : columns + 2]
    return tokens(histograms(v, weight, cell, bins), ids, patch // cell)


def histograms(v: Tensor, weight: Tensor | None, cell: int, bins: int) -> Tensor:
    """[..., bins, cell rows, cell columns] of v [..., rows + 2, columns + 2]; a weight [rows, columns] multiplies the magnitudes."""
    gx, gy = gradients(v)
    magnitude = (gx * gx + gy * gy).sqrt()
    if weight is not None:
        magnitude = magnitude * weight
    which = bin_of(gx, gy, bins)
    return normalized(torch.stack([cell_sums(magnitude.masked_fill(which != k, 0), cell) for k in range(bins)], dim=-3))


def gradients(v: Tensor) -> tuple[Tensor, Tensor]:
    """gx and gy [..., height, width] of v [..., height + 2, width + 2]. Twice a number is exact: two roundings, in a fixed order."""
    across, down = v[..., :-2] - v[..., 2:], v[..., :-2, :] - v[..., 2:, :]
    gx = (across[..., :-2, :] + 2 * across[..., 1:-1, :]) + across[..., 2:, :]
    gy = (down[..., :-2] + 2 * down[..., 1:-1]) + down[..., 2:]
    return gx, gy


def limits(bins: int) -> list[float]:
    """tan(k pi / bins) for 0 < k < bins / 2. All but tan(pi / 4) = 1 are irrational: no integer gradient lies on them."""
    return [1.0 if 4 * k == bins else math.tan(k * math.pi / bins) for k in range(1, (bins + 1) // 2)]


def bin_of(gx: Tensor, gy: Tensor, bins: int) -> Tensor:
    """The bin of each gradient, int32. gx = 0 is bin 0; what (0, 0) gets has no weight."""
    g, height = torch.where(gy < 0, -gx, gx), gy.abs()
    size = g.abs()
    # right and left: the limits reached by gradients with g >= 0 and g < 0. They differ where a gradient can lie on a limit.
    right = left = torch.zeros_like(g, dtype=torch.int32)
    for limit in limits(bins):
        reached = size >= height * limit
        right = right + reached
        left = left + (size > height if limit == 1.0 else reached)
    if bins % 2 == 0:
        right = right + (height == 0)  # the limit tan(pi / 2)
    return torch.where(g < 0, bins - 1 - left, right)


def mirrored(v: Tensor) -> Tensor:
    """v [..., height, width] with a border of one pixel, the edge itself not repeated."""
    v = torch.cat([v[..., 1:2], v, v[..., -2:-1]], dim=-1)
    return torch.cat([v[..., 1:2, :], v, v[..., -2:-1, :]], dim=-2)


def gaussian(window: int, rows: int, columns: int, like: Tensor) -> Tensor:
    """[rows, columns]: a Gaussian of window x window pixels, standard deviation window // 2, sum 1, laid side by side from the top left."""
    x = torch.arange(window, dtype=torch.float32, device=like.device) - (window - 1) / 2
    bell = torch.exp(-0.5 * (x / (window // 2)) ** 2)
    tile = torch.outer(bell, bell)
    tile = (tile / tile.sum()).to(like.dtype)
    return tile.repeat(-(-rows // window), -(-columns // window))[:rows, :columns]


def planes(images: Tensor, step: int) -> Tensor:
    """Images [batch, channels, height, width] or clips -> [batch, channels, time, height, width], every step-th frame from the first."""
    return images[:, :, None] if images.ndim == 4 else images[:, :, ::step]


def cell_sums(x: Tensor, cell: int) -> Tensor:
    """[..., height, width] -> [..., height / cell, width / cell]."""
    rows, columns = x.shape[-2] // cell, x.shape[-1] // cell
    by_columns = x.view(*x.shape[:-2], rows, cell, x.shape[-1]).sum(dim=-2)  # down the rows first: columns lie side by side in memory
    return by_columns.view(*by_columns.shape[:-1], columns, cell).sum(dim=-1)


def normalized(hist: Tensor) -> Tensor:
    """Bins on the axis -3, to unit norm; a cell of zeros stays that."""
    return hist / hist.square().sum(dim=-3, keepdim=True).sqrt().clamp(min=EPS)


def tokens(hist: Tensor, ids: Tensor | None, side: int) -> Tensor:
    """[batch, channels, time, bins, cell rows, cell columns] -> [batch, tokens, values] of side x side cells, all or those in `ids`."""
    batch, channels, time, bins, rows, columns = hist.shape
    out = hist.new_empty(batch, time, rows // side, columns // side, channels, bins, side, side)
    for y, x in product(range(side), range(side)):  # long runs of numbers are moved; all at once would move `side` of them, much slower
        out[..., y, x] = rearrange(hist[..., y::side, x::side], "b c t k h w -> b t h w c k")
    out = out.flatten(4).flatten(1, 3)
    if ids is None:
        return out
    count, values = out.shape[1:]
    return out.flatten(0, 1).index_select(0, row_numbers(ids, count, count)).view(batch, ids.shape[1], values)
