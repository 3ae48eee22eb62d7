"""Softmax of rows in memory that is given, with what their log-sum-exp needs."""

import torch
from torch import Tensor


def softmax_into(x: Tensor, temperature: float, *, z: Tensor, p: Tensor, top: Tensor, share: Tensor) -> None:
    """z = x / temperature and p = softmax(z), [rows, dim]; their rows' largest, [rows]: logsumexp z = top - log share.

    So one pass of exponentials serves both; the largest of a softmax is never below 1 / dim.
    """
    torch.div(x.to(z.dtype), temperature, out=z)
    torch.softmax(z, dim=1, out=p)
    torch.amax(z, dim=1, out=top)
    torch.amax(p, dim=1, out=share)
