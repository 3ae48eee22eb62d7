"""Gathering tokens as one Triton kernel each way: every number is read once and written once, nothing is added in memory.

forward:   one row of `out` a program row; the id is read, then the token and its position, or a row of the prefix.
backward:  one row of x's gradient a program row; the inverse map says which row of grad it is, or that it is 0.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sslkit.kernels import _launch
from sslkit.kernels._rows import inverse, wide


@triton.jit(do_not_specialize=["rows", "tokens", "kept", "pitch", "ids_pitch"])
def _gather(x, ids, positions, prefix, out, rows, tokens, kept, pitch, ids_pitch, P: tl.constexpr, D: tl.constexpr, STEP: tl.constexpr,
            POSITIONS_STEP: tl.constexpr, PREFIX_STEP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    length = P + kept
    b = row // length
    p = row - b * length
    live = row < rows
    given = live & (p >= P)
    n = tl.load(ids + b.to(tl.int64) * ids_pitch + (p - P), given, other=0)
    token = (given & (n >= 0) & (n < tokens))[:, None]  # an id from elsewhere reads nothing and gives NaN
    front = (live & (p < P))[:, None]
    all_live = live[:, None]
    if D % COLUMNS != 0:
        token, front, all_live = token & (column < D), front & (column < D), all_live & (column < D)
    n = n.to(tl.int64)
    value = tl.load(x + ((b.to(tl.int64) * pitch + n) * STEP)[:, None] + column, token, other=float("nan")).to(tl.float32)
    if positions is not None:
        value += tl.load(positions + (n * POSITIONS_STEP)[:, None] + column, token, other=0).to(tl.float32)
    if P > 0:
        first = tl.load(prefix + (p * PREFIX_STEP)[:, None] + column, front, other=0).to(tl.float32)
        value = tl.where((p < P)[:, None], first, value)
    tl.store(out + (row.to(tl.int64) * D)[:, None] + column, value.to(out.dtype.element_ty), all_live)


@triton.jit(do_not_specialize=["rows", "tokens", "kept", "pitch"])
def _spread(grad, places, out, rows, tokens, kept, pitch, P: tl.constexpr, D: tl.constexpr, STEP: tl.constexpr, ROWS: tl.constexpr,
            COLUMNS: tl.constexpr):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    live = row < rows
    place = tl.load(places + row, live, other=kept)
    token, all_live = (place < kept)[:, None], live[:, None]
    if D % COLUMNS != 0:
        token, all_live = token & (column < D), all_live & (column < D)
    source = (row // tokens).to(tl.int64) * pitch + P + place
    value = tl.load(grad + (source * STEP)[:, None] + column, token, other=0)
    tl.store(out + (row.to(tl.int64) * D)[:, None] + column, value.to(out.dtype.element_ty), all_live)


def forward(x: Tensor, ids: Tensor, positions: Tensor | None, prefix: Tensor | None, dtype: torch.dtype) -> Tensor:
    """As `reference.forward`; an id outside 0..tokens-1 gives a row of NaN."""
    (batch, tokens, dim), kept = x.shape, ids.shape[1]
    front = 0 if prefix is None else prefix.shape[0]
    out = _launch.empty(x, batch, front + kept, dim, dtype=dtype)
    if out.numel():
        rows, pitch = _launch.rows_of(x)
        ids = _launch.unit_rows(ids)
        positions, prefix = (None if t is None else _launch.unit_rows(t) for t in (positions, prefix))
        steps = [0 if t is None else t.stride(0) for t in (positions, prefix)]
        height, width = _launch.tile(dim)
        grid = (_launch.blocks(batch * (front + kept), height), _launch.blocks(dim, width))
        _launch.launch(_gather, grid, rows, ids, positions, prefix, out, batch * (front + kept), tokens, kept, pitch, ids.stride(0),
                       P=front, D=dim, STEP=rows.stride(0), POSITIONS_STEP=steps[0], PREFIX_STEP=steps[1], ROWS=height,
                       COLUMNS=width)  # fmt: skip
    return out


def backward(grad: Tensor, ids: Tensor, tokens: int, prefix: int, x_dtype: torch.dtype | None, positions_dtype: torch.dtype | None,
             prefix_dtype: torch.dtype | None) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """As `reference.backward`. The gradient of positions is a sum over x's, which is then written in grad's dtype first."""
    (batch, _, dim), kept = grad.shape, ids.shape[1]
    to_x, to_positions, to_prefix = grad.new_empty(0), grad.new_empty(0), grad.new_empty(0)
    if x_dtype is not None or positions_dtype is not None:
        dense = _launch.empty(grad, batch, tokens, dim, dtype=x_dtype if positions_dtype is None else grad.dtype)
        if dense.numel():
            rows, pitch = _launch.rows_of(grad)
            height, width = _launch.tile(dim)
            grid = (_launch.blocks(batch * tokens, height), _launch.blocks(dim, width))
            _launch.launch(_spread, grid, rows, inverse(ids, tokens), dense, batch * tokens, tokens, kept, pitch, P=prefix, D=dim,
                           STEP=rows.stride(0), ROWS=height, COLUMNS=width)  # fmt: skip
        if positions_dtype is not None:
            to_positions = dense.sum(dim=0, dtype=wide(grad.dtype)).to(positions_dtype)
        if x_dtype is not None:
            to_x = dense.to(x_dtype)
    if prefix_dtype is not None:
        to_prefix = grad[:, :prefix].sum(dim=0, dtype=wide(grad.dtype)).to(prefix_dtype)
    return to_x, to_positions, to_prefix
