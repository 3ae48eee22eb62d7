"""Putting tokens back in their places as one Triton kernel each way.

forward:   one row of `out` a program row: a row of x or the mask token, plus its position.
backward:  one place n and a share of the batch a program: it reads its rows of grad once, passes on those that were kept, and sums all
           of them for the position and the others for the mask token. Shares are summed after: no atomics, the same sums in every run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sslkit.kernels import _launch
from sslkit.kernels._rows import inverse


@triton.jit(do_not_specialize=["rows", "tokens", "kept", "pitch"])
def _restore(x, places, mask_token, positions, out, rows, tokens, kept, pitch, P: tl.constexpr, D: tl.constexpr, STEP: tl.constexpr,
             POSITIONS_STEP: tl.constexpr, SELECT: tl.constexpr, ALIGNED: tl.constexpr, ROWS: tl.constexpr,
             COLUMNS: tl.constexpr):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    length = P + tokens
    b = row // length
    n = row - b * length
    live = row < rows
    place = tl.load(places + (b * tokens + (n - P)), live & (n >= P), other=-1)  # a prefix token is always there
    visible = (place < kept)[:, None]
    source = ((b.to(tl.int64) * pitch + tl.where(n < P, n, P + place)) * STEP)[:, None] + column
    all_live = live[:, None]
    if D % COLUMNS != 0:
        all_live = all_live & (column < D)
    if SELECT:  # one load, from where it is: x and the mask token are of one dtype
        pointer = tl.where(visible, x + source, mask_token + column)
        if ALIGNED:  # the choice hides from the compiler that both are on 16 bytes
            pointer = tl.max_contiguous(tl.multiple_of(pointer, (1, 16)), (1, 8))
        value = tl.load(pointer, all_live, other=0).to(tl.float32)
    else:
        value = tl.load(x + source, all_live & visible, other=0).to(tl.float32)
        value = tl.where(visible, value, tl.load(mask_token + column, column < D, other=0).to(tl.float32))
    if positions is not None:
        value += tl.load(positions + (n.to(tl.int64) * POSITIONS_STEP)[:, None] + column, all_live, other=0).to(tl.float32)
    tl.store(out + (row.to(tl.int64) * D)[:, None] + column, value.to(out.dtype.element_ty), all_live)


@triton.jit(do_not_specialize=["batch", "tokens", "kept", "pitch", "share"])
def _collect(grad, places, to_x, to_token, to_positions, batch, tokens, kept, pitch, share, P: tl.constexpr, D: tl.constexpr,
             STEP: tl.constexpr, BATCH: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    n = tl.program_id(0)
    column = (tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    first = tl.program_id(1) * share
    last = tl.minimum(first + share, batch)
    token_sum = tl.zeros([BATCH, COLUMNS], tl.float32)
    position_sum = tl.zeros([BATCH, COLUMNS], tl.float32)
    for start in range(first, last, BATCH):
        b = start + tl.arange(0, BATCH)
        live = (b < last)[:, None]
        place = tl.load(places + (b * tokens + (n - P)), (b < last) & (n + 0 * b >= P), other=-1)  # as wide as b: scalars are not mixed in
        visible = (place < kept)[:, None]
        if D % COLUMNS != 0:
            live = live & (column < D)
        value = tl.load(grad + ((b.to(tl.int64) * pitch + n) * STEP)[:, None] + column, live, other=0)
        if to_x is not None:
            target = b * (P + kept) + tl.where(n < P, n, P + place)
            tl.store(to_x + (target.to(tl.int64) * D)[:, None] + column, value.to(to_x.dtype.element_ty), live & visible)
        if to_positions is not None:
            position_sum += value.to(tl.float32)
        if to_token is not None:
            token_sum += tl.where(visible, 0.0, value.to(tl.float32))
    partial = (tl.program_id(1) * tl.num_programs(0) + n).to(tl.int64) * D + tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    within = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS) < D
    if to_token is not None:
        tl.store(to_token + partial, tl.sum(token_sum, 0), within)
    if to_positions is not None:
        tl.store(to_positions + partial, tl.sum(position_sum, 0), within)


def forward(x: Tensor, ids: Tensor, tokens: int, mask_token: Tensor, positions: Tensor | None, prefix: int,
            dtype: torch.dtype) -> Tensor:  # fmt: skip
    """As `reference.forward`."""
    (batch, _, dim), kept = x.shape, ids.shape[1]
    out = _launch.empty(x, batch, prefix + tokens, dim, dtype=dtype)
    if out.numel():
        rows, pitch = _launch.rows_of(x)
        mask_token = _launch.unit_rows(mask_token)
        positions = None if positions is None else _launch.unit_rows(positions)
        on_sixteen = rows.stride(0) * x.itemsize % 16 == 0 and rows.data_ptr() % 16 == 0 and mask_token.data_ptr() % 16 == 0
        height, width = _launch.tile(dim)
        grid = (_launch.blocks(batch * (prefix + tokens), height), _launch.blocks(dim, width))
        _launch.launch(_restore, grid, rows, inverse(ids, tokens), mask_token, positions, out, batch * (prefix + tokens), tokens, kept,
                       pitch, P=prefix, D=dim, STEP=rows.stride(0), POSITIONS_STEP=0 if positions is None else positions.stride(0),
                       SELECT=x.dtype == mask_token.dtype, ALIGNED=on_sixteen, ROWS=height, COLUMNS=width)  # fmt: skip
    return out


def backward(grad: Tensor, ids: Tensor, tokens: int, prefix: int, x_dtype: torch.dtype | None, token_dtype: torch.dtype | None,
             positions_dtype: torch.dtype | None) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """As `reference.backward`."""
    (batch, length, dim), kept = grad.shape, ids.shape[1]
    shares = min(max(4 * _launch.processors(grad.device) // max(length, 1), 1), 8)
    to_x = None if x_dtype is None else _launch.empty(grad, batch, prefix + kept, dim, dtype=x_dtype)
    to_token, to_positions = (None if dtype is None else _launch.empty(grad, shares, length, dim, dtype=torch.float32)
                              for dtype in (token_dtype, positions_dtype))  # fmt: skip
    if length and dim and (batch or to_token is not None or to_positions is not None):
        rows, pitch = _launch.rows_of(grad)
        width = _launch.tile(dim)[1]
        grid = (length, shares, _launch.blocks(dim, width))
        _launch.launch(_collect, grid, rows, inverse(ids, tokens), to_x, to_token, to_positions, batch, tokens, kept, pitch,
                       _launch.blocks(batch, shares), P=prefix, D=dim, STEP=rows.stride(0), BATCH=4, COLUMNS=width)  # fmt: skip
    return (
        grad.new_empty(0) if to_x is None else to_x,
        grad.new_empty(0) if to_token is None or token_dtype is None else to_token.sum(dim=(0, 1)).to(token_dtype),
        grad.new_empty(0) if to_positions is None or positions_dtype is None else to_positions.sum(dim=0).to(positions_dtype),
    )
