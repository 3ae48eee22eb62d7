"""Cutting tokens out of images or clips, in plain PyTorch.

out[b, k, (c, u, p, q)] = scale[c] * images[b, c, (t * U + u) * stride, h * P + p, w * P + q] + bias[c]      (t, h, w) = place of ids[b, k]
"""

import math

import torch
from einops import rearrange
from torch import Tensor

from sslkit.patches import Order

FINISHED = {"cpq": "b k c u p q -> b k (c u p q)", "pqc": "b k c u p q -> b k (u p q c)"}


def forward(images: Tensor, ids: Tensor, patch: int, tubelet: int, frame_stride: int, scale: list[float] | None, bias: list[float] | None,
            order: Order, dtype: torch.dtype) -> Tensor:  # fmt: skip
    """[batch, kept, values] of `dtype`. Only pixels of the named tokens are read, whatever the strides."""
    tokens = tokens_of(planes(images, frame_stride), patch, tubelet)
    return finished(tokens[places(ids, tokens.shape[1:4])], scale, bias, order, dtype)


def backward(grad: Tensor, ids: Tensor, size: list[int], patch: int, tubelet: int, frame_stride: int, scale: list[float] | None,
             order: Order, dtype: torch.dtype) -> Tensor:  # fmt: skip
    """Gradient of the images, of shape `size`; the transpose of `forward`. Of a token named twice it is the sum."""
    values = unfinished(grad, size[1], patch, tubelet, scale, order, dtype)
    images = values.new_zeros(size)
    tokens = tokens_of(planes(images, frame_stride), patch, tubelet)
    tokens.index_put_(places(ids, tokens.shape[1:4]), values, accumulate=True)  # `tokens` is a view of the images
    return images.to(dtype)


def planes(images: Tensor, frame_stride: int) -> Tensor:
    """Images [batch, channels, height, width] or clips -> [batch, channels, time, height, width], frames 0, s, 2s, ...; a view."""
    return images[:, :, None] if images.ndim == 4 else images[:, :, ::frame_stride]


def tokens_of(clips: Tensor, patch: int, tubelet: int) -> Tensor:
    """[batch, channels, time, height, width] -> [batch, t, h, w, channels, tubelet, patch, patch]; a view."""
    return rearrange(clips, "b c (t u) (h p) (w q) -> b t h w c u p q", u=tubelet, p=patch, q=patch)


def places(ids: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, ...]:
    """ids [batch, kept] -> (b, t, h, w), to index tokens with. An id outside the grid gets the time after the last: torch refuses it."""
    _, rows, columns = grid
    t = (ids // (rows * columns)).masked_fill((ids < 0) | (ids >= math.prod(grid)), grid[0])
    return torch.arange(len(ids), device=ids.device)[:, None], t, ids // columns % rows, ids % columns


def finished(values: Tensor, scale: list[float] | None, bias: list[float] | None, order: Order, dtype: torch.dtype) -> Tensor:
    """scale * values + bias, in float32 or wider: [batch, kept, channels, tubelet, patch, patch], overwritten -> [batch, kept, values].

    Python's numbers, channel by channel: a row of them on a GPU would have to be waited for.
    """
    if scale is not None and bias is not None:
        values = values.to(torch.promote_types(torch.promote_types(values.dtype, torch.float32), dtype))
        for plane, factor, term in zip(values.unbind(2), scale, bias, strict=True):
            plane.mul_(factor).add_(term)
    return rearrange(values, FINISHED[order]).to(dtype).contiguous()


def unfinished(grad: Tensor, channels: int, patch: int, tubelet: int, scale: list[float] | None, order: Order,
               dtype: torch.dtype) -> Tensor:  # fmt: skip
    """The transpose of `finished`: scale * grad, [batch, kept, channels, tubelet, patch, patch], in float32 or wider."""
    into, out = FINISHED[order].split(" -> ")
    values = rearrange(grad, f"{out} -> {into}", c=channels, u=tubelet, p=patch, q=patch)
    values = values.to(torch.promote_types(torch.promote_types(grad.dtype, torch.float32), dtype))
    if scale is None:
        return values
    return torch.stack([plane * factor for plane, factor in zip(values.unbind(2), scale, strict=True)], dim=2)
