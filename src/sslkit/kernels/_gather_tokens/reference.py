"""Gathering tokens, in plain PyTorch.

out[b, p]     = prefix[p]
out[b, P + k] = x[b, ids[b, k]] + positions[ids[b, k]]
"""

import torch
from torch import Tensor

from sslkit.kernels._rows import row_numbers, table, wide


def forward(x: Tensor, ids: Tensor, positions: Tensor | None, prefix: Tensor | None, dtype: torch.dtype) -> Tensor:
    """[batch, P + kept, dim] of `dtype`. Whole rows are copied: an index as wide as the tokens would cost more than the tokens."""
    (batch, tokens, dim), kept = x.shape, ids.shape[1]
    rows, pitch = table(x)
    out = rows.index_select(0, row_numbers(ids, tokens, pitch)).view(batch, kept, dim)
    if positions is not None:
        compute = torch.promote_types(torch.promote_types(x.dtype, positions.dtype), dtype)
        out = out.to(compute).add_(positions.index_select(0, ids.flatten()).view(batch, kept, dim))
    out = out.to(dtype)
    return out if prefix is None else torch.cat([prefix.to(dtype).expand(batch, -1, -1), out], dim=1)


def backward(grad: Tensor, ids: Tensor, tokens: int, prefix: int, x_dtype: torch.dtype | None, positions_dtype: torch.dtype | None,
             prefix_dtype: torch.dtype | None) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, positions and prefix; the transpose of `forward`. dtype None: not wanted, and empty.

    Rows are copied, not added: exact for unique ids, and no atomics on a GPU.
    """
    batch, dim = grad.shape[0], grad.shape[2]
    to_x, to_positions, to_prefix = grad.new_empty(0), grad.new_empty(0), grad.new_empty(0)
    if x_dtype is not None or positions_dtype is not None:
        dense = grad.new_zeros(batch * tokens, dim)
        dense.index_copy_(0, row_numbers(ids, tokens, tokens), grad[:, prefix:].flatten(0, 1))
        dense = dense.view(batch, tokens, dim)
        if positions_dtype is not None:
            to_positions = dense.sum(dim=0, dtype=wide(grad.dtype)).to(positions_dtype)
        if x_dtype is not None:
            to_x = dense.to(x_dtype)
    if prefix_dtype is not None:
        to_prefix = grad[:, :prefix].sum(dim=0, dtype=wide(grad.dtype)).to(prefix_dtype)
    return to_x, to_positions, to_prefix
