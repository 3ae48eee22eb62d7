"""The reference on a CPU, some rows at a time: nothing as large as the logits is made but their gradient, which is rounded once."""

import torch
from torch import Tensor

from sslkit.kernels._rows import wide
from sslkit.kernels._soft_cross_entropy import cpu, reference


def forward(logits: Tensor, targets: Tensor, index: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    """As `reference.forward`."""
    loss, saved = (logits.new_empty(*shape, len(logits), dtype=wide(logits.dtype)) for shape in ((), (2,)))
    for rows in cpu.blocks(logits):
        loss[rows], saved[:, rows] = reference.forward(logits[rows], *_part(targets, index, rows), temperature)
    return loss, saved


def backward(grad: Tensor, logits: Tensor, targets: Tensor, index: Tensor | None, saved: Tensor, temperature: float) -> Tensor:
    """As `reference.backward`."""
    out = torch.empty_like(logits, memory_format=torch.contiguous_format)
    for rows in cpu.blocks(logits):
        out[rows] = reference.backward(grad[rows], logits[rows], *_part(targets, index, rows), saved[:, rows], temperature)
    return out


def _part(targets: Tensor, index: Tensor | None, rows: slice) -> tuple[Tensor, Tensor | None]:
    return (targets[rows], None) if index is None else (targets, index[rows])
