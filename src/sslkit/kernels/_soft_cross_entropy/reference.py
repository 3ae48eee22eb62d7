"""Cross-entropy against weighted classes, in plain PyTorch.

z = logits[r] / temperature,   q = targets[index[r]],   n = sum of q
loss[r] = n * logsumexp(z) - <q, z>
d loss[r] / d logits[r] = (n * softmax(z) - q) / temperature
"""

import torch
from torch import Tensor

from sslkit.kernels._rows import wide


def forward(logits: Tensor, targets: Tensor, index: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    """loss [rows], and what the gradient needs, [2, rows]: logsumexp(z) and n."""
    z = logits.to(wide(logits.dtype)) / temperature
    q = rows_of(targets, index).to(z.dtype)
    lse, n = z.logsumexp(dim=1), q.sum(dim=1)
    return n * lse - torch.linalg.vecdot(q, z), torch.stack([lse, n])


def backward(grad: Tensor, logits: Tensor, targets: Tensor, index: Tensor | None, saved: Tensor, temperature: float) -> Tensor:
    """Gradient of the logits, in their dtype; softmax(z) is computed again from its logsumexp."""
    z = logits.to(wide(logits.dtype)) / temperature
    lse, n = saved[:, :, None]
    gradient: Tensor = (z - lse).exp() * n - rows_of(targets, index).to(z.dtype)
    return gradient.mul_(grad[:, None] / temperature).to(logits.dtype)


def rows_of(targets: Tensor, index: Tensor | None) -> Tensor:
    return targets if index is None else targets.index_select(0, index)
