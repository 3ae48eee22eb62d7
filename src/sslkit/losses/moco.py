"""MoCo v3: no queue, the keys of a large batch. MoCo v1 and v2 are `info_nce` with negatives."""

from torch import Tensor

from sslkit._checks import bind_axes, need_floating, need_positive
from sslkit.distributed import Group
from sslkit.losses._info_nce import info_nce


def moco_v3_loss(queries: Tensor, keys: Tensor, *, temperature: float = 0.2, group: Group | None = None) -> Tensor:
    """One direction of MoCo v3; the loss of a step is the sum of two.

        loss = 2 * temperature * info_nce(queries, keys without gradient)           candidates: the keys of all processes

        moco_v3_loss(predict(student(x1)), teacher(x2)) + moco_v3_loss(predict(student(x2)), teacher(x1))

    The factor makes the size of the gradient nearly independent of the temperature.

    Args:
        queries: [batch, dim], the student's predictions of one view.
        keys: [batch, dim], the teacher's projections of the other; no gradient flows back.
        temperature: above 0. 0.2 for transformers, 1 for ResNets.
        group: candidates are the keys of all these processes; batch may differ between ranks (see `sslkit.distributed`).

    Returns:
        Scalar, float32 or wider, in [0, inf).

    Raises:
        ValueError: the axes disagree, or temperature <= 0.
        TypeError: not floating.

    Source: Chen et al. 2021, "An Empirical Study of Training Self-Supervised Vision Transformers", algorithm 1.
    """
    bind_axes("moco_v3_loss", queries=(queries, "batch dim"), keys=(keys, "batch dim"))
    need_floating("moco_v3_loss", queries=queries, keys=keys)
    need_positive("moco_v3_loss", temperature=temperature)
    return info_nce(queries, keys.detach(), temperature=temperature, group=group) * (2 * temperature)
