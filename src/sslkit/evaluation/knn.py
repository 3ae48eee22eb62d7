"""Weighted k-nearest-neighbour classification of frozen features (InstDist, DINO)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sslkit._checks import bind_axes, need_floating, need_positive, need_whole, wrong
from sslkit.evaluation._accuracy import Accuracy, count_classes, need_labels, top_accuracy
from sslkit.evaluation._search import nearest_neighbours

RANKS = 5


@dataclass(frozen=True, eq=False)
class KNNResult:
    """Ranked classes of every query, with the k and the temperature that gave them."""

    predictions: Tensor  # [queries, 5], int64, classes by falling vote; -1 where fewer than five classes got a vote
    shares: Tensor  # [queries, 5], the vote of each over the sum of all votes of the query; 0 where predictions is -1
    k: int
    temperature: float
    bank: int
    classes: int

    def accuracy(self, labels: Tensor) -> Accuracy:
        """Top-1 and top-5 in percent against labels [queries]; a class that got no vote is never counted as an answer."""
        return top_accuracy(self.predictions, labels)

    def to_dict(self) -> dict[str, float]:
        """The settings; predictions and shares are left out."""
        return {"k": self.k, "temperature": self.temperature, "bank": self.bank, "classes": self.classes,
                "queries": len(self.predictions)}  # fmt: skip

    def __str__(self) -> str:
        return (f"k-NN (k={self.k}, T={self.temperature:g}): {len(self.predictions)} queries, "
                f"bank of {self.bank} in {self.classes} classes")  # fmt: skip


@torch.no_grad()
def knn_classify(train_features: Tensor, train_labels: Tensor, test_features: Tensor, *, k: int = 20, temperature: float = 0.07,
                 num_classes: int | None = None, chunk: int = 1024, shard: int = 16384) -> KNNResult:  # fmt: skip
    """Votes of the k nearest labelled features.

        s[q, n]    = cosine of test_features[q] and train_features[n]
        vote[q, c] = sum over n of exp(s[q, n] / temperature),  n among the k nearest of q with train_labels[n] = c
        predictions[q] = the classes with a vote, largest first, at most five

    Temperature to 0: the nearest label. To infinity: the majority of the k.

    Args:
        train_features: [bank, dim], floating; rows are normalised here, so their lengths do not matter.
        train_labels: [bank], integer, in [0, num_classes).
        test_features: [queries, dim], floating.
        k: 20 in DINO, best there of {10, 20, 100, 200}; of a smaller bank all rows vote.
        temperature: 0.07 in DINO.
        num_classes: largest train label + 1 if left out.
        chunk: queries compared at once.
        shard: bank rows compared at once. Both bound the memory; the result is the same.

    Returns:
        KNNResult. Similarities and votes are float32, float64 if a feature tensor is.

    Raises:
        TypeError: features are not floating, or labels not integer.
        ValueError: sizes or devices disagree, a size is below 1, the temperature is not above 0, or a train label is out of
            range (labels are read once).

    Source: Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers", app. F; Wu et al. 2018,
    "Unsupervised Feature Learning via Non-Parametric Instance Discrimination".

    Deviations from the authors' code: top-5 holds classes that got a vote only (theirs fills up with classes of zero vote, by
    class number, which counts some of them as hits); any number of queries, classes and bank rows works; votes are added into a
    [chunk, classes] table instead of a one-hot tensor of [chunk * k, classes].
    """
    where = "knn_classify"
    sizes = bind_axes(where, train_features=(train_features, "bank dim"), test_features=(test_features, "queries dim"),
                      train_labels=(train_labels, "bank"))  # fmt: skip
    need_floating(where, train_features=train_features, test_features=test_features)
    need_labels(where, train_labels=train_labels)
    need_positive(where, temperature=temperature)
    need_whole(where, k=k, chunk=chunk, shard=shard)
    if sizes["bank"] == 0:
        raise wrong(where, given="train_features without rows", expected="at least one labelled feature",
                    mend="pass a bank that is not empty")  # fmt: skip
    classes = count_classes(where, train_labels, num_classes)
    k = min(k, sizes["bank"])
    found = nearest_neighbours(test_features, train_features, k, chunk=chunk, shard=shard)
    predictions = train_labels.new_full((sizes["queries"], RANKS), -1, dtype=torch.int64)
    shares = found.similarity.new_zeros(sizes["queries"], RANKS)
    ranks = min(RANKS, classes)
    for first in range(0, sizes["queries"], chunk):
        here = slice(first, first + chunk)
        votes = _votes(found.similarity[here], train_labels[found.ids[here]], classes, temperature)  # [chunk, classes]
        best = votes.topk(ranks, dim=1)
        predictions[here, :ranks] = best.indices.masked_fill(best.values == 0, -1)
        shares[here, :ranks] = best.values / votes.sum(dim=1, keepdim=True)
    return KNNResult(predictions, shares, k, temperature, sizes["bank"], classes)


def _votes(similarity: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """[rows, classes]: votes of neighbours [rows, k], each row divided by the vote of its nearest."""
    weights = ((similarity - similarity.amax(dim=1, keepdim=True)) / temperature).exp()
    # a weight that underflows is still a vote: 0 must mean that the class has no neighbour at all.
    weights = weights.clamp(min=torch.finfo(weights.dtype).tiny)
    return weights.new_zeros(len(weights), classes).scatter_add_(1, labels.long(), weights)
