"""Horizontal flip."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sslkit.augmentations._base import Augmentation, Parameters, Size, need_probability
from sslkit.augmentations._choose import only


@dataclass(frozen=True)
class HorizontalFlip(Augmentation):
    """Mirrors left and right with probability p; bit exact in every dtype.

        out[b, c, i, j] = images[b, c, i, width - 1 - j] if flipped[b] else images[b, c, i, j]

    Parameters: flipped [batch] bool. Works on a saliency map as on its image.

    Raises:
        ValueError: p is outside [0, 1].
    """

    p: float = 0.5
    name: ClassVar[str] = "flip"
    moves_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        need_probability("HorizontalFlip", p=self.p)

    @property
    def keys(self) -> tuple[str, ...]:
        return ("flipped",)

    @property
    def slots(self) -> int:
        return 1

    def parameters(self, u: Tensor, size: Size) -> Parameters:
        return {"flipped": u[:, 0] < self.p}

    def _apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        return only(parameters["flipped"], lambda chosen, _: chosen.flip(-1), images, {})
