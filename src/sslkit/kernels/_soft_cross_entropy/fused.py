"""Cross-entropy against weighted classes as one Triton kernel each way: nothing as large as the logits is made but their gradient.

forward:   z = logits log2(e) / T.  A lane carries, over its classes, of weights q,
               m = floor(max z),   d = sum of 2^(z - m),   w = sum of q (z - m),   n = sum of q
           and no lane waits for another before the end. Parts that were summed apart are moved to one m and added:
               d <- sum of d 2^(m - top),   w <- sum of w + n (m - top)
               loss = n log d - w log 2,   logsumexp = m log 2 + log d
           Moving is exact, as m is a whole number, and distances to m keep the digits that n logsumexp - <q, z> loses.
backward:  one pass without sums: logsumexp and n are known.

Programs that run together are of one block of classes: rows that share a target find it in the cache.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from sslkit.kernels import _launch

# As float32, and what that lacks.
LOG2E, LOG2E_REST = tl.constexpr(1.4426950216293335), tl.constexpr(1.92596298909109e-08)
LN2, LN2_REST = tl.constexpr(0.6931471824645996), tl.constexpr(-1.904654323148236e-09)
LOWEST = tl.constexpr(-1e30)  # m of no class; finite, so that n (m - top) is 0


@triton.jit
def _merged(m, d, w, n):
    """Parts on axis 0 as one."""
    top = tl.max(m, 0)
    below = m - top
    return top, tl.sum(d * tl.exp2(below), 0), tl.sum(w + n * below, 0), tl.sum(n, 0)


@triton.jit
def _finish(m, d, w, n, loss, saved, row, rows, live):
    log = tl.log(d)
    lse = m * LN2 + log
    lost = tl.fma(m, LN2, -lse) + log + m * LN2_REST  # by rounding: 8e-6 at 200. n takes it, as the gradient has n exp(-lse)
    tl.store(loss + row, n * log - w * LN2, live)
    tl.store(saved + row, lse, live)
    tl.store(saved + rows + row, n * tl.exp2(-lost * LOG2E), live)


@triton.jit
def _target(targets, index, row, kinds, TARGETS_STEP: tl.constexpr):
    """Where the row of targets begins, and whether there is one: an index from elsewhere reads the first and gives NaN."""
    q = row
    if index is not None:
        q = tl.load(index + row).to(tl.int64)
    known = (q >= 0) & (q < kinds)
    return targets + tl.where(known, q, 0) * TARGETS_STEP, known


@triton.jit(do_not_specialize=["rows", "kinds", "share"])
def _forward(logits, targets, index, parts, loss, saved, rows, kinds, share, scale, K: tl.constexpr, STEP: tl.constexpr,
             TARGETS_STEP: tl.constexpr, LANES: tl.constexpr, V: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    target, known = _target(targets, index, row, kinds, TARGETS_STEP)
    # Lanes on the last axis: sums over it, of what is loaded, are rewritten by Triton 3.8 as if n had no second use, which ends in a crash.
    class_ = tl.arange(0, LANES)[None, :] * V + tl.arange(0, V)[:, None]
    m = tl.full([LANES], LOWEST, tl.float32)
    w, n = tl.zeros([LANES], tl.float32), tl.zeros([LANES], tl.float32)
    d = n + tl.where(known, 0.0, float("nan"))
    first = tl.program_id(1) * share
    last = tl.where(known, tl.minimum(first + share, (K + LANES * V - 1) // (LANES * V)), first)
    for block in range(first, last):
        k = block * (LANES * V) + class_
        live = k < K if K % (LANES * V) != 0 else tl.full([V, LANES], True, tl.int1)
        x = tl.load(logits + row * STEP + k, live, other=float("-inf")).to(tl.float32)
        q = tl.load(target + k, live, other=0).to(tl.float32)
        top = tl.maximum(m, tl.floor(tl.max(x, 0) * scale))
        z = x * scale - top[None, :]
        d = d * tl.exp2(m - top) + tl.sum(tl.exp2(z), 0)
        if K % (LANES * V) != 0:
            z = tl.where(live, z, 0)  # 0 * -inf would be NaN
        w += n * (m - top) + tl.sum(q * z, 0)
        n += tl.sum(q, 0)
        m = top
    m, d, w, n = _merged(m, d, w, n)
    if parts is None:
        _finish(m, d, w, n, loss, saved, row, rows, True)
    else:  # [4, slices, rows]
        part = parts + tl.program_id(1) * rows + row
        step = tl.num_programs(1) * rows
        tl.store(part, m)
        tl.store(part + step, d)
        tl.store(part + 2 * step, w)
        tl.store(part + 3 * step, n)


@triton.jit(do_not_specialize=["rows", "slices"])
def _combine(parts, loss, saved, rows, slices, SLICES: tl.constexpr, ROWS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    slice_ = tl.arange(0, SLICES)[:, None]
    live = (slice_ < slices) & (row < rows)
    part, step = parts + slice_ * rows + row, slices * rows
    m, d = tl.load(part, live, other=LOWEST), tl.load(part + step, live, other=1)
    w, n = tl.load(part + 2 * step, live, other=0), tl.load(part + 3 * step, live, other=0)
    m, d, w, n = _merged(m, d, w, n)
    _finish(m, d, w, n, loss, saved, row, rows, row < rows)


@triton.jit(do_not_specialize=["rows", "kinds", "grad_step"])
def _backward(grad, logits, targets, index, saved, out, rows, kinds, grad_step, scale, inverse, K: tl.constexpr, STEP: tl.constexpr,
              TARGETS_STEP: tl.constexpr, LANES: tl.constexpr, V: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    target, _ = _target(targets, index, row, kinds, TARGETS_STEP)  # lse is NaN where there is none
    k = tl.program_id(1) * (LANES * V) + tl.arange(0, LANES)[None, :] * V + tl.arange(0, V)[:, None]
    live = k < K if K % (LANES * V) != 0 else tl.full([V, LANES], True, tl.int1)
    lse, n = tl.load(saved + row), tl.load(saved + rows + row)
    base2 = lse * LOG2E
    n *= tl.exp2(-tl.fma(lse, LOG2E, -base2) - lse * LOG2E_REST)  # again what is lost
    slope = tl.load(grad + row * grad_step) * inverse
    x = tl.load(logits + row * STEP + k, live, other=float("-inf")).to(tl.float32)
    q = tl.load(target + k, live, other=0).to(tl.float32)
    gradient = slope * n * tl.exp2(x * scale - base2) - slope * q
    tl.store(out + row * K + k, gradient.to(out.dtype.element_ty), live)


def forward(logits: Tensor, targets: Tensor, index: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    """As `reference.forward`; an index outside the targets gives NaN."""
    rows = len(logits)
    loss, saved = _launch.empty(logits, rows, dtype=torch.float32), _launch.empty(logits, 2, rows, dtype=torch.float32)
    if rows:
        logits, targets, index, constants = _read(logits, targets, index)
        share, slices = _slices(rows, _blocks(constants), _launch.processors(logits.device))
        parts = _launch.empty(logits, 4, slices, rows, dtype=torch.float32) if slices > 1 else None
        _launch.launch(_forward, (rows, slices), logits, targets, index, parts, loss, saved, rows, len(targets), share,
                       _scale(temperature), **constants)  # fmt: skip
        if parts is not None:
            _launch.launch(_combine, (_launch.blocks(rows, 32),), parts, loss, saved, rows, slices, SLICES=8, ROWS=32, warps=1)
    return loss, saved


def backward(grad: Tensor, logits: Tensor, targets: Tensor, index: Tensor | None, saved: Tensor, temperature: float) -> Tensor:
    """As `reference.backward`."""
    out = _launch.empty(logits, *logits.shape)
    if not len(targets):
        return out.fill_(math.nan)  # no row that an index could name
    if len(logits):
        logits, targets, index, constants = _read(logits, targets, index)
        _launch.launch(_backward, (len(logits), _blocks(constants)), grad, logits, targets, index, saved, out, len(logits), len(targets),
                       grad.stride(0), _scale(temperature), 1 / temperature, **constants)  # fmt: skip
    return out


def _scale(temperature: float) -> float:
    return 1 / (math.log(2) * temperature)


def _blocks(constants: dict[str, int]) -> int:
    return _launch.blocks(constants["K"], constants["LANES"] * constants["V"])


def _slices(rows: int, blocks: int, processors: int) -> tuple[int, int]:
    """(blocks of a slice, slices): few rows are cut until every processor has four programs, into slices that are not empty."""
    share = _launch.blocks(blocks, min(_launch.blocks(4 * processors, rows), 8))
    return share, _launch.blocks(blocks, share)


def _read(logits: Tensor, targets: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None, dict[str, int]]:
    """What the kernels read, rows side by side in memory, and their constants.

    V classes of a lane are 16 bytes of logits where rows begin on 16 bytes, else fewer; a block has 2048 classes, or 512 lanes.
    """
    logits, targets = _launch.unit_rows(logits), _launch.unit_rows(targets)
    index = None if index is None else _launch.unit_rows(index)
    classes, starts = logits.shape[1], logits.shape[1]
    for x in (logits, targets):
        starts |= x.stride(0) | x.data_ptr() // x.itemsize
    v = min(16 // logits.itemsize, starts & -starts)
    lanes = min(512, 2048 // v, max(1 << (classes - 1).bit_length(), v) // v)
    return logits, targets, index, {"K": classes, "STEP": logits.stride(0), "TARGETS_STEP": targets.stride(0), "LANES": lanes, "V": v,
                                    "warps": min(max(lanes // 32, 1), 4)}  # fmt: skip
