"""Images and clips <-> tokens. Tokens are row-major over the grid: (h, w), or (t, h, w) for clips."""

import math
from typing import Literal

from einops import rearrange
from torch import Tensor

from sslkit._checks import wrong

__all__ = ["Order", "grid_of", "patchify", "unpatchify"]

Order = Literal["pqc", "cpq"]

# u, p, q: frame, row and column inside a token.
_IMAGE = {"pqc": "b c (h p) (w q) -> b (h w) (p q c)", "cpq": "b c (h p) (w q) -> b (h w) (c p q)"}
_CLIP = {"pqc": "b c (t u) (h p) (w q) -> b (t h w) (u p q c)", "cpq": "b c (t u) (h p) (w q) -> b (t h w) (c u p q)"}


def grid_of(size: tuple[int, ...], patch: int, *, tubelet: int = 1, frame_stride: int = 1) -> tuple[int, ...]:
    """Tokens along each axis of a picture (height, width) or clip (time, height, width) of this size, in pixels and frames.

        (h / patch, w / patch)    or    (ceil(t / frame_stride) / tubelet, h / patch, w / patch)

    Raises:
        ValueError: a size is no multiple of the patch or tubelet, so that pixels would be dropped; a number is not positive.
    """
    if len(size) not in (2, 3):
        raise wrong(
            "grid_of", given=f"size {tuple(size)}", expected="(height, width) or (time, height, width)", mend="pass images.shape[2:]"
        )
    if min(patch, tubelet, frame_stride) < 1:
        raise wrong("grid_of", given=f"patch={patch}, tubelet={tubelet}, frame_stride={frame_stride}", expected="whole numbers from 1 on",
                    mend="pass the patch's side in pixels and the tubelet's length in frames")  # fmt: skip
    if len(size) == 2 and (tubelet, frame_stride) != (1, 1):
        raise wrong("grid_of", given=f"an image {tuple(size)} with tubelet={tubelet}, frame_stride={frame_stride}", expected="a clip",
                    mend="pass clips [batch, channels, time, height, width], or leave both at 1")  # fmt: skip
    units = (patch, patch) if len(size) == 2 else (tubelet, patch, patch)
    pixels = tuple(size) if len(size) == 2 else (-(-size[0] // frame_stride), *size[1:])
    for have, unit, axis in zip(pixels, units, ("time", "height", "width")[-len(units) :], strict=True):
        if have < unit or have % unit:
            raise wrong("grid_of", given=f"{axis}={have}", expected=f"a positive multiple of {unit}",
                        mend=f"resize or crop to {max(have // unit, 1) * unit}")  # fmt: skip
    return tuple(have // unit for have, unit in zip(pixels, units, strict=True))


def patchify(images: Tensor, patch: int, *, tubelet: int = 1, frame_stride: int = 1, order: Order = "pqc") -> Tensor:
    """Cuts images or clips into tokens of raw values.

        out[b, (h, w), (p, q, c)] = images[b, c, h * patch + p, w * patch + q]

    Args:
        images: [batch, channels, height, width], or clips [batch, channels, time, height, width]; any dtype.
        patch: side of a token in pixels.
        tubelet: frames per token.
        frame_stride: for clips, only frames 0, s, 2s, ... are used.
        order: of a token's values: "pqc" (frame, row, column, channel; MAE) or "cpq" (channel, frame, row, column; a convolution's weight).

    Returns:
        [batch, tokens, values], values = tubelet * patch**2 * channels; dtype kept.

    Raises:
        ValueError: wrong rank, an unknown order, or a size that is no multiple of patch or tubelet.

    Source: He et al. 2022 (MAE), sec. 3; Arnab et al. 2021 (ViViT), sec. 3.2, for tubelets.
    """
    if images.ndim not in (4, 5):
        raise wrong("patchify", given=f"images {list(images.shape)}",
                    expected="[batch, channels, height, width] or [batch, channels, time, height, width]",
                    mend="add the missing axis with unsqueeze")  # fmt: skip
    _check_order("patchify", order)
    grid_of(tuple(images.shape[2:]), patch, tubelet=tubelet, frame_stride=frame_stride)
    if images.ndim == 4:
        return rearrange(images, _IMAGE[order], p=patch, q=patch)
    return rearrange(images[:, :, ::frame_stride], _CLIP[order], u=tubelet, p=patch, q=patch)


def unpatchify(tokens: Tensor, grid: tuple[int, ...], patch: int, *, tubelet: int = 1, order: Order = "pqc") -> Tensor:
    """The inverse of `patchify`: [batch, tokens, values] -> images [batch, channels, height, width], or clips for a grid (t, h, w).

    Raises:
        ValueError: tokens do not fill the grid, or values are no multiple of tubelet * patch**2.
    """
    _check_order("unpatchify", order)
    if len(grid) not in (2, 3) or min(patch, tubelet, *grid) < 1 or (len(grid) == 2 and tubelet != 1):
        raise wrong("unpatchify", given=f"grid {tuple(grid)}, patch={patch}, tubelet={tubelet}",
                    expected="whole numbers from 1 on, (h, w) with tubelet 1, or (t, h, w)",
                    mend="pass the grid and patch that patchify had")  # fmt: skip
    per_channel, count = tubelet * patch**2, math.prod(grid)
    if tokens.ndim != 3 or tokens.shape[1] != count or tokens.shape[2] % per_channel:
        raise wrong("unpatchify", given=f"tokens {list(tokens.shape)}",
                    expected=f"[batch, {count}, channels * {per_channel}] for grid {tuple(grid)}, patch {patch}, tubelet {tubelet}",
                    mend="pass the grid and patch that patchify had, without class or register tokens")  # fmt: skip
    if len(grid) == 2:
        left, right = _IMAGE[order].split(" -> ")
        return rearrange(tokens, f"{right} -> {left}", h=grid[0], w=grid[1], p=patch, q=patch)
    left, right = _CLIP[order].split(" -> ")
    return rearrange(tokens, f"{right} -> {left}", t=grid[0], h=grid[1], w=grid[2], u=tubelet, p=patch, q=patch)


def _check_order(where: str, order: str) -> None:
    if order not in _IMAGE:
        raise wrong(
            where,
            given=f"order={order!r}",
            expected=" or ".join(map(repr, _IMAGE)),
            mend="use pqc for MAE's pixels, cpq for a convolution's weight",
        )
