"""NNCLR: the nearest neighbour of one view, from the support set, finds the prediction of the other."""

from torch import Tensor

from sslkit._checks import bind_axes, need_floating, need_positive
from sslkit.distributed import Group
from sslkit.losses._info_nce import info_nce


def nnclr_loss(neighbours: Tensor, predictions: Tensor, *, temperature: float = 0.1, both_directions: bool = False,
               group: Group | None = None) -> Tensor:  # fmt: skip
    """One direction of NNCLR; the loss of a step is the mean of two, each view's neighbours with the other view's predictions.

        s[i, j] = <unit(neighbours[i]), unit(predictions[j])> / temperature
        loss = mean over i of  -log( exp s[i, i] / sum over j of exp s[i, j] )             candidates: the predictions of all processes

        near1, near2 = support.nearest(z1), support.nearest(z2)
        loss = (nnclr_loss(near1.rows, p2) + nnclr_loss(near2.rows, p1)) / 2
        support.enqueue(z1)                                                                after the search, before or after backward()

    Args:
        neighbours: [batch, dim], rows of a `modules.SupportSet`; no gradient flows back. The view's own projection z is the paper's
            control "View 1".
        predictions: [batch, dim], what the predictor makes of the other view's projection.
        temperature: above 0.
        both_directions: the same with the softmax over the neighbours of one prediction is added, which makes the loss symmetric. The
            paper mentions it; public code has it not.
        group: candidates of all these processes; batch may differ between ranks (see `sslkit.distributed`).

    Returns:
        Scalar, float32 or wider, in [0, inf). 0 for one row and for none.

    Raises:
        ValueError: the axes disagree, or temperature <= 0.
        TypeError: not floating.

    Source: Dwibedi et al. 2021, "With a Little Help from My Friends", eq. 4 and algorithm 1. The composition that lightly documents is
    another loss: its denominator also holds pairs of neighbours and pairs of predictions.
    """
    bind_axes("nnclr_loss", neighbours=(neighbours, "batch dim"), predictions=(predictions, "batch dim"))
    need_floating("nnclr_loss", neighbours=neighbours, predictions=predictions)
    need_positive("nnclr_loss", temperature=temperature)
    neighbours = neighbours.detach()
    loss = info_nce(neighbours, predictions, temperature=temperature, group=group)
    return loss + info_nce(predictions, neighbours, temperature=temperature, group=group) if both_directions else loss
