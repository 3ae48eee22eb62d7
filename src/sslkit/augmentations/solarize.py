"""Solarisation: bright values are inverted, for some samples."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sslkit._checks import wrong
from sslkit.augmentations._base import Augmentation, Parameters, Size, need_probability
from sslkit.augmentations._choose import choose, only


@dataclass(frozen=True)
class Solarize(Augmentation):
    """Inverts the bright values with probability p: v >= threshold becomes 1 - v.

    Threshold 1/2 is Pillow's 128: of uint8, 128 is inverted and 127 is not.

    Parameters: solarized [batch] bool.

    Raises:
        ValueError: p or threshold is outside [0, 1].

    Source: Grill et al. 2020, "Bootstrap Your Own Latent", app. B.
    """

    p: float = 0.2
    threshold: float = 0.5
    name: ClassVar[str] = "solarize"

    def __post_init__(self) -> None:
        need_probability("Solarize", p=self.p)
        if not 0 <= self.threshold <= 1:
            raise wrong(
                "Solarize",
                given=f"threshold={self.threshold}",
                expected="a value in [0, 1]",
                mend="divide a threshold of 0..255 by 255",
            )

    @property
    def keys(self) -> tuple[str, ...]:
        return ("solarized",)

    @property
    def slots(self) -> int:
        return 1

    def parameters(self, u: Tensor, size: Size) -> Parameters:
        return {"solarized": u[:, 0] < self.p}

    def _apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        return only(parameters["solarized"], lambda chosen, _: choose(chosen >= self.threshold, 1 - chosen, chosen), images, {})
