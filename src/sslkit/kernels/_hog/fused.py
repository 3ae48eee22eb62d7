"""Histograms of oriented gradients as one Triton kernel: a cell of one channel is one thread's own, from its pixels to its numbers.

    right[q] = sum of the magnitudes with g >= 0 that reach q limits or more          q = 0..4, limits tan(20), tan(40), tan(60), tan(80)
    left[q]  = the same of those with g < 0
    hist     = right[0] - right[1], ..., right[3] - right[4], right[4] + left[4], left[3] - left[4], ..., left[0] - left[1]

For cells of 8 x 8 pixels and 9 bins. A thread walks down the rows of its cell and keeps the two above. Gradients and comparisons are the
definition's, in its order, so that every pixel gets the same bin. Where no pixel lies between two limits, both sums had the same addends,
and their difference is exactly 0; it is never below, as a rounded sum does not shrink by an addend that is not below 0.
"""

# mypy: disable-error-code="assignment,misc"
# Tuples of a kernel grow, which Python's types forbid.

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from sslkit.kernels import _launch
from sslkit.kernels._hog.reference import EPS, limits, planes


@triton.jit
def _number(value, KIND: tl.constexpr):
    """A pixel as float32: a number of this kind, or the lowest bits of a word."""
    if value.dtype.is_floating():
        return value.to(tl.float32)
    elif KIND == tl.uint8:
        # The bits of 2^23 + level. Pixels are only ever subtracted, which leaves no trace of 2^23; conversions would cost 5 % of all work.
        return (value.to(tl.int32) & 255 | 0x4B000000).to(tl.float32, bitcast=True)
    elif KIND.primitive_bitwidth == 16:
        return value.to(tl.int16).to(KIND, bitcast=True).to(tl.float32)
    else:
        return value.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _row(pixel, across, live, before, after, WORDS: tl.constexpr):
    """Pixels -1 to 8 of a row, mirrored where the image ends before or after them. What is not live is not read."""
    kind: tl.constexpr = pixel.dtype.element_ty
    bits: tl.constexpr = kind.primitive_bitwidth
    first = _number(tl.load(pixel - across, live & before), kind)
    last = _number(tl.load(pixel + 8 * across, live & after), kind)
    inside = ()
    if WORDS:
        for k in tl.static_range(bits // 8):
            word = tl.load(pixel.to(tl.pointer_type(tl.int64)) + k, live)
            for j in tl.static_range(64 // bits):
                inside = inside + (_number(word >> (j * bits), kind),)
    else:
        for j in tl.static_range(8):
            inside = inside + (_number(tl.load(pixel + j * across, live), kind),)
    return (tl.where(before, first, inside[1]),) + inside + (tl.where(after, last, inside[6]),)


@triton.jit
def _differences(row):
    """left - right of each pixel."""
    out = ()
    for j in tl.static_range(8):
        out = out + (row[j] - row[j + 2],)
    return out


@triton.jit
def _add_twice(a, b):
    out = ()
    for j in tl.static_range(8):
        out = out + (a[j] + 2 * b[j],)
    return out


@triton.jit
def _bell(place, WINDOW: tl.constexpr, FALL: tl.constexpr):
    x = (place % WINDOW).to(tl.float32) - (WINDOW - 1) / 2
    return tl.exp2(x * x * FALL)


@triton.jit
def _add(right, left, gx, gy, magnitude, LIMITS: tl.constexpr):
    """The sums with a pixel of this gradient, added to those of every limit it reaches; q = 0 is reached by all."""
    g = (gx.to(tl.int32, bitcast=True) ^ (gy.to(tl.int32, bitcast=True) & -(2**31))).to(tl.float32, bitcast=True)  # gx * sign(gy)
    on_the_right, on_the_left = tl.where(g >= 0, magnitude, 0.0), tl.where(g >= 0, 0.0, magnitude)
    rights, lefts = (), ()
    for q in tl.static_range(1, 5):
        reached = tl.where(tl.abs(gx) >= tl.abs(gy) * LIMITS[q - 1], 1.0, 0.0)  # a factor: one instruction less than a choice
        rights, lefts = rights + (right[q] + reached * on_the_right,), lefts + (left[q] + reached * on_the_left,)
    return (right[0] + on_the_right,) + rights, (left[0] + on_the_left,) + lefts


@triton.jit
def _bins(right, left):
    return (right[0] - right[1], right[1] - right[2], right[2] - right[3], right[3] - right[4], right[4] + left[4],
            left[3] - left[4], left[2] - left[3], left[1] - left[2], left[0] - left[1])  # fmt: skip


@triton.jit(do_not_specialize=["cells", "kept", "tokens", "grid_h", "grid_w", "height", "width", "to_row_of_ids", "to_sample",
                               "to_channel", "to_frame", "down"])  # fmt: skip
def _histograms(images, ids, out, cells, kept, tokens, grid_h, grid_w, height, width, to_row_of_ids, to_sample, to_channel, to_frame,
                down, across, CHANNELS: tl.constexpr, SIDE: tl.constexpr, WORDS: tl.constexpr, LIMITS: tl.constexpr, EPS: tl.constexpr,
                WINDOW: tl.constexpr, FALL: tl.constexpr, SCALE: tl.constexpr, CELLS: tl.constexpr):  # fmt: skip
    # where: cell = ((b * kept + k) * CHANNELS + channel) * SIDE^2 + place
    cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    live = cell < cells
    plane, place = cell // (SIDE * SIDE), cell % (SIDE * SIDE)
    token, channel = plane // CHANNELS, plane % CHANNELS
    b = token // kept
    n = token - b * kept
    if ids is not None:
        n = tl.load(ids + b.to(tl.int64) * to_row_of_ids + n, live, other=-1)
    known = live & (n >= 0) & (n < tokens)  # an id from elsewhere reads nothing and gives NaN
    n = n.to(tl.int32)
    time, n = n // (grid_h * grid_w), n % (grid_h * grid_w)
    y, x = (n // grid_w * SIDE + place // SIDE) * 8, (n % grid_w * SIDE + place % SIDE) * 8
    before, after = x > 0, x + 8 < width
    across = tl.full([], across, tl.int64)  # 8 * across may pass 2^31
    image = images + b.to(tl.int64) * to_sample + channel.to(tl.int64) * to_channel + time.to(tl.int64) * to_frame
    pixel = image + y.to(tl.int64) * down + x.to(tl.int64) * across

    # the walk: `twice` is  above + 2 * here  of the differences across
    above = _row(pixel + tl.where(y > 0, -down, down), across, known, before, after, WORDS)
    here = _row(pixel, across, known, before, after, WORDS)
    across_here = _differences(here)
    twice = _add_twice(_differences(above), across_here)
    zero = tl.zeros([CELLS], tl.float32)
    right, left = (zero, zero, zero, zero, zero), (zero, zero, zero, zero, zero)
    for row in tl.range(0, 8, loop_unroll_factor=2):
        pixel += tl.where(y + row + 1 < height, down, -down)
        below = _row(pixel, across, known, before, after, WORDS)
        across_below = _differences(below)
        for j in tl.static_range(8):
            gx = twice[j] + across_below[j]
            gy = ((above[j] - below[j]) + 2 * (above[j + 1] - below[j + 1])) + (above[j + 2] - below[j + 2])
            magnitude = tl.sqrt(gx * gx + gy * gy)
            if WINDOW is not None:
                magnitude *= SCALE * _bell(y + row, WINDOW, FALL) * _bell(x + j, WINDOW, FALL)
            right, left = _add(right, left, gx, gy, magnitude, LIMITS)
        twice, across_here, above, here = _add_twice(across_here, across_below), across_below, here, below

    hist = _bins(right, left)
    square = zero
    for k in tl.static_range(9):
        square += hist[k] * hist[k]
    # a NaN in one bin reaches all of the cell, as in the definition: by itself the maximum would drop it
    square = tl.maximum(square, EPS * EPS, propagate_nan=tl.PropagateNan.ALL)
    factor = tl.where(known, tl.rsqrt(square), float("nan"))
    values = out + plane.to(tl.int64) * (9 * SIDE * SIDE) + place
    for k in tl.static_range(9):
        tl.store(values + k * SIDE * SIDE, hist[k] * factor, live)


def forward(images: Tensor, ids: Tensor | None, cell: int, bins: int, window: int | None, patch: int, step: int) -> Tensor:
    """As `reference.forward`, float32; an id outside 0..tokens-1 gives a row of NaN."""
    v = planes(images, step)
    batch, channels, time, height, width = v.shape
    grid_h, grid_w, side = height // patch, width // patch, patch // cell
    tokens = time * grid_h * grid_w
    kept = tokens if ids is None else ids.shape[1]
    cells, together = batch * kept * channels * side**2, 4 * _launch.wave()
    out = _launch.empty(v, batch, kept, channels * bins * side**2, dtype=torch.float32)
    if cells:
        ids = None if ids is None else _launch.unit_rows(ids)
        fall, scale = (None, None) if window is None else bell(window)
        _launch.launch(_histograms, (_launch.blocks(cells, together),), v, ids, out, cells, kept, tokens, grid_h, grid_w, height, width,
                       0 if ids is None else ids.stride(0), *v.stride(), CHANNELS=channels, SIDE=side, WORDS=in_words(v),
                       LIMITS=tuple(limits(bins)), EPS=EPS, WINDOW=window, FALL=fall, SCALE=scale, CELLS=together)  # fmt: skip
    return out


def bell(window: int) -> tuple[float, float]:
    """(fall, scale) of the Gaussian: its tile at (y, x) is  scale * 2^(fall * ((y - middle)^2 + (x - middle)^2)),  sum 1."""
    fall = -0.5 / (window // 2) ** 2 / math.log(2)
    return fall, sum(2 ** (fall * (x - (window - 1) / 2) ** 2) for x in range(window)) ** -2


def in_words(v: Tensor) -> bool:
    """Whether each row of a cell is whole int64 words in memory, beginning on 8 bytes. A GPU stops at a word that does not."""
    return v.stride(-1) == 1 and v.data_ptr() % 8 == 0 and all(step * v.itemsize % 8 == 0 for step in v.stride()[:-1])
