"""Linear classification of frozen features."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sslkit._checks import bind_axes, need_floating, need_positive, need_whole, wrong
from sslkit.evaluation._accuracy import Accuracy, count_classes, need_finite, need_labels, top_accuracy
from sslkit.evaluation._logistic import Fit, fit_lbfgs, fit_sgd


@dataclass(frozen=True)
class LearningRateRow:
    """What one learning rate of a sweep reached; accuracies in percent."""

    lr: float
    loss: float  # the objective on the training set at the end
    train_top1: float
    top1: float
    top5: float


@dataclass(frozen=True, eq=False)
class LinearResult:
    """A fitted linear classifier and its accuracies in percent."""

    weights: Tensor  # [classes, dim], for features (x - mean) / scale
    bias: Tensor  # [classes]
    mean: Tensor  # [dim]; 0 without standardising
    scale: Tensor  # [dim]; 1 without standardising
    top1: float
    top5: float
    train_top1: float
    train_top5: float
    losses: tuple[float, ...]  # lbfgs: every evaluation of the objective; sgd: mean cross-entropy of every epoch
    gradient: float  # largest absolute entry of the objective's gradient at the end: how far from the optimum
    solver: str
    l2: float
    sweep: tuple[LearningRateRow, ...] = ()  # sgd: every learning rate, in the order given

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """[samples, dim] -> [samples, classes], in the dtype of the weights."""
        bind_axes("LinearResult.logits", features=(features, "samples dim"), weights=(self.weights, "classes dim"))
        with torch.autocast(features.device.type, enabled=False):
            x = (features.to(self.weights.dtype) - self.mean) / self.scale
            return torch.addmm(self.bias, x, self.weights.T)

    def predict(self, features: Tensor) -> Tensor:
        """[samples, dim] -> class ids [samples], int64."""
        return self.logits(features).argmax(dim=1)

    def to_dict(self) -> dict[str, Any]:
        """Numbers only: accuracies in percent, settings, final loss, sweep. The tensors are left out."""
        return {"top1": self.top1, "top5": self.top5, "train_top1": self.train_top1, "train_top5": self.train_top5,
                "loss": self.losses[-1], "gradient": self.gradient, "solver": self.solver, "l2": self.l2,
                "sweep": [vars(row) for row in self.sweep]}  # fmt: skip

    def __str__(self) -> str:
        test = f"top-1 {self.top1:.2f} %, top-5 {self.top5:.2f} %, train top-1 {self.train_top1:.2f} %"
        rows = [f"  lr {r.lr:<10.4g} loss {r.loss:.4f}  top-1 {r.top1:.2f} %  top-5 {r.top5:.2f} %" for r in self.sweep]
        return "\n".join([f"linear probe ({self.solver}, l2={self.l2:g}): {test}", *(rows if len(rows) > 1 else [])])


def linear_probe(train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor, *,
                 solver: Literal["lbfgs", "sgd"] = "lbfgs", l2: float | None = None, iterations: int = 60,
                 standardize: bool = True, num_classes: int | None = None, generator: torch.Generator | None = None,
                 epochs: int = 100, lr: float | tuple[float, ...] | None = None, batch: int = 256) -> LinearResult:  # fmt: skip
    """Fits W, b on the training features and counts the hits on the test features.

        loss(W, b) = 1/n * sum over i of -log softmax(W x_i + b)[y_i]  +  l2 * sum of W**2,  x standardised

    "lbfgs" (default): L-BFGS with strong-Wolfe line search from zero: deterministic, nothing to tune, to `.gradient`.
    "sgd": DINO's protocol: momentum 0.9, learning rate falling by a cosine per epoch to 0, weights from N(0, 0.01**2), bias 0.
    The authors do not standardise: pass standardize=False to match them. A tuple of learning rates trains one classifier
    each in one pass; the one with the lowest final training loss is returned, and `.sweep` holds the test accuracy of every
    one: no choice here looks at the test labels.

    Args:
        train_features: [samples, dim], floating.
        train_labels: [samples], integer, in [0, num_classes).
        test_features: [tests, dim], floating.
        test_labels: [tests], integer; a class that was not trained counts as missed.
        solver: "lbfgs" or "sgd", see above.
        l2: None: 1e-3 with "lbfgs", 0 with "sgd" (DINO's weight decay).
        iterations: of "lbfgs".
        standardize: subtract the mean, divide by the standard deviation (over n); a feature constant in training is only centred.
        num_classes: largest train label + 1 if left out.
        generator: start and order of "sgd"; None draws from PyTorch's own.
        epochs: of "sgd".
        batch: of "sgd".
        lr: of "sgd"; None: 0.001 * batch / 256, DINO's for ViTs.

    Returns:
        LinearResult; float32, float64 if the training features are.

    Raises:
        TypeError: features are not floating, or labels not integer.
        ValueError: sizes or devices disagree, an empty set, a number out of range, an unknown solver, or a train label out of
            range (labels are read once).

    Source: Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers", app. F ("sgd"; their
    augmentation and choice of the best epoch are left out: features are fixed here, the last epoch counts).
    """
    where = "linear_probe"
    sizes = bind_axes(where, train_features=(train_features, "samples dim"), train_labels=(train_labels, "samples"),
                      test_features=(test_features, "tests dim"), test_labels=(test_labels, "tests"))  # fmt: skip
    need_floating(where, train_features=train_features, test_features=test_features)
    need_labels(where, train_labels=train_labels, test_labels=test_labels)
    if not sizes["samples"] or not sizes["tests"]:
        raise wrong(where, given=f"{sizes['samples']} training and {sizes['tests']} test samples",
                    expected="at least one of each", mend="pass sets that are not empty")  # fmt: skip
    if solver not in ("lbfgs", "sgd"):
        raise wrong(where, given=f"solver={solver!r}", expected="'lbfgs' or 'sgd'", mend="leave it out for the deterministic one")
    l2 = (1e-3 if solver == "lbfgs" else 0.0) if l2 is None else l2
    if not 0 <= l2 < float("inf"):
        raise wrong(where, given=f"l2={l2}", expected="a finite l2, 0 or above", mend="pass 0 for none")
    lrs = (0.001 * batch / 256 if lr is None else lr,) if not isinstance(lr, tuple) else lr
    if not lrs:
        raise wrong(where, given="lr=()", expected="at least one learning rate", mend="leave lr out for DINO's")
    need_whole(where, iterations=iterations, epochs=epochs, batch=batch)
    need_positive(where, **{f"lr[{i}]": value for i, value in enumerate(lrs)})
    need_finite(where, train_features=train_features, test_features=test_features)
    classes = count_classes(where, train_labels, num_classes)

    # tensors made under inference_mode cannot be optimised outside it; the arithmetic below makes ordinary ones in either case.
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(train_features.device.type, enabled=False):
        x = train_features.to(torch.promote_types(train_features.dtype, torch.float32))
        y = train_labels.long()
        mean, scale = _statistics(x) if standardize else (x.new_zeros(sizes["dim"]), x.new_ones(sizes["dim"]))
        standard = (x - mean) / scale
        if solver == "lbfgs":
            fits: tuple[Fit, ...] = (fit_lbfgs(standard, y, classes, l2=l2, iterations=iterations),)
        else:
            fits = fit_sgd(standard, y, classes, l2=l2, lrs=lrs, epochs=epochs, batch=batch, generator=generator)
        train = [_accuracy(fit, standard, y) for fit in fits]
        tests = (test_features.to(x.dtype) - mean) / scale
        test = [_accuracy(fit, tests, test_labels) for fit in fits]
    # a rate that diverged has a loss of nan, which min would keep if it came first.
    best = min(range(len(fits)), key=lambda i: fits[i].loss if fits[i].loss == fits[i].loss else float("inf"))
    sweep = () if solver == "lbfgs" else tuple(LearningRateRow(lrs[i], fits[i].loss, train[i].top1, test[i].top1, test[i].top5)
                                               for i in range(len(fits)))  # fmt: skip
    return LinearResult(fits[best].weights, fits[best].bias, mean, scale, test[best].top1, test[best].top5, train[best].top1,
                        train[best].top5, fits[best].losses, fits[best].gradient, solver, l2, sweep)  # fmt: skip


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every feature; a constant one gets the scale 1."""
    # in float64, some columns at a time: the mean of a constant 1000.1 in float32 misses it, and dividing what remains blows
    # it up.
    pairs = [torch.var_mean(part.double(), dim=0, correction=0) for part in torch.split(x, 64, dim=1)]
    mean = torch.cat([m for _, m in pairs])
    sd = torch.cat([v for v, _ in pairs]).sqrt()
    constant = sd <= torch.finfo(x.dtype).eps * mean.abs()
    return mean.to(x.dtype), sd.masked_fill(constant, 1).to(x.dtype)


def _accuracy(fit: Fit, features: Tensor, labels: Tensor) -> Accuracy:
    ranks = min(5, len(fit.weights))
    block = max(1, 2**20 // len(fit.weights))
    ids = [torch.addmm(fit.bias, part, fit.weights.T).topk(ranks, dim=1).indices for part in torch.split(features, block)]
    return top_accuracy(torch.cat(ids), labels)
