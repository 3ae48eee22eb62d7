"""Histograms of oriented gradients, to be looked at."""

import math

import torch
from torch import Tensor

from sslkit._checks import bind_axes, need_whole, wrong


def hog_glyphs(values: Tensor, grid: tuple[int, int], *, bins: int = 9, channels: int = 3, side: int = 15) -> Tensor:
    """A star a cell: one stroke a bin, along the edges of that direction, as bright as the bin is full.

        stroke k: the pixels within half a pixel of the line through the cell's centre with the normal (sin a, cos a) in (x, y),
                  a = (k + 1/2) pi / bins, the bin's middle, from the vertical as in `sslkit.kernels.hog`
        picture = sum over k of  mean over channels of max(0, values) * stroke k,  cut off at 1

    Args:
        values: [batch, tokens, channels * bins * n**2] of `sslkit.targets.hog`, or a prediction of it; n x n cells a token.
        grid: (h, w) tokens, row-major.
        bins: of the values.
        channels: of the values.
        side: of a cell in pixels; an odd one has a middle, for the finest strokes.

    Returns:
        [batch, 1, h * n * side, w * n * side] float32 in [0, 1], for `contact_sheet`.

    Raises:
        ValueError: tokens do not fill the grid, or values are no channels * bins * n**2.

    Source: Wei et al. 2022 (MaskFeat), fig. 3.
    """
    sizes = bind_axes("hog_glyphs", values=(values, "batch tokens values"))
    need_whole("hog_glyphs", bins=bins, channels=channels, side=side)
    cells = math.isqrt(sizes["values"] // (bins * channels))
    if sizes["tokens"] != grid[0] * grid[1] or cells == 0 or bins * channels * cells**2 != sizes["values"]:
        raise wrong("hog_glyphs", given=f"values {list(values.shape)} for grid {tuple(grid)}, bins={bins}, channels={channels}",
                    expected=f"[batch, {grid[0] * grid[1]}, {bins * channels} * n**2]",
                    mend="pass the grid, bins and channels that hog had")  # fmt: skip
    full = values.detach().float().cpu().clamp(min=0).view(-1, *grid, channels, bins, cells, cells).mean(dim=3)
    full = full.permute(0, 3, 1, 4, 2, 5).flatten(2, 3).flatten(3, 4)  # [batch, bins, cell rows, cell columns]
    return torch.einsum("bkyx,kpq->bypxq", full, strokes(bins, side)).flatten(3, 4).flatten(1, 2)[:, None].clamp(max=1)


def strokes(bins: int, side: int) -> Tensor:
    """[bins, side, side]: how much of each pixel the stroke of a bin covers."""
    at = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
    angle = (torch.arange(bins) + 0.5) * math.pi / bins
    across = (angle.sin()[:, None, None] * at + angle.cos()[:, None, None] * at[:, None]).abs()  # from the line
    inside = (at**2 + at[:, None] ** 2) <= (side / 2) ** 2
    return (1 - (across - 0.5).clamp(min=0)).clamp(min=0) * inside
