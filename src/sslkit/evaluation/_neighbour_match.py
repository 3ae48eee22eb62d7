"""How often the neighbour that serves as a positive is of the same class."""

import torch
from torch import Tensor

from sslkit._checks import bind_axes, wrong
from sslkit.distributed import Group, mean_rows
from sslkit.evaluation._accuracy import need_labels


def neighbour_match_accuracy(neighbour_labels: Tensor, labels: Tensor, *, group: Group | None = None) -> Tensor:
    """The share of neighbours whose label is their query's; a label of -1 ("unknown") never matches.

        1/(B k) * sum over b, j of [neighbour_labels[b, j] = labels[b] >= 0]

    Args:
        neighbour_labels: [batch] or [batch, k], integers, as `modules.SupportSet.nearest` gives them, asked before the batch was enqueued.
        labels: [batch], integers.
        group: the share among the neighbours of all these processes.

    Returns:
        Scalar, float32, a share in [0, 1], not percent; 0 for no query. A tensor, so that nothing waits for the device in a training step.

    Raises:
        ValueError: the axes disagree, or k is 0.
        TypeError: a label is not an integer.

    Source: Dwibedi et al. 2021 (NNCLR), figure 3, "NN match accuracy".
    """
    where = "neighbour_match_accuracy"
    several = isinstance(neighbour_labels, Tensor) and neighbour_labels.ndim == 2
    sizes = bind_axes(where, neighbour_labels=(neighbour_labels, "batch k" if several else "batch"), labels=(labels, "batch"))
    need_labels(where, neighbour_labels=neighbour_labels, labels=labels)
    if sizes.get("k", 1) == 0:
        raise wrong(where, given=f"neighbour_labels {list(neighbour_labels.shape)}", expected="at least one neighbour", mend="ask for k=1")
    of = labels[:, None] if several else labels
    met = ((neighbour_labels == of) & (of >= 0)).to(torch.float32)
    return mean_rows(met if several else met[:, None], group).mean()
