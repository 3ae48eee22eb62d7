"""Rows of length one."""

import torch
from torch import Tensor


def unit(x: Tensor, eps: float = 1e-6) -> Tensor:
    """x / max(||x||, eps) along the last axis, in float32 or wider: an eps for 16 bit would round to zero. A zero row stays zero."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.nn.functional.normalize(wide, dim=-1, eps=eps)
