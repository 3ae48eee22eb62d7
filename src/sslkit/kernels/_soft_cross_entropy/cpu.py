"""Cross-entropy against weighted classes on a CPU: some rows at a time, which stay in the cache, and the gradient is formed with the loss.

logsumexp(z) = max z - log max softmax(z), so one pass of exponentials serves both; the largest of a softmax is never below 1 / classes.
"""

import torch
from torch import Tensor

from sslkit.kernels._rows import wide

CACHE = 2**18  # numbers of a block; a MiB


def forward(logits: Tensor, targets: Tensor, index: Tensor | None, temperature: float, expected: float | None) -> tuple[Tensor, Tensor]:
    """loss [rows], and the gradient of  expected * sum of the losses  in the logits' dtype; empty if `expected` is None."""
    rows, classes = logits.shape
    dtype = wide(logits.dtype)
    loss = logits.new_empty(rows, dtype=dtype)
    gradient = logits.new_empty(logits.shape if expected is not None else (0,))
    n = targets.sum(dim=1, dtype=dtype)
    size = max(CACHE // max(classes, 1), torch.get_num_threads())  # a softmax runs one row on one thread
    for start in range(0, rows, size):
        block = slice(start, start + size)
        z = logits[block].to(dtype) / temperature
        which = torch.arange(start, min(start + size, rows)) if index is None else index[block]
        q, weight = targets.index_select(0, which).to(dtype), n.index_select(0, which)
        p = z.softmax(dim=1)
        lse = z.amax(dim=1) - p.amax(dim=1).log()
        loss[block] = weight * lse - torch.linalg.vecdot(q, z)
        if expected is not None:
            factor = expected / temperature
            p.mul_((weight * factor)[:, None])
            torch.sub(p, q, alpha=factor, out=gradient[block]) if gradient.dtype == dtype else gradient[block].copy_(
                p.sub_(q, alpha=factor)
            )
    return loss, gradient
