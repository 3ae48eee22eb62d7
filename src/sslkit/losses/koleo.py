"""Spreading features out (KoLeo)."""

import torch
from torch import Tensor

from sslkit._checks import bind_axes, need_floating
from sslkit._unit import unit

EPS = 1e-8


def koleo_loss(x: Tensor) -> Tensor:
    """The Kozachenko-Leonenko estimate of minus the entropy of unit features: how near every row is to its nearest.

        z = x / |x|,   j(i) = argmax over j != i of <z[i], z[j]>
        loss = - mean over i of  log(|z[i] - z[j(i)] + 1e-8| + 1e-8)

    A row shorter than 1e-8, such as 0, has no direction and gets no gradient; in the loss it counts as x / 1e-8, as in the official code,
    whose gradient of several zero rows is of the order of 1e16 / (batch sqrt(dim)).

    Args:
        x: [batch, dim], floating; in DINOv2 the class token before the head, each global view by itself. The nearest is sought among the
            rows of this process.

    Returns:
        Scalar, float32 or wider: the epsilon is nothing in 16 bit. 0 for a single row, which has no other, and for none.

    Raises:
        ValueError: x is not [batch, dim].
        TypeError: x is not floating.

    Source: Sablayrolles et al. 2019, eq. 2; Oquab et al. 2024 (DINOv2), sec. 4, and the authors' code.
    """
    batch = bind_axes("koleo_loss", x=(x, "batch dim"))["batch"]
    need_floating("koleo_loss", x=x)
    z = unit(x, EPS)
    short = x.detach().to(z.dtype).norm(dim=1, keepdim=True) < EPS
    z = torch.where(short, z.detach(), z)
    if batch < 2:
        return z.sum() * 0
    with torch.autocast(x.device.type, enabled=False):
        with torch.no_grad():
            nearest = (z @ z.T).fill_diagonal_(-torch.inf).argmax(dim=1)
        distance = (z - z[nearest] + EPS).norm(dim=1)
        loss: Tensor = -(distance + EPS).log().mean()
        return loss
