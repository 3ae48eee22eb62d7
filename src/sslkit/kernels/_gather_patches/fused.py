"""Cutting tokens out of images as one Triton kernel: the pixels of named tokens are read once, and written once.

A program takes some tokens, or a piece of a large one, plane by plane: channel c, frame u. Its threads stand along the pixels of a plane,
each writing 16 bytes; in the order "pqc" they write number by number, through shared memory.

Sizes, strides and the channels' numbers are constants of the machine code: known strides are what lets a run of pixels be read at once, and
numbers in a tensor would have to be sent to the GPU. A new image size is compiled at its first use, which takes about a second.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sslkit.kernels import _launch
from sslkit.kernels._gather_patches.reference import planes
from sslkit.patches import Order


@triton.jit(do_not_specialize=["rows", "kept", "tokens", "ids_pitch"])
def _cut(images, ids, out, rows, kept, tokens, ids_pitch, C: tl.constexpr, U: tl.constexpr, P: tl.constexpr, DOWN: tl.constexpr,
         ACROSS: tl.constexpr, SAMPLE: tl.constexpr, CHANNEL: tl.constexpr, FRAME: tl.constexpr, LINE: tl.constexpr, PIXEL: tl.constexpr,
         SCALE: tl.constexpr, BIAS: tl.constexpr, CPQ: tl.constexpr, ROWS: tl.constexpr, PIXELS: tl.constexpr):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    pixel = (tl.program_id(1) * PIXELS + tl.arange(0, PIXELS))[None, :]  # of the P * P in a plane
    live = row < rows
    b = row // kept
    n = tl.load(ids + b.to(tl.int64) * ids_pitch + (row - b * kept), live, other=-1)
    known = (n >= 0) & (n < tokens)  # an id from elsewhere reads nothing and gives NaN
    n = n.to(tl.int32)
    t, h, w = n // (DOWN * ACROSS), n // ACROSS % DOWN, n % ACROSS
    corner = b.to(tl.int64) * SAMPLE + t.to(tl.int64) * (U * FRAME) + (h * P).to(tl.int64) * LINE + (w * P).to(tl.int64) * PIXEL
    source = images + corner[:, None] + ((pixel // P).to(tl.int64) * LINE + (pixel % P).to(tl.int64) * PIXEL)
    target = out + (row.to(tl.int64) * (C * U * P * P))[:, None]
    read, write = known[:, None], live[:, None]
    if (P * P) % PIXELS != 0:
        read, write = read & (pixel < P * P), write & (pixel < P * P)
    for c in tl.static_range(C):
        for u in tl.static_range(U):
            plane = source + (c * CHANNEL + u * FRAME)
            if SCALE is None:
                value = tl.load(plane, read, other=float("nan"))
            else:  # levels have no NaN: it comes in with the bias
                bias = tl.where(known, BIAS[c], float("nan"))[:, None]
                value = tl.load(plane, read, other=0).to(tl.float32) * SCALE[c] + bias
            place = (c * U + u) * (P * P) + pixel if CPQ else (u * (P * P) + pixel) * C + c
            tl.store(target + place, value.to(out.dtype.element_ty), write)


def forward(images: Tensor, ids: Tensor, patch: int, tubelet: int, frame_stride: int, scale: list[float] | None, bias: list[float] | None,
            order: Order, dtype: torch.dtype) -> Tensor:  # fmt: skip
    """As `reference.forward`, and no layout of the images is copied first; an id outside the grid gives a row of NaN."""
    clips = planes(images, frame_stride)
    (batch, channels, time, height, width), kept = clips.shape, ids.shape[1]
    out = _launch.empty(images, batch, kept, channels * tubelet * patch**2, dtype=dtype)
    if out.numel():
        ids = _launch.unit_rows(ids)
        down, across = height // patch, width // patch
        numbers = 128 * 16 // dtype.itemsize  # of a program: 16 bytes for each of its threads
        pixels = min(numbers, 1 << (patch**2 - 1).bit_length())
        strides = dict(zip(("SAMPLE", "CHANNEL", "FRAME", "LINE", "PIXEL"), clips.stride(), strict=True))
        grid = (_launch.blocks(batch * kept, numbers // pixels), _launch.blocks(patch**2, pixels))
        _launch.launch(_cut, grid, images, ids, out, batch * kept, kept, time // tubelet * down * across, ids.stride(0), C=channels,
                       U=tubelet, P=patch, DOWN=down, ACROSS=across, **strides, SCALE=None if scale is None else tuple(scale),
                       BIAS=None if bias is None else tuple(bias), CPQ=order == "cpq", ROWS=numbers // pixels, PIXELS=pixels)  # fmt: skip
    return out
