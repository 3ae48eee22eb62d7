"""Variance, invariance, covariance: VICReg."""

import torch
from torch import Tensor

from sslkit._checks import bind_axes, need_floating, wrong
from sslkit._unit import products
from sslkit.distributed import Group, all_sum, global_mean, row_count

EPS = 1e-4  # of the variance, whose root is taken


def vicreg_loss(z1: Tensor, z2: Tensor, *, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0,
                group: Group | None = None) -> Tensor:  # fmt: skip
    """Two views agree; every dimension varies over the batch; no two dimensions vary together.

        loss = invariance * mean over b, i of (z1[b, i] - z2[b, i])^2
             + variance   * (v(z1) + v(z2)) / 2        v(z) = mean over i of max(0, 1 - sqrt(var[i] + 1e-4))
             + covariance * (c(z1) + c(z2))            c(z) = 1/dim * sum over i != j of cov[i, j]^2

    var and cov over the batch, divided by batch - 1.

    Args:
        z1: [batch, dim], projections of one view of each image; floating, not normalised.
        z2: [batch, dim], those of the other view.
        invariance: weight of the distance.
        variance: weight of the hinge.
        covariance: weight of what is off the diagonal.
        group: all three are over the rows of all these processes, so that the value is that of one process; batch may differ.

    Returns:
        Scalar, float32 or wider, at least 0.

    Raises:
        ValueError: the axes disagree, or fewer than two rows over all processes, which have no variance.
        TypeError: not floating.

    Source: Bardes et al. 2022, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning", eq. 1 to 6.
    The authors' code, as here, halves the variance term; eq. 6 does not.
    """
    sizes = bind_axes("vicreg_loss", z1=(z1, "batch dim"), z2=(z2, "batch dim"))
    need_floating("vicreg_loss", z1=z1, z2=z2)
    batch, dim = sizes["batch"], sizes["dim"]
    rows = row_count(batch, group)
    if rows < 2:
        raise wrong("vicreg_loss", given=f"{rows} rows", expected="at least two, over all processes", mend="pass a larger batch")
    z = torch.stack([z1, z2])
    with torch.autocast(z.device.type, enabled=False):
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        distance = global_mean((z[0] - z[1]).square().sum(), rows * dim, group)
        z = z - all_sum(z.sum(dim=1), group)[:, None] / rows  # [2, batch, dim]
        cov = all_sum(products(z.mT, z.mT), group) / (rows - 1)  # [2, dim, dim]
        hinge = (1 - (cov.diagonal(dim1=1, dim2=2) + EPS).sqrt()).relu().mean(dim=1)  # [2]
        # row-major without its first number, cut into lines of dim + 1: the diagonal is the last column
        off = cov.flatten(1)[:, 1:].reshape(2, dim - 1, dim + 1)[..., :-1] if dim > 1 else cov[:, :0]
        return invariance * distance + variance * hinge.mean() + covariance * off.square().sum() / dim
