"""Another fine texture on the same outlines and colours (LooC's third space)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sslkit._checks import need_positive, need_whole, wrong
from sslkit.augmentations._base import Augmentation, Parameters, Size, need_probability
from sslkit.augmentations._choose import only
from sslkit.augmentations.grayscale import luma


@dataclass(frozen=True)
class RandomTexture(Augmentation):
    """Smooths the fine texture of a picture away and lays a random one over it; outlines and hues stay.

        m, v   mean of each channel, and variance averaged over the channels, in the window of side 2 radius + 1, cut at the border
        a = v / (v + edge**2)                                    near 1 on an outline, near 0 on a surface
        smooth = mean(a) x + mean((1 - a) m)                     means over the same windows: the guided filter, guided by itself
        out = clamp(smooth + amount * (t - mean of t), 0, 1)     t: grey of the drawn texture, the same for all channels

    Parameters: textured [batch] bool; amount [batch] float32; texture [batch, 3] in [0, 1), what `textures` is called with.

    Args:
        textures: (u [batch, 3], (height, width)) -> images [batch, 1 or 3, height, width], floating in [0, 1], where the pictures are:
            `ImageBackgrounds` of surfaces without an object, such as `Scenes.backgrounds`.
        strength: of the texture: amounts are uniform in [0, strength].
        radius: of the window, pixels; 2 at 32, 7 at 112.
        edge: what is an outline: a standard deviation in the window, in units of the range.
        p: probability.

    Raises:
        ValueError: p outside [0, 1], strength negative, radius below 1, edge not above 0; when called, textures of another shape.
        TypeError: `textures` is not callable.

    Source: Xiao et al. 2021 (LooC), sec. 4, "texture randomization", for which the paper takes the style transfer of Geirhos et al. 2019:
    pictures made beforehand by a network. Here it is drawn on the fly: He et al. 2010, "Guided Image Filtering", eq. 5, 6, 8.
    """

    textures: Callable[[Tensor, Size], Tensor]
    strength: float = 0.5
    radius: int = 2
    edge: float = 0.1
    p: float = 1.0
    name: ClassVar[str] = "texture"

    def __post_init__(self) -> None:
        need_probability("RandomTexture", p=self.p)
        need_whole("RandomTexture", radius=self.radius)
        need_positive("RandomTexture", edge=self.edge)
        if not 0 <= self.strength < float("inf"):
            raise wrong("RandomTexture", given=f"strength={self.strength}", expected="a number from 0 on", mend="pass 0.5")
        if not callable(self.textures):
            raise wrong("RandomTexture", given=f"textures of type {type(self.textures).__name__}",
                        expected="a callable (u, size) -> images", mend="pass ImageBackgrounds(pictures)", kind=TypeError)  # fmt: skip

    @property
    def keys(self) -> tuple[str, ...]:
        return ("textured", "amount", "texture")

    @property
    def slots(self) -> int:
        return 5

    def parameters(self, u: Tensor, size: Size) -> Parameters:
        return {"textured": u[:, 0] < self.p, "amount": self.strength * u[:, 1], "texture": u[:, 2:]}

    def _apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        own = {key: parameters[key] for key in ("texture", "amount")}
        return self._lay(images, own) if self.p == 1 else only(parameters["textured"], self._lay, images, own)

    def _lay(self, images: Tensor, parameters: Parameters) -> Tensor:
        batch, _, height, width = images.shape
        drawn = self.textures(parameters["texture"], (height, width)).to(images.dtype)
        if drawn.ndim != 4 or drawn.shape[1] not in (1, 3) or (len(drawn), *drawn.shape[2:]) != (batch, height, width):
            raise wrong("RandomTexture", given=f"textures {list(drawn.shape)}", expected=f"[{batch}, 1 or 3, {height}, {width}]",
                        mend="return one texture a row of u, of the size asked for")  # fmt: skip
        grey = luma(drawn)[:, None]  # [batch, 1, height, width]
        amount = parameters["amount"].to(images.dtype)[:, None, None, None]
        return torch.addcmul(self._smooth(images), amount, grey - grey.mean(dim=(2, 3), keepdim=True)).clamp_(0, 1)

    def _smooth(self, images: Tensor) -> Tensor:
        """[batch, channels, height, width] -> the same without what is fine and faint."""
        down, across = (_means(side, self.radius, images) for side in images.shape[2:])
        level = images.mean(dim=(2, 3), keepdim=True)  # variances of differences from it: small numbers lose no digits
        middle = images - level
        mean = down @ middle @ across.T  # [batch, channels, height, width]
        square = down @ middle.square().mean(dim=1, keepdim=True) @ across.T  # [batch, 1, height, width]
        variance = (square - mean.square().mean(dim=1, keepdim=True)).clamp(min=0)
        a = variance / (variance + self.edge**2)
        smooth = torch.addcmul(down @ (mean * (1 - a)) @ across.T, down @ a @ across.T, middle)
        return smooth + level


def _means(side: int, radius: int, like: Tensor) -> Tensor:
    """[side, side]: row i averages the places within `radius` of i."""
    at = torch.arange(side, device=like.device)
    near = ((at[:, None] - at).abs() <= radius).to(like.dtype)
    return near / near.sum(dim=1, keepdim=True)
