"""Position embeddings: fixed sin-cos tables, and learned tables resampled to another grid."""

import math
from typing import Literal

import torch
from torch import Tensor

from sslkit._checks import wrong

Resample = Literal["size", "offset", "antialias", "align_corners"]
RESAMPLE: tuple[Resample, ...] = ("size", "offset", "antialias", "align_corners")


def sincos_positions(grid: tuple[int, ...], dim: int, *, prefix: int = 0) -> Tensor:
    """Fixed positions of a token grid.

        enc(x, size) = [sin(x w_0), .., sin(x w_{k-1}), cos(x w_0), .., cos(x w_{k-1})]      k = size / 2,  w_j = 10000^(-j / k)
        out[(i, j)]    = [enc(j, dim / 2), enc(i, dim / 2)]                                  the first half encodes the COLUMN
        out[(t, i, j)] = [enc(t, dim / 4), enc(j, 3 dim / 8), enc(i, 3 dim / 8)]

    Args:
        grid: (h, w) or (t, h, w).
        dim: a multiple of 4; of 16 for clips.
        prefix: rows of zeros in front, one for the class token and each register.

    Returns:
        [prefix + tokens, dim], float64.

    Raises:
        ValueError: dim cannot be split as stated.

    Source: He et al. 2022 (MAE), appendix A.1; the order of the halves is that of the authors' code, on which their weights depend. For
    clips: Feichtenhofer et al. 2022, "Masked Autoencoders As Spatiotemporal Learners", a quarter of the numbers for time.
    """
    unit = 4 if len(grid) == 2 else 16
    if dim < 1 or dim % unit or len(grid) not in (2, 3):
        raise wrong("sincos_positions", given=f"dim={dim} for grid {tuple(grid)}",
                    expected="a multiple of 4 for (h, w), of 16 for (t, h, w)",
                    mend="choose such a width, or learned positions")  # fmt: skip
    time = 0 if len(grid) == 2 else dim // 4
    sizes = [*([time] if time else []), (dim - time) // 2, (dim - time) // 2]  # of t, row, column
    axes = [_waves(extent, size) for extent, size in zip(grid, sizes, strict=True)]
    full = [axis[(None,) * i + (slice(None),) + (None,) * (len(grid) - 1 - i)].expand(*grid, -1) for i, axis in enumerate(axes)]
    table = torch.cat([*full[:-2], full[-1], full[-2]], dim=-1).flatten(0, -2)  # time, column, row
    return torch.cat([table.new_zeros(prefix, dim), table])


def _waves(extent: int, size: int) -> Tensor:
    """enc(x, size) for x = 0 .. extent - 1: [extent, size]."""
    frequency = 10000.0 ** (-torch.arange(size // 2, dtype=torch.float64) / (size // 2))
    angle = torch.arange(extent, dtype=torch.float64)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def resample_positions(table: Tensor, base: tuple[int, ...], grid: tuple[int, ...], mode: Resample = "size") -> Tensor:
    """A table of positions made for one grid, read at the places of another: cubic interpolation along every axis.

        per axis of length M, wanted n:    x(d) = (d + 1/2) s - 1/2,    out[d] = sum over j of k(x(d) - j) table[clamp(j, 0, M - 1)]
        k(x) = (a + 2)|x|^3 - (a + 3)|x|^2 + 1           for |x| <= 1
               a|x|^3 - 5a|x|^2 + 8a|x| - 4a             for 1 < |x| < 2,      0 beyond

    | mode | s | a | who |
    |---|---|---|---|
    | `size` | M / n | -3/4 | DeiT, MAE's fine-tuning, transformers |
    | `offset` | M / (n + 0.1) | -3/4 | DINO, DINOv2 without registers |
    | `antialias` | M / n | -1/2 | timm, DINOv2 with registers; k(x / max(s, 1)) inside the table alone, divided by its sum |
    | `align_corners` | x(d) = d (M - 1) / (n - 1) | -3/4 | torchvision |

    They differ by up to twice the spread of the table, so the mode belongs to the weights. An axis that keeps its length is copied, unless
    the other changes in mode `offset`, as in the authors' code.

    Args:
        table: [..., tokens, dim] without prefix slots, tokens of the grid `base`, row-major; floating.
        base: (h, w) or (t, h, w), or (t,) for a table over time.
        grid: the wanted one, as many axes.
        mode: see the table.

    Returns:
        [..., tokens, dim]; computed in float32 or wider, under autocast too; the dtype of `table`. The table itself if the grids are equal.

    Raises:
        ValueError: the table does not fill `base`, the grids differ in axes, or the mode is unknown.
    """
    if mode not in RESAMPLE:
        raise wrong("resample_positions", given=f"mode={mode!r}", expected=f"one of {', '.join(map(repr, RESAMPLE))}",
                    mend='use the one the weights were made with: "antialias" for timm, "offset" for DINO, else "size"')  # fmt: skip
    if len(base) != len(grid) or min(*base, *grid) < 1 or table.ndim < 2 or table.shape[-2] != math.prod(base):
        raise wrong("resample_positions", given=f"table {list(table.shape)}, base {tuple(base)}, grid {tuple(grid)}",
                    expected="a table [..., product of base, dim] and grids of the same number of axes",
                    mend="take the prefix slots off first, and pass (h, w) twice or (t, h, w) twice")  # fmt: skip
    if tuple(base) == tuple(grid):
        return table
    wide = torch.promote_types(table.dtype, torch.float32)
    out = table.to(wide).reshape(*table.shape[:-2], *base, table.shape[-1])
    with torch.autocast(table.device.type, enabled=False):
        for axis, (have, want) in enumerate(zip(base, grid, strict=True), start=-len(base) - 1):
            if have != want or mode == "offset":
                weights = _cubic_weights(have, want, mode, dtype=wide, device=table.device)  # [want, have]
                out = (weights @ out.movedim(axis, -2)).movedim(-2, axis)
    return out.flatten(-len(base) - 1, -2).to(table.dtype)


def _cubic_weights(have: int, want: int, mode: Resample, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[want, have]: out = weights @ table, for one axis. Rows sum to 1."""
    place = torch.arange(want, dtype=dtype, device=device)[:, None]
    if mode == "align_corners":
        place = place * ((have - 1) / (want - 1) if want > 1 else 0.0)
        step = 1.0
    else:
        step = have / (want + 0.1) if mode == "offset" else have / want
        place = (place + 0.5) * step - 0.5
    if mode == "antialias":
        weights = _cubic((place - torch.arange(have, dtype=dtype, device=device)) / max(step, 1.0), -0.5)
        return weights / weights.sum(dim=1, keepdim=True)
    # Two columns more on either side, for the taps that reach over the border and are given to the border itself.
    weights = _cubic(place - torch.arange(-2, have + 2, dtype=dtype, device=device), -0.75)
    inside = weights[:, 2:-2]
    first, last = weights[:, :2].sum(dim=1, keepdim=True), weights[:, -2:].sum(dim=1, keepdim=True)
    if have == 1:
        return inside + first + last
    return torch.cat([inside[:, :1] + first, inside[:, 1:-1], inside[:, -1:] + last], dim=1)


def _cubic(x: Tensor, a: float) -> Tensor:
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))
