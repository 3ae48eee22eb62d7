"""Decoupled contrastive learning: NT-Xent without the positive in the denominator."""

import torch
from torch import Tensor

from sslkit._checks import bind_axes, need_floating, need_positive
from sslkit._unit import products, unit
from sslkit.distributed import Group, gather, global_mean


def dcl_loss(z1: Tensor, z2: Tensor, *, temperature: float = 0.1, sigma: float | None = None, group: Group | None = None) -> Tensor:
    """NT-Xent, decoupled: what attracts and what repels no longer weaken each other in small batches.

        z = unit(concat(z1, z2)),   s[i, j] = <z[i], z[j]> / temperature,   p(i) = (i + N) mod 2N
        loss = mean over i of  -w[i] s[i, p(i)] + log sum over j, neither i nor p(i), of exp s[i, j]

        w[i] = 1, or, with sigma, 2 - N * softmax over all pairs of (<z1[i], z2[i]> / sigma)[i]: a pair that agrees already counts less

    Args:
        z1: [batch, dim], projections of one view of each image, not necessarily normalised; floating.
        z2: [batch, dim], those of the other view.
        temperature: above 0.
        sigma: None: not weighted; 0.5 in the paper's weighted form. No gradient flows through the weights.
        group: candidates are the rows of all these processes; batch may differ between ranks (see `sslkit.distributed`).

    Returns:
        Scalar, float32 or wider; may be negative. 0 for one row (nothing to repel) and for none.

    Raises:
        ValueError: the axes disagree, temperature <= 0 or sigma <= 0.
        TypeError: not floating.

    Source: Yeh et al. 2022, "Decoupled Contrastive Learning", eq. 6 and 7.
    """
    where = "dcl_loss"
    batch = bind_axes(where, z1=(z1, "batch dim"), z2=(z2, "batch dim"))["batch"]
    need_floating(where, z1=z1, z2=z2)
    need_positive(where, temperature=temperature, **({} if sigma is None else {"sigma": sigma}))
    z = unit(torch.stack([z1, z2], dim=1))  # [batch, views, dim]: a row travels with its other view
    gathered = gather(z, group)
    total = gathered.rows.shape[0]
    own = gathered.start + torch.arange(batch, device=z.device)
    agreement = (gathered.rows[:, 0] * gathered.rows[:, 1]).sum(dim=1)  # [global batch]
    if total < 2:
        return global_mean(agreement[own].sum() * 0, 2 * total, group)
    weight = agreement.new_ones(batch) if sigma is None else 2 - total * (agreement.detach() / sigma).softmax(dim=0)[own]
    logits = products(z.flatten(0, 1), gathered.rows.flatten(0, 1)) / temperature  # [batch * views, global batch * views]
    same = 2 * own.repeat_interleave(2)[:, None] + torch.arange(2, device=z.device)  # [batch * views, views]: itself and its other view
    negative = logits.scatter(1, same, -torch.inf).logsumexp(dim=1)
    positive = weight * (z[:, 0] * z[:, 1]).sum(dim=1) / temperature  # [batch], of both directions
    loss = negative.sum() - 2 * positive.sum()
    return global_mean(loss, 2 * total, group)
