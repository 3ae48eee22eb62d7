"""Swapped assignments to prototypes: SwAV."""

import torch
from torch import Tensor

from sslkit._checks import bind_axes, need_floating, need_positive
from sslkit.distributed import Group
from sslkit.losses.dino import dino_loss
from sslkit.losses.sinkhorn import sinkhorn_knopp


@torch.no_grad()
def swav_codes(scores: Tensor, *, queue_scores: Tensor | None = None, temperature: float = 0.05, iterations: int = 3,
               log_domain: bool = False, group: Group | None = None) -> Tensor:  # fmt: skip
    """The assignments of some views to prototypes, every prototype with about the same share: Sinkhorn-Knopp, view by view.

        codes[v] = the last rows of  sinkhorn_knopp(concat(queue_scores[v], scores[v]))

    The queue's rows only help to balance: with fewer pictures in a step than prototypes, there would not be one for each.

    Args:
        scores: [views, batch, prototypes], cosines; the views that are assigned, the two global ones.
        queue_scores: [views, kept, prototypes], floating: earlier embeddings of each view against the prototypes of now. A queue that is
            not full yet is left out by the authors.
        temperature: above 0; 0.05, or 0.03 where training collapses.
        iterations: of Sinkhorn-Knopp.
        log_domain: exact where a prototype's cosines all lie more than about 87 temperatures below their rows' largest: of use below 0.02.
        group: rows are those of all these processes; each has a queue of its own.

    Returns:
        [views, batch, prototypes], float32 or wider, rows sum to 1. Finite at any scale.

    Raises:
        ValueError: the axes disagree, a temperature that is not positive, iterations below 0.
        TypeError: not floating.

    Source: Caron et al. 2020 (SwAV), eq. 3 to 5, sec. 3.1 "Working with small batches".
    """
    queue = {} if queue_scores is None else {"queue_scores": (queue_scores, "views kept prototypes")}
    batch = bind_axes("swav_codes", scores=(scores, "views batch prototypes"), **queue)["batch"]
    need_floating("swav_codes", scores=scores, **({} if queue_scores is None else {"queue_scores": queue_scores}))
    rows = scores if queue_scores is None else torch.cat([queue_scores, scores], dim=1)  # in the wider dtype of the two
    codes = [
        sinkhorn_knopp(view, temperature, iterations=iterations, log_domain=log_domain, group=group) for view in rows
    ]  # a handful of views
    return torch.stack(codes)[:, rows.shape[1] - batch :]


def swav_loss(scores: Tensor, codes: Tensor, *, temperature: float = 0.1, group: Group | None = None) -> Tensor:
    """Every view predicts the assignments of the other views.

        loss = mean over b, and over all pairs (t, v) with v != t, of  - sum over k of codes[t, b, k] log p[v, b, k]
        p[v, b] = softmax(scores[v, b] / temperature)

    which is `dino_loss` of these arguments: log(prototypes) for scores that are all alike.

    Args:
        scores: [views, batch, prototypes], cosines of embeddings and prototypes, the assigned views first; floating.
        codes: [assigned views, batch, prototypes], of `swav_codes`. No gradient flows back.
        temperature: above 0.
        group: the mean is over the rows of all these processes (see `sslkit.distributed`).

    Returns:
        Scalar, float32 or wider. 0 for an empty batch.

    Raises:
        ValueError: the axes disagree, more assigned than views, no pair at all, a temperature that is not positive.
        TypeError: not floating.

    Source: Caron et al. 2020, "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", eq. 2 and 6.
    """
    bind_axes("swav_loss", scores=(scores, "views batch prototypes"), codes=(codes, "assigned batch prototypes"))
    need_floating("swav_loss", scores=scores, codes=codes)
    need_positive("swav_loss", temperature=temperature)
    return dino_loss(scores, codes, student_temperature=temperature, group=group)
