"""One part of the picture at several sizes: what the model sees, and what its tokenizer sees (BEiT)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sslkit._checks import wrong
from sslkit.augmentations._base import Augmentation, Parameters, Sampler, Size, as_floats, need_images
from sslkit.augmentations.compose import part
from sslkit.augmentations.crop import RandomResizedCrop


@dataclass(frozen=True)
class PairedCrop(Sampler[list[Tensor]]):
    """Changes each image once and cuts one box out of it, which becomes a list of views of several sizes.

        x = before(image);    box = a random one of x;    views = [x in the box, resampled by each of the crops]

    So token (i, j) of one view is patch (i, j) of another, in the same colours.

    Parameters: those of `before` with "before." in front, and the box: top, left, height, width [batch], fractions.

    Args:
        before: what is done to the whole image, an augmentation or `Compose` of some.
        crops: how the box is resampled, one for each view. They agree in scale and ratio.

    Raises:
        ValueError: no crop, or crops that would draw different boxes.
        TypeError: the parts are not such augmentations.

    Source: Bao et al. 2022, "BEiT: BERT Pre-Training of Image Transformers", and the authors' RandomResizedCropAndInterpolationWithTwoPic.
    """

    before: Augmentation
    crops: Sequence[RandomResizedCrop]

    def __post_init__(self) -> None:
        object.__setattr__(self, "crops", tuple(self.crops))
        for name, one, kind in (("before", self.before, Augmentation), *(("crops", crop, RandomResizedCrop) for crop in self.crops)):
            if not isinstance(one, kind):
                raise wrong("PairedCrop", given=f"{name} with a {type(one).__name__}", expected=f"{kind.__name__} of this package",
                            mend="pass PairedCrop(Compose(...), (RandomResizedCrop(224), RandomResizedCrop(112)))",
                            kind=TypeError)  # fmt: skip
        if len({(crop.scale, crop.ratio) for crop in self.crops}) != 1:
            raise wrong("PairedCrop", given=f"crops of {[(crop.scale, crop.ratio) for crop in self.crops]}",
                        expected="at least one, all of one scale and ratio", mend="give them the same two ranges")  # fmt: skip

    @property
    def slots(self) -> int:
        return self.before.slots + self.crops[0].slots

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return (*(f"before.{key}" for key in self.before.keys), *self.crops[0].keys)

    def parameters(self, u: Tensor, size: Size) -> Parameters:
        drawn = self.before.parameters(u[:, : self.before.slots], size)
        box = self.crops[0].parameters(u[:, self.before.slots :], self.before.output_size(size))
        return {**{f"before.{key}": value for key, value in drawn.items()}, **box}

    def apply(self, images: Tensor, parameters: Parameters) -> list[Tensor]:
        """Applies given parameters: the list of views, in the dtype and range of images [batch, channels, height, width].

        Raises:
            TypeError, ValueError: as `apply` of the parts.
        """
        need_images("PairedCrop", images)
        # one rounding at the end, where Pillow has one after every step
        levels, wide = images.dtype == torch.uint8, torch.promote_types(images.dtype, torch.float32)
        x = self.before.apply(as_floats(images, wide), part(parameters, "before."))
        views = [crop.apply(x, parameters) for crop in self.crops]
        return [view.mul(255).round_().to(torch.uint8) if levels else view.to(images.dtype) for view in views]
