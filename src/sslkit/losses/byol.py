"""Agreement with a target that gets no gradient, without negatives: BYOL and SimSiam."""

from torch import Tensor

from sslkit._checks import bind_axes, need_floating
from sslkit._unit import unit
from sslkit.distributed import Group, global_mean, row_count


def byol_loss(prediction: Tensor, target: Tensor, *, group: Group | None = None) -> Tensor:
    """Squared distance between unit vectors: what the online network predicts of the target network's projection of the other view.

        loss = mean over b of  | unit(prediction[b]) - unit(target[b]) |^2  =  mean over b of  2 - 2 cos(prediction[b], target[b])

    BYOL's step is the sum of both directions, `byol_loss(p1, z2) + byol_loss(p2, z1)`.

    Args:
        prediction: [batch, dim], the predictor's output for one view, not necessarily normalised; floating.
        target: [batch, dim], the momentum encoder's projection of the other view. No gradient flows back.
        group: the mean is over the rows of all these processes (see `sslkit.distributed`).

    Returns:
        Scalar in [0, 4], float32 or wider. 0 for an empty batch.

    Raises:
        ValueError: the axes disagree.
        TypeError: not floating.

    Source: Grill et al. 2020, "Bootstrap your own latent", eq. 2.
    """
    rows = _agreement("byol_loss", prediction, target)
    return global_mean((2 - 2 * rows).sum(), row_count(len(rows), group), group)


def simsiam_loss(prediction: Tensor, target: Tensor, *, group: Group | None = None) -> Tensor:
    """Negative cosine: BYOL without a momentum encoder, and without its factor and constant.

        loss = mean over b of  - cos(prediction[b], target[b])              byol_loss = 2 + 2 * simsiam_loss

    SimSiam's step is the mean of both directions, `(simsiam_loss(p1, z2) + simsiam_loss(p2, z1)) / 2`. A sign of collapse is that unit(z)
    has a standard deviation of 0 over the batch; 1 / sqrt(dim) is healthy.

    Args:
        prediction: [batch, dim], the predictor's output for one view; floating.
        target: [batch, dim], the same network's projection of the other view. No gradient flows back.
        group: the mean is over the rows of all these processes (see `sslkit.distributed`).

    Returns:
        Scalar in [-1, 1], float32 or wider. 0 for an empty batch.

    Raises:
        ValueError: the axes disagree.
        TypeError: not floating.

    Source: Chen and He 2021, "Exploring Simple Siamese Representation Learning", eq. 1 and 2.
    """
    rows = _agreement("simsiam_loss", prediction, target)
    return global_mean(-rows.sum(), row_count(len(rows), group), group)


def _agreement(where: str, prediction: Tensor, target: Tensor) -> Tensor:
    """Cosines [batch]."""
    bind_axes(where, prediction=(prediction, "batch dim"), target=(target, "batch dim"))
    need_floating(where, prediction=prediction, target=target)
    return (unit(prediction) * unit(target.detach())).sum(dim=1)
