"""Replacing hidden tokens on a CPU: a copy of everything, then whole rows over it.

A select with one flag per row reads the flag once per number there and takes longer than the copy and the rows. The number of
hidden rows depends on the mask's values, which on a CPU costs nothing to look at.
"""

import torch
from torch import Tensor

from sslkit.kernels._rows import sum_where


def forward(x: Tensor, mask: Tensor, mask_token: Tensor, dtype: torch.dtype) -> Tensor:
    """[batch, tokens, dim] of `dtype`."""
    out = x.to(dtype, copy=True, memory_format=torch.contiguous_format)
    hidden = _rows(mask)
    out.flatten(0, 1).index_copy_(0, hidden, mask_token.to(dtype).expand(len(hidden), -1))
    return out


def backward(grad: Tensor, mask: Tensor, x_dtype: torch.dtype | None, token_dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """Gradients of x and mask_token. dtype None: not wanted, and empty."""
    to_x, to_token = grad.new_empty(0), grad.new_empty(0)
    if x_dtype is not None:
        to_x = grad.to(x_dtype, copy=True, memory_format=torch.contiguous_format)
        to_x.flatten(0, 1).index_fill_(0, _rows(mask), 0)
    if token_dtype is not None:
        to_token = sum_where(mask, grad).to(token_dtype)
    return to_x, to_token


def _rows(mask: Tensor) -> Tensor:
    return mask.flatten().nonzero().flatten()
