"""Linear classification from a few labelled samples per class, over several draws."""

import math
import statistics
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sslkit._checks import bind_axes, need_floating, need_whole, wrong
from sslkit.evaluation._accuracy import Accuracy, need_labels
from sslkit.evaluation.linear import linear_probe
from sslkit.evaluation.subsets import class_ranks

# Student's t, 97.5 % quantile, for 1 to 30 degrees of freedom.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
            2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """Mean over draws, standard deviation between draws (over n - 1), and the 95 % interval of the mean by Student's t.

    The interval speaks of the draw of labelled samples alone, not of training seeds or test images. With one draw all but the
    mean is nan.
    """

    mean: float
    sd: float
    low: float
    high: float

    @staticmethod
    def of(values: tuple[float, ...]) -> "Spread":
        n, mean = len(values), statistics.fmean(values)
        if n == 1:
            return Spread(mean, math.nan, math.nan, math.nan)
        sd = statistics.stdev(values)
        # beyond the table: expansion around the normal quantile z, (z**3 + z) / (4 df) + (5 z**5 + 16 z**3 + 3 z) / (96 df**2).
        t = _STUDENT[n - 2] if n <= 31 else 1.95996 + 2.3723 / (n - 1) + 2.822 / (n - 1) ** 2
        half = t * sd / math.sqrt(n)
        return Spread(mean, sd, mean - half, mean + half)

    def __str__(self) -> str:
        return f"{self.mean:.2f} +- {self.sd:.2f} % (95 %: {self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class FewShotResult:
    """Accuracies in percent of every draw, and their spread."""

    shots: int
    draws: tuple[Accuracy, ...]
    l2: float

    @property
    def top1(self) -> Spread:
        return Spread.of(tuple(draw.top1 for draw in self.draws))

    @property
    def top5(self) -> Spread:
        return Spread.of(tuple(draw.top5 for draw in self.draws))

    def to_dict(self) -> dict[str, Any]:
        return {"shots": self.shots, "l2": self.l2, "top1": vars(self.top1), "top5": vars(self.top5),
                "draws": [draw.to_dict() for draw in self.draws]}  # fmt: skip

    def __str__(self) -> str:
        return f"{self.shots}-shot linear (l2={self.l2:g}, {len(self.draws)} draws): top-1 {self.top1}, top-5 {self.top5}"


def few_shot(train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor, *, shots: int,
             episodes: int = 5, generator: torch.Generator | None = None, l2: float = 1e-2, iterations: int = 60,
             standardize: bool = True) -> FewShotResult:  # fmt: skip
    """Logistic regression on `shots` random samples of every class, repeated.

        for each episode: draw a random order of every class; train on the first `shots` of each; count hits on all test samples

    The regression is `linear_probe` with L-BFGS; standardising uses the drawn samples alone. The draws of a seed are nested:
    those of 1 shot are contained in those of 5.

    Args:
        train_features: [samples, dim], floating.
        train_labels: [samples], integer, 0 or above.
        test_features: [tests, dim], floating.
        test_labels: [tests], integer; a class that was not trained counts as missed.
        shots: samples per class.
        episodes: draws.
        generator: of the device of `train_labels`; None draws from PyTorch's own.
        l2: stronger than the probe's: the samples are few.
        iterations: of L-BFGS.
        standardize: as in `linear_probe`.

    Returns:
        FewShotResult; `str` gives mean, standard deviation and 95 % interval.

    Raises:
        TypeError: features are not floating, or labels not integer.
        ValueError: sizes disagree, a number is below 1, or a class has fewer than `shots` samples (labels are read).

    Source: the draws are those of the few-shot k-NN in the code of Oquab et al. 2023, "DINOv2" (n per class, several tries); 5-
    and 10-shot tables are in Xiao et al. 2021, "What Should Not Be Contrastive in Contrastive Learning". The classifier is a
    choice made here.
    """
    where = "few_shot"
    bind_axes(where, train_features=(train_features, "samples dim"), train_labels=(train_labels, "samples"),
              test_features=(test_features, "tests dim"), test_labels=(test_labels, "tests"))  # fmt: skip
    need_floating(where, train_features=train_features, test_features=test_features)
    need_labels(where, train_labels=train_labels, test_labels=test_labels)
    need_whole(where, shots=shots, episodes=episodes)
    names, counts = torch.unique(train_labels, return_counts=True)
    if len(names) == 0 or int(counts.min()) < shots:
        scarce = f"{int(counts.min())} samples of class {int(names[counts.argmin()])}" if len(names) else "no training sample"
        raise wrong(where, given=f"shots={shots} with {scarce}", expected="at least `shots` samples of every class",
                    mend="pass fewer shots, or leave that class out of both sets")  # fmt: skip
    draws = []
    for _ in range(episodes):
        drawn = class_ranks(train_labels, generator)[0] < shots
        fit = linear_probe(train_features[drawn], train_labels[drawn], test_features, test_labels, l2=l2, iterations=iterations,
                           standardize=standardize)  # fmt: skip
        draws.append(Accuracy(fit.top1, fit.top5, len(test_labels)))
    return FewShotResult(shots, tuple(draws), l2)
