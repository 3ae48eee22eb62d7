"""Gaussian blur with a standard deviation per sample."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from sslkit._checks import wrong
from sslkit.augmentations._base import Augmentation, Parameters, Size, need_probability
from sslkit.augmentations._choose import only

_TILE = 32  # results of one matrix product along an axis: a band of 23 taps in a 224 x 224 matrix is nine tenths zeros


@dataclass(frozen=True)
class GaussianBlur(Augmentation):
    """Blurs with a true Gaussian, cut off at the kernel's size and divided by its sum; borders are reflected.

        w[d] = exp(-d^2 / (2 sigma[b]^2)),  d = -r..r,  kernel = 2 r + 1
        out[b, c, i, j] = sum over d, e of w[d] w[e] images[b, c, i + d, j + e] / (sum of w)^2

    Pillow's filter of that name, which the codes of MoCo, SwAV and DINO call, is another operation, 10 to 40 of 255 levels away at hard
    edges, lines and points: a box whose ends weigh less, three times along rows, then three times along columns; borders are repeated,
    anew before each. Three such boxes have the variance sigma^2.

        w[d] = 1 for |d| <= l,  a for |d| = l + 1,  divided by their sum;      s = sigma^2 / 3
        l = floor((sqrt(12 s + 1) - 1) / 2),   a = (2 l + 1) (l (l + 1) - 3 s) / (6 (s - (l + 1)^2))

    Parameters: sigma [batch] float32, in pixels (of boxes not above the range's end, for which their length is made); blurred [batch]
        bool.

    Args:
        sigma: range of the standard deviation, in pixels.
        kernel: number of taps, odd. None: a tenth of the height, made odd (2 * (height // 10 // 2) + 1), as in SimCLR:
            23 at 224, 3 at 32.
        p: probability.
        pillow: boxes, as Pillow's; it rounds to 8 bits after each of the six, which here is not done.

    Raises:
        ValueError: sigma is not a range above 0, kernel is even or given for boxes, p is outside [0, 1], or the image is no larger than
            the kernel's radius.

    Source: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", app. A; its code pads with zeros.
    Boxes: Gwosdek et al. 2011, "Theoretical Foundations of Gaussian Convolution by Extended Box Filtering".
    """

    sigma: tuple[float, float] = (0.1, 2.0)
    kernel: int | None = None
    p: float = 0.5
    pillow: bool = False
    name: ClassVar[str] = "blur"

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", tuple(self.sigma))
        if len(self.sigma) != 2 or not 0 < self.sigma[0] <= self.sigma[1]:
            raise wrong("GaussianBlur", given=f"sigma={self.sigma}", expected="0 < low <= high", mend="pass sigma=(low, high), in pixels")
        if self.kernel is not None and (self.kernel < 1 or self.kernel % 2 == 0):
            raise wrong(
                "GaussianBlur",
                given=f"kernel={self.kernel}",
                expected="an odd number of taps",
                mend=f"pass {max(1, self.kernel) | 1}",
            )
        if self.pillow and self.kernel is not None:
            raise wrong("GaussianBlur", given=f"kernel={self.kernel} with pillow=True", expected="boxes, whose length follows from sigma",
                        mend="leave one of them out")  # fmt: skip
        need_probability("GaussianBlur", p=self.p)

    @property
    def keys(self) -> tuple[str, ...]:
        return ("sigma", "blurred")

    @property
    def slots(self) -> int:
        return 2

    def parameters(self, u: Tensor, size: Size) -> Parameters:
        return {"sigma": self.sigma[0] + u[:, 0] * (self.sigma[1] - self.sigma[0]), "blurred": u[:, 1] < self.p}

    def check(self, channels: int, size: Size) -> None:
        radius = self._radius(size[0])
        if radius >= min(size) and not self.pillow:
            raise wrong(
                "GaussianBlur",
                given=f"images of {size[0]} x {size[1]}",
                expected=f"more than {radius} pixels a side, the kernel's radius",
                mend="pass a smaller kernel=",
            )

    def _radius(self, height: int) -> int:
        """The largest distance of a tap."""
        if self.pillow:
            return int((math.sqrt(4 * self.sigma[1] ** 2 + 1) - 1) / 2) + 1
        return (height // 10 if self.kernel is None else self.kernel) // 2

    def _apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        if self._radius(images.shape[2]) == 0:
            return images
        return only(parameters["blurred"], self._boxes if self.pillow else self._blur, images, {"sigma": parameters["sigma"]})

    def _blur(self, images: Tensor, parameters: Parameters) -> Tensor:
        radius = self._radius(images.shape[2])
        tile = min(_TILE, max(images.shape[2:]))
        # out = in @ band, a matrix of Toeplitz form: the same for every tile of the padded picture
        place = torch.arange(tile + 2 * radius, device=images.device)
        distance = (place[:, None] - place[:tile] - radius).abs()  # [tile + 2 r, tile]
        sigma = parameters["sigma"].to(images.dtype)[:, None, None]
        band = torch.where(distance <= radius, (distance / sigma).square_().mul_(-0.5).exp_(), 0)  # [batch, tile + 2 r, tile]
        band = band / band.sum(dim=1, keepdim=True)
        blurred = _along_rows(images, band, radius).mT  # [batch, channels, width, height]
        return _along_rows(blurred, band, radius).mT

    def _boxes(self, images: Tensor, parameters: Parameters) -> Tensor:
        radius = self._radius(images.shape[2])
        distance = torch.arange(radius + 1, device=images.device)
        box = _box(distance, parameters["sigma"].to(images.dtype)[:, None])  # [batch, radius + 1]
        taps = (box / (2 * box.sum(dim=1, keepdim=True) - box[:, :1])).T[..., None, None, None]  # [radius + 1, batch, 1, 1, 1]
        for axis, border in ((3, (radius, radius, 0, 0)), (2, (0, 0, radius, radius))):
            pixels = images.shape[axis]
            for _ in range(3):
                padded = pad(images, border, mode="replicate")
                images = padded.narrow(axis, radius, pixels) * taps[0]
                for d in range(1, radius + 1):
                    images.addcmul_(padded.narrow(axis, radius - d, pixels) + padded.narrow(axis, radius + d, pixels), taps[d])
        return images


def _box(distance: Tensor, sigma: Tensor) -> Tensor:
    """One of three boxes: 1 up to `whole`, `rest` one further."""
    variance = sigma.square() / 3
    whole = ((12 * variance + 1).sqrt().sub(1) / 2).floor()
    rest = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1).square()))
    return torch.where(distance <= whole, 1, torch.where(distance == whole + 1, rest, 0))


def _along_rows(images: Tensor, band: Tensor, radius: int) -> Tensor:
    batch, channels, height, width = images.shape
    tile = band.shape[2]
    padded = pad(images, (radius, radius, 0, 0), mode="reflect").reshape(batch, channels * height, width + 2 * radius)
    tiles = []
    for start in range(0, width, tile):
        size = min(tile, width - start)
        tiles.append(torch.bmm(padded[:, :, start : start + size + 2 * radius], band[:, : size + 2 * radius, :size]))
    return torch.cat(tiles, dim=2).view(batch, channels, height, width)
