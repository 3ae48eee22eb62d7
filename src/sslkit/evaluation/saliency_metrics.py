"""How well a map of saliency shows the object: F-measure and mean absolute error."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sslkit._checks import bind_axes, need_floating, need_positive, wrong

THRESHOLDS = 256


@dataclass(frozen=True, eq=False)
class FBetaResult:
    """Of the images that have an object; `maximum` is the number of the papers' tables."""

    precision: Tensor  # [images, 256] float64, of saliency >= t / 255; nan where the image has no object
    recall: Tensor  # [images, 256] float64
    each: Tensor  # [images] float64: every image's own largest F; nan without an object
    maximum: float  # largest F of the mean curves
    adaptive: float  # mean over images of F at twice the mean saliency, at most the map's maximum
    images: int  # that have an object

    def to_dict(self) -> dict[str, float]:
        """The numbers without the curves."""
        return {"maximum": self.maximum, "adaptive": self.adaptive, "images": self.images}

    def __str__(self) -> str:
        return f"max F {self.maximum:.3f}, adaptive F {self.adaptive:.3f} of {self.images} images"


@torch.no_grad()
def f_beta(saliency: Tensor, truth: Tensor, *, beta2: float = 0.3) -> FBetaResult:
    """Weighted harmonic mean of precision and recall of thresholded maps.

        P(t), R(t) of  saliency >= t / 255,  t = 0..255                  P = 0 where nothing is above t
        F = (1 + beta2) P R / (beta2 P + R)                              0 where both are 0
        maximum = max over t of F of (mean over images of P(t), mean over images of R(t))
        adaptive: t = 2 * mean saliency, at most the maximum of the map

    Args:
        saliency: [batch, height, width] or [batch, 1, height, width], in [0, 1]; floating.
        truth: of the same shape, bool; or levels, above 128 of uint8, above 0.5 of floating ones.
        beta2: the square of beta: 0.3 weighs precision more.

    Returns:
        `FBetaResult`, on the CPU. nan where no image has an object.

    Raises:
        ValueError: the shapes differ, or beta2 is not positive.
        TypeError: saliency is not floating.

    Source: Achanta et al. 2009, "Frequency-tuned Salient Region Detection", eq. 3; Borji et al. 2015 for the curves.
    """
    need_floating("f_beta", saliency=saliency)
    need_positive("f_beta", beta2=beta2)
    s, object_ = _flat("f_beta", saliency, truth)
    thresholds = torch.arange(THRESHOLDS, dtype=torch.float64) / (THRESHOLDS - 1)
    level = torch.bucketize(s, thresholds, right=True) - 1  # the last threshold that is not above
    found, hits = (_at_least(level, weights) for weights in (torch.ones_like(s), object_.double()))
    size = object_.sum(dim=1, keepdim=True).double()
    precision, recall = hits / found.clamp(min=1), hits / size  # [images, 256]; nan without an object
    there = size[:, 0] > 0
    precision = torch.where(there[:, None], precision, torch.nan)
    limit = torch.minimum(2 * s.mean(dim=1), s.amax(dim=1))
    above = s >= limit[:, None]
    hit = (above & object_).sum(dim=1).double()
    adaptive = _f(hit / above.sum(dim=1).clamp(min=1), hit / size[:, 0], beta2)
    mean_precision, mean_recall = precision[there].mean(dim=0), recall[there].mean(dim=0)
    return FBetaResult(precision, recall, _f(precision, recall, beta2).amax(dim=1), float(_f(mean_precision, mean_recall, beta2).max()),
                       float(adaptive[there].mean()), int(there.sum()))  # fmt: skip


@torch.no_grad()
def mean_absolute_error(saliency: Tensor, truth: Tensor) -> float:
    """mean over images and pixels of |saliency - truth|, truth 0 or 1: in [0, 1].

    Args:
        saliency: as `f_beta` takes it.
        truth: likewise.

    Raises:
        ValueError: the shapes differ.
        TypeError: saliency is not floating.

    Source: Perazzi et al. 2012, "Saliency Filters", sec. 4.
    """
    need_floating("mean_absolute_error", saliency=saliency)
    s, object_ = _flat("mean_absolute_error", saliency, truth)
    return float((s - object_.double()).abs().mean())


def _flat(where: str, saliency: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """[images, pixels] float64 and bool, on the CPU."""
    if saliency.shape != truth.shape or saliency.ndim not in (3, 4) or (saliency.ndim == 4 and saliency.shape[1] != 1):
        raise wrong(where, given=f"saliency {list(saliency.shape)} and truth {list(truth.shape)}",
                    expected="both [batch, height, width], or both [batch, 1, height, width]", mend="bring them to one shape")  # fmt: skip
    bind_axes(where, saliency=(saliency.flatten(1), "batch pixels"))
    if truth.dtype != torch.bool:
        truth = truth > (0.5 if truth.is_floating_point() else 128 if truth.dtype == torch.uint8 else 0)
    return saliency.flatten(1).double().cpu(), truth.flatten(1).cpu()


def _at_least(level: Tensor, weights: Tensor) -> Tensor:
    """[images, 256]: the weights of the pixels whose level is t or more."""
    hist = weights.new_zeros(len(level), THRESHOLDS).scatter_add_(1, level.clamp(min=0), weights * (level >= 0))
    return hist.flip(1).cumsum(dim=1).flip(1)


def _f(precision: Tensor, recall: Tensor, beta2: float) -> Tensor:
    below = beta2 * precision + recall
    return torch.where(below == 0, 0, (1 + beta2) * precision * recall / torch.where(below == 0, 1, below))
