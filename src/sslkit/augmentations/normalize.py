"""Standardisation with fixed statistics of the channels."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sslkit._checks import need_positive, wrong
from sslkit.augmentations._base import Augmentation, Parameters, Size

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Normalize(Augmentation):
    """Centres and scales each channel; draws nothing. Floating images only: the result leaves [0, 1].

        out[b, c] = (images[b, c] - mean[c]) / std[c]

    Args:
        mean: one number a channel, in units of [0, 1]; ImageNet's by default.
        std: as `mean`.

    Raises:
        TypeError: uint8 images.
        ValueError: mean and std differ in length, a std is not above 0, or images have another number of channels.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    name: ClassVar[str] = "normalize"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if len(self.mean) != len(self.std):
            raise wrong(
                "Normalize",
                given=f"{len(self.mean)} means and {len(self.std)} stds",
                expected="one of each a channel",
                mend="pass tuples of equal length",
            )
        for std in self.std:
            need_positive("Normalize", std=std)

    @property
    def floating_only(self) -> bool:
        return True

    @property
    def slots(self) -> int:
        return 0

    def parameters(self, u: Tensor, size: Size) -> Parameters:
        return {}

    def check(self, channels: int, size: Size) -> None:
        if channels != len(self.mean):
            raise wrong(
                "Normalize",
                given=f"images with {channels} channels",
                expected=f"{len(self.mean)}, the length of mean and std",
                mend="pass the statistics of your channels: Normalize(mean=(...), std=(...))",
            )

    def _apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        # channel by channel with Python numbers: a tensor of them would have to be copied to the device in every call
        scaled = [(images[:, c] - self.mean[c]) / self.std[c] for c in range(len(self.mean))]
        return torch.stack(scaled, dim=1)
