"""Putting tokens back in their places, in plain PyTorch.

out[b, p]              = x[b, p] + positions[p]                        p < P
out[b, P + ids[b, k]]  = x[b, P + k] + positions[P + ids[b, k]]
out[b, P + n]          = mask_token + positions[P + n]                 n not in ids[b]
"""

import torch
from torch import Tensor

from sslkit.kernels._rows import row_numbers, sum_where, table, wide, with_prefix


def forward(x: Tensor, ids: Tensor, tokens: int, mask_token: Tensor, positions: Tensor | None, prefix: int,
            dtype: torch.dtype) -> Tensor:  # fmt: skip
    """[batch, P + tokens, dim] of `dtype`: filled with the mask token, then the given rows are copied over it."""
    batch, _, dim = x.shape
    ids, length = with_prefix(ids, prefix), prefix + tokens
    rows = x.flatten(0, 1)
    filling = mask_token
    if positions is not None:
        compute = torch.promote_types(torch.promote_types(x.dtype, mask_token.dtype), torch.promote_types(positions.dtype, dtype))
        filling = mask_token.to(compute) + positions
        rows = positions.to(compute).index_select(0, ids.flatten()).add_(rows)
    out = x.new_empty(batch, length, dim, dtype=dtype)
    out.copy_(filling)
    out.flatten(0, 1).index_copy_(0, row_numbers(ids, length, length), rows.to(dtype))
    return out


def backward(grad: Tensor, ids: Tensor, tokens: int, prefix: int, x_dtype: torch.dtype | None, token_dtype: torch.dtype | None,
             positions_dtype: torch.dtype | None) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, mask_token and positions; the transpose of `forward`. dtype None: not wanted, and empty."""
    batch, length, dim = grad.shape
    ids = with_prefix(ids, prefix)
    to_x, to_token, to_positions = grad.new_empty(0), grad.new_empty(0), grad.new_empty(0)
    if x_dtype is not None:
        rows, pitch = table(grad)
        to_x = rows.index_select(0, row_numbers(ids, length, pitch)).view(batch, ids.shape[1], dim).to(x_dtype)
    if token_dtype is not None:
        hidden = torch.ones(batch, length, device=grad.device, dtype=wide(grad.dtype)).scatter_(1, ids.long(), 0)
        to_token = sum_where(hidden, grad).to(token_dtype)
    if positions_dtype is not None:
        to_positions = grad.sum(dim=0, dtype=wide(grad.dtype)).to(positions_dtype)
    return to_x, to_token, to_positions
