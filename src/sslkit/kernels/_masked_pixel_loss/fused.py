"""The loss on hidden pixels as one Triton kernel each way: the target is made in registers and never stored.

A lane holds V neighbouring pixels of a token in all channels. It reads them as words of memory and takes these apart by shifts that the
compiler knows, in the order in which the prediction has them: "pqc" and "cpq" cost the same. V is the largest power of two that divides
the side of a patch, up to 16 bytes of the prediction: 8 for patches of 8, 16 and 32 and a prediction of 16 bits, 2 for patches of 14.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sslkit.kernels import _launch
from sslkit.kernels._gather_patches.reference import planes
from sslkit.patches import Order

TYPES = {torch.uint8: tl.uint8, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}
WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@triton.jit
def _sum(x):
    """[rows, lanes, V] -> [rows, 1, 1]."""
    return tl.sum(tl.sum(x, 2, keep_dims=True), 1, keep_dims=True)


@triton.jit
def _taken_apart(words, byte, WIDTH: tl.constexpr, TYPE: tl.constexpr):
    """The numbers of type TYPE that begin at these bytes of a row of words, each of WIDTH bytes, as float32."""
    word = words[0]
    for other in tl.static_range(1, len(words)):
        word = tl.where(byte // WIDTH == other, words[other], word)
    bits = word >> (byte % WIDTH * 8)
    if TYPE.primitive_bitwidth == 8:
        return bits.to(tl.uint8).to(tl.float32)
    elif TYPE.primitive_bitwidth == 16:
        return bits.to(tl.int16).to(TYPE, bitcast=True).to(tl.float32)
    else:
        return bits.to(tl.int32).to(TYPE, bitcast=True)


@triton.jit(do_not_specialize=["rows", "kept", "down", "across", "pitch", "ids_pitch", "grad_pitch", "grad_step"])
def _pixel_loss(prediction, images, ids, grad, out, rows, kept, times, down, across, pitch, ids_pitch, grad_pitch, grad_step, sample,
                channel, frame, line, C: tl.constexpr, CLIP: tl.constexpr, U: tl.constexpr, P: tl.constexpr, STEP: tl.constexpr,
                SCALE: tl.constexpr, BIAS: tl.constexpr, EPS: tl.constexpr, SQUARED: tl.constexpr, PQC: tl.constexpr, TYPE: tl.constexpr,
                ROWS: tl.constexpr, LANES: tl.constexpr, V: tl.constexpr):  # fmt: skip
    PIXELS: tl.constexpr = U * P * P
    F: tl.constexpr = C * PIXELS
    BYTES: tl.constexpr = TYPE.primitive_bitwidth // 8
    WIDTH: tl.constexpr = images.dtype.element_ty.primitive_bitwidth // 8
    EACH: tl.constexpr = V * BYTES // WIDTH  # words a channel
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None, None]
    lane, i = tl.arange(0, LANES)[None, :, None], tl.arange(0, V)[None, None, :]
    pixel = lane * V
    live = row < rows
    b = row // kept
    k = row - b * kept
    n = tl.load(ids + b.to(tl.int64) * ids_pitch + k, live, other=-1)
    known = (n >= 0) & (n < times * down * across)  # an id from elsewhere reads nothing and gives NaN
    inside, within, read = True, live, known
    if LANES * V != PIXELS:
        inside = pixel < PIXELS
        within, read = live & inside, known & inside

    y = n.to(tl.int32) // across
    x = n.to(tl.int32) - y * across
    here = images + b.to(tl.int64) * sample
    if CLIP:
        t = y // down
        y -= t * down
        here += t * U * frame
    here += y * P * line + x * (P * BYTES // WIDTH)
    here += pixel // (P * P) * frame + pixel // P % P * line + pixel % P * BYTES // WIDTH
    words = tl.tuple(())  # not (): what grows has no type in Python
    for o in tl.static_range(C * EACH):
        words = words + (tl.load(here + (o // EACH * channel + o % EACH), read, other=0),)

    values = tl.tuple(())
    total = tl.zeros([ROWS, LANES, V], tl.float32)
    for j in tl.static_range(C):
        c, m = ((j * V + i) % C, (j * V + i) // C) if PQC else (j + 0 * i, i)  # channel and pixel of the lane: constants in each register
        value = _taken_apart(words, (c * V + m) * BYTES, WIDTH, TYPE)
        if SCALE is not None:
            scale, bias = SCALE[0], BIAS[0]
            for other in tl.static_range(1, C):
                scale, bias = tl.where(c == other, SCALE[other], scale), tl.where(c == other, BIAS[other], bias)
            value = value * scale + bias
        values = values + (value,)
        total += tl.where(inside, value, 0)
    mean, inverse = tl.where(known, 0.0, float("nan")), 1.0
    if EPS is not None:
        mean += _sum(total) / F
        square = tl.zeros([ROWS, LANES, V], tl.float32)
        for j in tl.static_range(C):
            d = tl.where(inside, values[j] - mean, 0)
            square += d * d
        inverse = tl.rsqrt(_sum(square) / (F - 1 if F > 1 else 1) + EPS)

    source, slope = prediction + (b.to(tl.int64) * pitch + k) * STEP, 0.0
    if grad is not None:
        slope = tl.load(grad + b.to(tl.int64) * grad_pitch + k.to(tl.int64) * grad_step, live, other=0) * ((2 if SQUARED else 1) / F)
    error = tl.zeros([ROWS, LANES, V], tl.float32)
    for j in tl.static_range(C):
        f = (pixel * C + j * V if PQC else j * PIXELS + pixel) + i
        d = tl.load(source + f, within, other=0).to(tl.float32) - (values[j] - mean) * inverse
        if grad is None:
            d = tl.where(inside, d, 0)
            error += d * d if SQUARED else tl.abs(d)
        else:
            d = d if SQUARED else tl.where(d > 0, 1.0, tl.where(d < 0, -1.0, d))
            tl.store(out + row.to(tl.int64) * F + f, (slope * d).to(out.dtype.element_ty), within)
    if grad is None:
        tl.store(out + row, _sum(error) / F, live)


def forward(prediction: Tensor, images: Tensor, ids: Tensor, patch: int, tubelet: int, frame_stride: int, scale: list[float] | None,
            bias: list[float] | None, eps: float | None, loss: str, order: Order) -> Tensor:  # fmt: skip
    """As `reference.forward`; an id outside the grid gives NaN."""
    out = _launch.empty(prediction, *ids.shape, dtype=torch.float32)
    _run(None, out, prediction, images, ids, patch, tubelet, frame_stride, scale, bias, eps, loss, order)
    return out


def backward(grad: Tensor, prediction: Tensor, images: Tensor, ids: Tensor, patch: int, tubelet: int, frame_stride: int,
             scale: list[float] | None, bias: list[float] | None, eps: float | None, loss: str, order: Order) -> Tensor:  # fmt: skip
    """As `reference.backward`."""
    out = _launch.empty(prediction, *prediction.shape)
    _run(grad, out, prediction, images, ids, patch, tubelet, frame_stride, scale, bias, eps, loss, order)
    return out


def _run(grad: Tensor | None, out: Tensor, prediction: Tensor, images: Tensor, ids: Tensor, patch: int, tubelet: int, frame_stride: int,
         scale: list[float] | None, bias: list[float] | None, eps: float | None, loss: str, order: Order) -> None:  # fmt: skip
    if not out.numel():
        return
    clips, ids, wave = planes(images, frame_stride), _launch.unit_rows(ids), _launch.wave()
    _, channels, time, height, width = clips.shape
    v = min(16 // prediction.itemsize, 256 // wave, patch & -patch)
    lanes = 1 << (tubelet * patch**2 // v - 1).bit_length()
    # A wave has 256 pixels: of several tokens, of one, or a part of a large one, whose waves then sum up through shared memory.
    together, warps = (1024 // (lanes * v), 4) if lanes <= wave else (1, max(lanes * v // 256, 1))
    words = _words(clips, min(8, v * images.itemsize))
    rows, pitch = _launch.rows_of(prediction)
    _launch.launch(
        _pixel_loss, (_launch.blocks(ids.numel(), together),), rows, words, ids, grad, out, ids.numel(), ids.shape[1], time // tubelet,
        height // patch, width // patch, pitch, ids.stride(0), *((0, 0) if grad is None else grad.stride()), *words.stride()[:4],
        C=channels, CLIP=clips.shape[2] > 1, U=tubelet, P=patch, STEP=rows.stride(0), SCALE=None if scale is None else tuple(scale),
        BIAS=None if bias is None else tuple(bias), EPS=eps, SQUARED=loss == "mse", PQC=order == "pqc", TYPE=TYPES[images.dtype],
        ROWS=together, LANES=lanes, V=v, warps=warps,
    )  # fmt: skip


def _words(clips: Tensor, width: int) -> Tensor:
    """The same memory as words of so many bytes; a copy of the images where rows of pixels do not begin on words."""
    starts = (*clips.stride()[:-1], clips.data_ptr() // clips.itemsize)
    if clips.stride(-1) != 1 or any(start * clips.itemsize % width for start in starts):
        clips = clips.clone(memory_format=torch.contiguous_format)
    return clips.view(WORDS[width])
