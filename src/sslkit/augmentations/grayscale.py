"""Grey: the luma of Rec. 601, for some samples."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sslkit._checks import wrong
from sslkit.augmentations._base import Augmentation, Parameters, Size, need_probability
from sslkit.augmentations._choose import only


@dataclass(frozen=True)
class Grayscale(Augmentation):
    """Replaces all three channels by 0.2989 r + 0.587 g + 0.114 b with probability p. Images of one channel are grey already.

    Parameters: grey [batch] bool.

    Raises:
        ValueError: p is outside [0, 1], or images have neither 1 nor 3 channels.
    """

    p: float = 0.2
    name: ClassVar[str] = "grayscale"

    def __post_init__(self) -> None:
        need_probability("Grayscale", p=self.p)

    @property
    def keys(self) -> tuple[str, ...]:
        return ("grey",)

    @property
    def slots(self) -> int:
        return 1

    def parameters(self, u: Tensor, size: Size) -> Parameters:
        return {"grey": u[:, 0] < self.p}

    def check(self, channels: int, size: Size) -> None:
        if channels not in (1, 3):
            raise wrong(
                "Grayscale",
                given=f"images with {channels} channels",
                expected="3 (red, green, blue), or 1",
                mend="leave Grayscale out",
            )

    def _apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        if images.shape[1] == 1:
            return images
        return only(parameters["grey"], lambda chosen, _: luma(chosen)[:, None].expand_as(chosen), images, {})


def luma(images: Tensor) -> Tensor:
    """[batch, channels, height, width] -> [batch, height, width], fresh memory."""
    if images.shape[1] != 3:
        return images.mean(dim=1)
    red, green, blue = images.unbind(dim=1)
    return torch.mul(red, 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)
