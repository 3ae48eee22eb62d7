"""Cross-entropy against weighted classes on a CPU: some rows at a time, which stay in the cache; the gradient is formed with the loss."""

from collections.abc import Iterator

import torch
from torch import Tensor

from sslkit.kernels._rows import wide
from sslkit.kernels._softmax import softmax_into

CACHE = 2**17  # numbers of a block; half a MiB


def block_rows(logits: Tensor) -> int:
    """Rows that are taken together."""
    return max(CACHE // logits.shape[1], torch.get_num_threads())  # a softmax runs one row on one thread


def blocks(logits: Tensor) -> Iterator[slice]:
    """All rows, by blocks."""
    rows, size = len(logits), block_rows(logits)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def forward(logits: Tensor, targets: Tensor, index: Tensor | None, temperature: float, expected: float | None) -> tuple[Tensor, Tensor]:
    """loss [rows], and the gradient of  expected * sum of the losses  in the logits' dtype; empty if `expected` is None."""
    (rows, classes), size, dtype = logits.shape, block_rows(logits), wide(logits.dtype)
    n = targets.sum(dim=1, dtype=dtype)
    if index is not None:
        n = n.index_select(0, index)  # refuses rows that are not there
    which = None if index is None else index.tolist()
    gradient = logits.new_empty(logits.shape if expected is not None else (0,))
    factor = 0.0 if expected is None else expected / temperature
    top, share, score = logits.new_empty(3, rows, dtype=dtype)  # max z, max softmax(z), <q, z>
    z_, p_ = logits.new_empty(2, min(size, rows), classes, dtype=dtype)
    parts = zip(*(torch.split(x, size) for x in (logits, top, share, score, n * factor)), strict=True)
    slopes = torch.split(gradient, size)
    for i, (x, top_, share_, score_, scale) in enumerate(parts):
        z, p = z_[: len(x)], p_[: len(x)]  # the last block may be shorter
        q = _block(targets, which, i * size, len(x)).to(dtype)
        softmax_into(x, temperature, z=z, p=p, top=top_, share=share_)
        torch.sum(z.mul_(q), 1, out=score_)
        if expected is not None:
            p.mul_(scale[:, None])
            torch.sub(p, q, alpha=factor, out=slopes[i]) if gradient.dtype == dtype else slopes[i].copy_(p.sub_(q, alpha=factor))
    return n * (top - share.log()) - score, gradient


def _block(targets: Tensor, which: list[int] | None, start: int, rows: int) -> Tensor:
    """The targets of these rows of logits; where they lie together they are read there."""
    if which is None:
        return targets[start : start + rows]
    kinds = which[start : start + rows]
    first = kinds[0] if kinds else 0
    return targets[first : first + rows] if kinds == list(range(first, first + rows)) else targets[kinds]
