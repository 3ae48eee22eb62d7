"""Rows of length one, and their products."""

from typing import Any

import torch
from torch import Tensor


def unit(x: Tensor, eps: float = 1e-6) -> Tensor:
    """x / max(||x||, eps) along the last axis, in float32 or wider: an eps for 16 bit would round to zero.

    A zero row stays zero, with a slope of 1 / eps: 1e6, where torch's default has 1e12.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.nn.functional.normalize(wide, dim=-1, eps=eps)


def products(a: Tensor, b: Tensor) -> Tensor:
    """a @ b.mT in the dtype of the two: [..., n, dim] and [..., m, dim] -> [..., n, m].

    Autocast changes neither this nor, if it is on there, the backward pass: a product in half precision would lose the digits that
    1 / temperature magnifies.
    """
    out: Tensor = _Products.apply(a, b)
    return out


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        with torch.autocast(a.device.type, enabled=False):
            return a @ b.mT

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        with torch.autocast(a.device.type, enabled=False):
            return gradients[0] @ b, gradients[0].mT @ a
