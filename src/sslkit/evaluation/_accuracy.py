"""Top-1 and top-5 accuracy, in percent."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from sslkit._checks import bind_axes, wrong


@dataclass(frozen=True)
class Accuracy:
    """Share of samples whose label is the best answer, and is among the best five; both in percent, 0 to 100."""

    top1: float
    top5: float
    samples: int

    def to_dict(self) -> dict[str, float]:
        return asdict(self)

    def __str__(self) -> str:
        return f"top-1 {self.top1:.2f} %, top-5 {self.top5:.2f} % of {self.samples}"


def top_accuracy(predictions: Tensor, labels: Tensor) -> Accuracy:
    """Counts labels met by the first answer and by the first five.

        top1 = 100/B * sum over b of [predictions[b, 0] = labels[b]]
        top5 = 100/B * sum over b of [labels[b] in predictions[b, :5]]

    A negative prediction is an empty place and meets no label, so a label of -1 ("unknown") is never met either.

    Args:
        predictions: integers [batch, ranks], class ids by falling preference, at least one rank; or floating [batch, classes],
            logits or scores, whose five largest are taken (all of them where there are fewer classes; top-5 is then 100 for
            every known label).
        labels: [batch], integer.

    Raises:
        ValueError: the batches differ or are empty, or there is no rank.
        TypeError: `labels` are not integers.
    """
    sizes = bind_axes("top_accuracy", predictions=(predictions, "batch ranks"), labels=(labels, "batch"))
    need_labels("top_accuracy", labels=labels)
    if sizes["batch"] == 0 or sizes["ranks"] == 0:
        raise wrong("top_accuracy", given=f"predictions {list(predictions.shape)}", expected="at least one sample and one rank",
                    mend="pass a set that is not empty; the accuracy of no sample is not a number")  # fmt: skip
    if predictions.is_floating_point():
        predictions = predictions.topk(min(5, sizes["ranks"]), dim=1).indices
    met = (predictions[:, :5] == labels[:, None]) & (predictions[:, :5] >= 0)  # [batch, up to 5]
    # counted in integers and divided in Python: float32 would round the percentage of a large set.
    top1, top5 = torch.stack([met[:, 0].sum(), met.any(dim=1).sum()]).tolist()
    return Accuracy(100 * top1 / sizes["batch"], 100 * top5 / sizes["batch"], sizes["batch"])


def need_labels(where: str, **labels: Tensor) -> None:
    """Raises a TypeError for the first tensor that does not hold integers (bool counts as none)."""
    for name, tensor in labels.items():
        if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
            raise wrong(where, given=f"{name} of dtype {tensor.dtype}", expected="class ids of an integer dtype",
                        mend=f"pass {name}.long(), or the argmax if yours are one-hot", kind=TypeError)  # fmt: skip


def need_finite(where: str, **features: Tensor) -> None:
    """Raises a ValueError for the first tensor that holds nan or inf, which would silently rank before everything. Values are read here."""
    for name, tensor in features.items():
        bad = (~tensor.isfinite()).flatten(1).any(dim=1).sum().item() if tensor.numel() else 0
        if bad:
            raise wrong(where, given=f"{name} with {bad:.0f} of {len(tensor)} rows not finite", expected="finite features",
                        mend="look at the network that made them: it has diverged, or its input holds nan")  # fmt: skip


def count_classes(where: str, labels: Tensor, num_classes: int | None) -> int:
    """The number of classes: the one given, or the largest label + 1. Labels are read here, once: an id out of range would
    otherwise write outside the vote table, which on a GPU ends the process.

    Raises:
        ValueError: a label is negative or not below `num_classes`.
    """
    low, high = (int(value) for value in labels.aminmax())
    classes = high + 1 if num_classes is None else num_classes
    if low < 0 or high >= classes:
        raise wrong(where, given=f"train_labels from {low} to {high} with {classes} classes",
                    expected=f"labels in [0, {classes - 1}]",
                    mend="leave num_classes out to count them, and drop unlabelled samples")  # fmt: skip
    return classes
