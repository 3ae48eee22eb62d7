"""Redundancy reduction: Barlow Twins."""

import torch
from torch import Tensor

from sslkit._checks import bind_axes, need_floating
from sslkit._unit import products
from sslkit.distributed import Group, all_sum, row_count

EPS = 1e-5  # of the variance, as in BatchNorm


def barlow_twins_loss(z1: Tensor, z2: Tensor, *, lambd: float = 0.0051, group: Group | None = None) -> Tensor:
    """The cross-correlation of two views, over the batch, is to be the identity.

        zn[b, i] = (z[b, i] - mean over b) / sqrt(variance over b + 1e-5)             of each view
        c[i, j] = mean over b of zn1[b, i] * zn2[b, j]
        loss = sum over i of (1 - c[i, i])^2  +  lambd * sum over i != j of c[i, j]^2

    Args:
        z1: [batch, dim], projections of one view of each image; floating. Not normalised: the batch statistics are taken here.
        z2: [batch, dim], those of the other view.
        lambd: weight of what is off the diagonal; 0.0051 for 8192 dimensions.
        group: means and correlations are over the rows of all these processes, so that the value is that of one process; batch may
            differ between ranks.

    Returns:
        Scalar, float32 or wider, at least 0. Dimensions of one row, and constant ones, have no correlation: they cost 1 each.

    Raises:
        ValueError: the axes disagree.
        TypeError: not floating.

    Source: Zbontar et al. 2021, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", eq. 1 and 2.
    """
    sizes = bind_axes("barlow_twins_loss", z1=(z1, "batch dim"), z2=(z2, "batch dim"))
    need_floating("barlow_twins_loss", z1=z1, z2=z2)
    batch, dim = sizes["batch"], sizes["dim"]
    z = torch.stack([z1, z2])
    with torch.autocast(z.device.type, enabled=False):
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        rows = max(row_count(batch, group), 1)
        z = z - all_sum(z.sum(dim=1), group)[:, None] / rows  # [2, batch, dim]
        z = z * (all_sum(z.square().sum(dim=1), group)[:, None] / rows + EPS).rsqrt()
        c = all_sum(products(z[0].mT, z[1].mT), group) / rows  # [dim, dim]
        # row-major without its first number, cut into lines of dim + 1: the diagonal is the last column
        off = c.flatten()[1:].view(dim - 1, dim + 1)[:, :-1] if dim > 1 else c[:0]
        loss: Tensor = (1 - c.diagonal()).square().sum() + lambd * off.square().sum()
        return loss
