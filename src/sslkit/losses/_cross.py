"""Products over the batch, in full precision both ways."""

from typing import Any

import torch
from torch import Tensor


def cross(a: Tensor, b: Tensor) -> Tensor:
    """a.mT @ b: [..., batch, n], [..., batch, m] -> [..., n, m], in their dtype under autocast, too.

    A backward pass inside autocast would make its products in 16 bit, whatever the forward pass did: hence a function of its own.
    """
    out: Tensor = _Cross.apply(a, b)
    return out


class _Cross(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        with torch.autocast(a.device.type, enabled=False):
            return a.mT @ b

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        with torch.autocast(a.device.type, enabled=False):
            return b @ gradients[0].mT, a @ gradients[0]
