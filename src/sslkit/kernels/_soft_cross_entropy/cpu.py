"""Cross-entropy against weighted classes on a CPU: some rows at a time, which stay in the cache, and the gradient is formed with the loss.

logsumexp(z) = max z - log max softmax(z), so one pass of exponentials serves both; the largest of a softmax is never below 1 / classes.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from sslkit.kernels._rows import wide

CACHE = 2**16  # numbers of a block; a quarter of a MiB


def blocks(logits: Tensor) -> Iterator[slice]:
    """Rows that are taken together."""
    rows, classes = logits.shape
    size = max(CACHE // classes, torch.get_num_threads())  # a softmax runs one row on one thread
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def forward(logits: Tensor, targets: Tensor, index: Tensor | None, temperature: float, expected: float | None) -> tuple[Tensor, Tensor]:
    """loss [rows], and the gradient of  expected * sum of the losses  in the logits' dtype; empty if `expected` is None."""
    rows = len(logits)
    dtype = wide(logits.dtype)
    loss = logits.new_empty(rows, dtype=dtype)
    gradient = logits.new_empty(logits.shape if expected is not None else (0,))
    n = targets.sum(dim=1, dtype=dtype)
    which = range(rows) if index is None else index.tolist()
    for block in blocks(logits):
        first, last = which[block.start], which[block.stop - 1]
        # Rows that lie together are read where they are; index_select refuses those that are not there.
        if first >= 0 and last < len(targets) and list(which[block]) == list(range(first, last + 1)):
            q, weight = targets[first : last + 1], n[first : last + 1]
        else:
            q, weight = (x.index_select(0, torch.tensor(which[block])) for x in (targets, n))
        z, q = logits[block].to(dtype) / temperature, q.to(dtype)
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
