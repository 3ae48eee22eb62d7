"""Replacing hidden tokens, in plain PyTorch.

out[b, n] = mask_token if mask[b, n] else x[b, n]
"""

import torch
from torch import Tensor

from sslkit.kernels._rows import sum_where


def forward(x: Tensor, mask: Tensor, mask_token: Tensor, dtype: torch.dtype) -> Tensor:
    """[batch, tokens, dim] of `dtype`."""
    return torch.where(mask[..., None], mask_token.to(dtype), x.to(dtype)).contiguous()


def backward(grad: Tensor, mask: Tensor, x_dtype: torch.dtype | None, token_dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """Gradients of x and mask_token; the transpose of `forward`. dtype None: not wanted, and empty."""
    to_x, to_token = grad.new_empty(0), grad.new_empty(0)
    if x_dtype is not None:
        to_x = grad.to(x_dtype).masked_fill(mask[..., None], 0).contiguous()
    if token_dtype is not None:
        to_token = sum_where(mask, grad).to(token_dtype)
    return to_x, to_token
