"""NT-Xent: the contrastive loss of SimCLR."""

import torch
from torch import Tensor

from sslkit._checks import bind_axes, need_floating, need_positive
from sslkit._unit import products, unit
from sslkit.distributed import Group, gather, global_mean


def nt_xent(z1: Tensor, z2: Tensor, *, temperature: float = 0.1, group: Group | None = None) -> Tensor:
    """Normalised-temperature cross-entropy: every row finds its other view among all rows of both views.

        z = unit(concat(z1, z2))                                              2N rows
        s[i, j] = <z[i], z[j]> / temperature
        loss = mean over i of  -log( exp s[i, p(i)] / sum over j != i of exp s[i, j] )        p(i) = (i + N) mod 2N

    Args:
        z1: [batch, dim], projections of one view of each image, not necessarily normalised; floating.
        z2: [batch, dim], those of the other view.
        temperature: above 0. The paper's is 0.1 on ImageNet and 0.5 on CIFAR-10.
        group: candidates are the rows of all these processes; batch may differ between ranks (see `sslkit.distributed`).

    Returns:
        Scalar, float32 or wider: in [0, inf), log(2N - 1) if all rows are equal. 0 for one row (nothing to confuse it with) and for none.

    Raises:
        ValueError: the axes disagree, or temperature <= 0.
        TypeError: the views are not floating tensors.

    The authors' TensorFlow code returns the sum of two means over N, twice this value.

    Source: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", eq. 1 and algorithm 1.
    """
    batch = bind_axes("nt_xent", z1=(z1, "batch dim"), z2=(z2, "batch dim"))["batch"]
    need_floating("nt_xent", z1=z1, z2=z2)
    need_positive("nt_xent", temperature=temperature)
    z = unit(torch.stack([z1, z2], dim=1))  # [batch, views, dim]: a row travels with its other view
    gathered = gather(z, group)
    candidates = gathered.rows.transpose(0, 1).flatten(0, 1)  # [views * global batch, dim]
    anchors = z.transpose(0, 1).flatten(0, 1)  # [views * batch, dim]
    total = gathered.rows.shape[0]
    own = gathered.start + torch.arange(batch, device=z.device)
    itself, positive = torch.cat([own, own + total]), torch.cat([own + total, own])
    logits = products(anchors, candidates) / temperature  # [views * batch, views * global batch]
    logits = logits.scatter(1, itself[:, None], -torch.inf)
    loss = torch.nn.functional.cross_entropy(logits, positive, reduction="sum")
    return global_mean(loss, 2 * total, group)
