"""Histograms of oriented gradients on a CPU: a piece at a time that stays in cache, and one addition per pixel.

The gradients and comparisons of the definition, in its order, so that every pixel gets the same bin; limits are counted in floating
point, where a comparison writes a number that the next operation can use. The magnitude of a pixel is then added to one place of a
table [slots, cells]: slot q for g >= 0 and R + q for g < 0, where q counts the limits reached and R is the number of slots on the right.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from sslkit.kernels._hog.reference import gaussian, gradients, limits, normalized, planes, tokens
from sslkit.kernels._rows import wide

PIXELS = 2**18  # of a block, of which ten or so planes exist at a time


def forward(images: Tensor, ids: Tensor | None, cell: int, bins: int, window: int | None, patch: int, step: int) -> Tensor:
    """[batch, tokens, values], float32 or wider."""
    v = planes(images, step)
    dtype = wide(images.dtype)
    rows, columns = (size // patch * patch for size in v.shape[-2:])
    hist = torch.empty(*v.shape[:3], bins, rows // cell, columns // cell, dtype=dtype)
    bell = None if window is None else gaussian(window, rows, columns, hist)
    places: dict[torch.Size, Tensor] = {}
    for *planes_of, top, bottom in blocks(v.shape[:3], rows, columns, cell):
        block = mirrored_block(v[tuple(planes_of)], top, bottom, columns, dtype)
        gx, gy = gradients(block.flatten(0, 2))
        weight = None if bell is None else bell[top:bottom]
        if gx.shape not in places:
            places[gx.shape] = numbers(gx, cell)
        part = histogram(gx, gy, weight, places[gx.shape], cell, bins)
        hist[(*planes_of, slice(None), slice(top // cell, bottom // cell))] = part.view(*block.shape[:3], *part.shape[1:])
    return tokens(normalized(hist), ids, patch // cell)


def blocks(planes: torch.Size, rows: int, columns: int, cell: int) -> Iterator[tuple[slice, slice, slice, int, int]]:
    """(samples, channels, frames, first row, last row + 1) of pieces of about PIXELS pixels.

    As many whole samples as fit, or else frames of a sample, or else channels of a frame, or else rows of cells of a channel.
    """
    batch, channels, time = planes
    fit = max(PIXELS // (rows * columns), 1)  # planes
    of_channels = max(min(fit, channels), 1)
    of_time = max(min(fit // of_channels, time), 1)
    of_batch = max(fit // (of_channels * of_time), 1)
    height = rows if rows * columns <= PIXELS else max(PIXELS // columns // cell, 1) * cell
    for sample in range(0, batch, of_batch):
        for frame in range(0, time, of_time):
            for channel in range(0, channels, of_channels):
                for top in range(0, rows, height):
                    yield (slice(sample, sample + of_batch), slice(channel, channel + of_channels), slice(frame, frame + of_time),
                           top, min(top + height, rows))  # fmt: skip


def mirrored_block(v: Tensor, top: int, bottom: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Rows top - 1 to bottom, columns -1 to `columns` of v [..., height, width], mirrored where v ends."""
    height, width = v.shape[-2:]
    first, last, right = max(top - 1, 0), min(bottom + 1, height), min(columns + 1, width)
    out = v.new_empty(*v.shape[:-2], bottom - top + 2, columns + 2, dtype=dtype)
    out[..., first - top + 1 : last - top + 1, 1 : right + 1] = v[..., first:last, :right]
    if top == 0:
        out[..., 0, :] = out[..., 2, :]
    if bottom == height:
        out[..., -1, :] = out[..., -3, :]
    out[..., 0] = out[..., 2]
    if columns == width:
        out[..., -1] = out[..., -3]
    return out


def numbers(like: Tensor, cell: int) -> Tensor:
    """[channels, rows, columns], int64: the number of the cell that a pixel lies in."""
    channels, rows, columns = like.shape
    cells = (channels, rows // cell, columns // cell)
    return torch.arange(math.prod(cells)).view(cells).repeat_interleave(cell, dim=1).repeat_interleave(cell, dim=2)


def histogram(gx: Tensor, gy: Tensor, weight: Tensor | None, place: Tensor, cell: int, bins: int) -> Tensor:
    """[channels, bins, cell rows, cell columns] of the gradients [channels, rows, columns], which are written over."""
    channels, rows, columns = gx.shape
    magnitude = (gx * gx).addcmul_(gy, gy).sqrt_()
    if weight is not None:
        magnitude *= weight
    left = torch.lt(gx * gy.sign(), 0, out=torch.empty_like(gx))  # 1 where g < 0. gy = 0 gives g = 0: its bin is the same on either side
    size, height, reached = gx.abs_(), gy.abs_(), torch.empty_like(gx)
    bounds = limits(bins)
    on_the_right, on_the_left = (bins + 2) // 2, (bins + 1) // 2  # slots
    slot = left * on_the_right
    for limit in bounds:
        slot += torch.ge(size, torch.mul(height, limit, out=reached), out=reached)
        if limit == 1.0:
            slot -= torch.eq(size, height, out=reached).mul_(left)
    if bins % 2 == 0:
        slot += torch.eq(height, 0, out=reached)
    cells = (channels, rows // cell, columns // cell)
    count = math.prod(cells)
    table = gx.new_zeros((on_the_right + on_the_left) * count)
    table.scatter_add_(0, torch.add(place, slot.to(torch.int64), alpha=count).flatten(), magnitude.flatten())
    slots = table.view(-1, *cells)
    hist = table.new_zeros(bins, *cells)
    hist[:on_the_right] = slots[:on_the_right]
    hist[bins - on_the_left :] += slots[on_the_right:].flip(0)
    return hist.transpose(0, 1)
