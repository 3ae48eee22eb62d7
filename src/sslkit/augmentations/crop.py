"""Random resized crop: a box of random area and aspect, resampled to one size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from sslkit._checks import wrong
from sslkit.augmentations._base import Augmentation, Parameters, Size, as_floats

_ATTEMPTS = 10  # torchvision's
Interpolation = Literal["bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class RandomResizedCrop(Augmentation):
    """Cuts a box of random area and aspect out of each image and resamples it to `size`.

        repeat up to 10 times, the first box that fits is taken:
            area = height * width * U(scale);  aspect = exp(U(log ratio))
            w = round(sqrt(area * aspect));  h = round(sqrt(area / aspect));  fits: 0 < w <= width and 0 < h <= height
            top = integer U{0..height - h};  left = integer U{0..width - w}
        else the largest box of an allowed aspect, in the middle
        out = Wy @ image @ Wx^T,  Wx[i, j] = kernel((j + 1/2 - centre_i) / stretch) / sum over the box's pixels j

    with centre_i = left + (i + 1/2) * w / size, stretch = max(1, w / size) if antialias else 1, and the kernel a
    triangle, the cubic (a = -1/2 with antialias, -3/4 without), or sinc(x) sinc(x / 3) for |x| < 3 (Lanczos). The values are clamped
    to [0, 1], which the last two overshoot. Equal to Pillow's on floating pictures; on uint8, Pillow also rounds and clips between columns
    and rows: a level apart on photographs, more at hard edges. For its very levels: `image.crop(box).resize(size, LANCZOS)` with this box.

    Parameters: top, left, height, width [batch] float32: the box in fractions of the picture, rows and columns counted
    from above and left. So it can be replayed on another resolution and on a saliency map; there its borders may cut
    through pixels.

    Args:
        size: (height, width) of the result; an int is a square.
        scale: range of the area, as a fraction of the picture.
        ratio: range of width / height.
        interpolation: "bicubic" (SimCLR, BYOL, DINO), "bilinear" (MoCo, SwAV, SimSiam) or "lanczos" (BEiT's tokenizer).
        antialias: average over the pixels that one result pixel covers. Without it, torch's plain `interpolate`, which has no Lanczos.
        rounded: large uint8 images on a CPU are resized by torch's function of integers, as torchvision does: four times as fast, and
            rounded between rows and columns and after, as Pillow. Other images, and boxes that cut through pixels, are as without it.

    Raises:
        ValueError: a size is not above 0, a range is empty or not above 0, the interpolation is unknown, or Lanczos without antialias.

    Source: Szegedy et al. 2015, "Going Deeper with Convolutions", sec. 6; the rule is that of torchvision's class of the
    same name.
    """

    size: int | Sequence[int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Interpolation = "bicubic"
    antialias: bool = True
    rounded: bool = False
    name: ClassVar[str] = "crop"

    def __post_init__(self) -> None:
        size = (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)
        if len(size) != 2 or min(size) < 1:
            raise wrong("RandomResizedCrop", given=f"size={self.size}", expected="a positive int or (height, width)", mend="pass size=224")
        object.__setattr__(self, "size", size)
        for label, pair, most in (("scale", self.scale, 1.0), ("ratio", self.ratio, math.inf)):
            if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= most:
                raise wrong(
                    "RandomResizedCrop",
                    given=f"{label}={pair}",
                    expected=f"0 < low <= high{' <= 1' if most == 1 else ''}",
                    mend=f"pass {label}=(low, high)",
                )
            object.__setattr__(self, label, tuple(pair))
        if self.interpolation not in ("bilinear", "bicubic", "lanczos") or (self.interpolation == "lanczos" and not self.antialias):
            raise wrong(
                "RandomResizedCrop",
                given=f"interpolation={self.interpolation!r}, antialias={self.antialias}",
                expected='"bicubic" or "bilinear", or "lanczos" with antialias',
                mend="pass one of them",
            )

    @property
    def keys(self) -> tuple[str, ...]:
        return ("top", "left", "height", "width")

    @property
    def slots(self) -> int:
        return 2 * _ATTEMPTS + 2

    def output_size(self, size: Size) -> Size:
        return self._size

    @property
    def _size(self) -> Size:
        height, width = self.size  # type: ignore[misc]  # an int became a pair in __post_init__
        return height, width

    def parameters(self, u: Tensor, size: Size) -> Parameters:
        height, width = size
        u = u.double() if u.device.type != "mps" else u  # so that an area near half a pixel rounds as torchvision's Python floats do
        area = height * width * (self.scale[0] + u[:, :_ATTEMPTS] * (self.scale[1] - self.scale[0]))  # [batch, attempts]
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        aspect = (low + u[:, _ATTEMPTS : 2 * _ATTEMPTS] * (high - low)).exp()
        w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        first = fits.int().argmax(dim=1, keepdim=True)  # argmax gives the first of equal ones
        some = fits.any(dim=1)
        middle_h, middle_w = self._largest(height, width)
        w = torch.where(some, w.gather(1, first)[:, 0], middle_w)
        h = torch.where(some, h.gather(1, first)[:, 0], middle_h)
        # min: the float32 product can round up to the number of places itself
        top = torch.minimum((u[:, -2] * (height - h + 1)).floor(), height - h)
        left = torch.minimum((u[:, -1] * (width - w + 1)).floor(), width - w)
        top = torch.where(some, top, (height - middle_h) // 2)
        left = torch.where(some, left, (width - middle_w) // 2)
        box = {"top": top / height, "left": left / width, "height": h / height, "width": w / width}
        return {key: value.float() for key, value in box.items()}

    def _largest(self, height: int, width: int) -> Size:
        if width / height < self.ratio[0]:
            return min(height, round(width / self.ratio[0])), width
        if width / height > self.ratio[1]:
            return height, min(width, round(height * self.ratio[1]))
        return height, width

    def _first_of_each(self, images: Tensor, parameters: Parameters, work: torch.dtype) -> Tensor:
        boxes = torch.stack([parameters[key] for key in self.keys], dim=1).tolist()
        return torch.cat([self._one(image, box, work) for image, box in zip(torch.split(images, 1), boxes, strict=True)])

    def _one(self, image: Tensor, box: list[float], work: torch.dtype) -> Tensor:
        """One image, of which only the pixels of the box are read; box: top, left, height, width, fractions."""
        whole, inner = self.interpolation != "lanczos", box.copy()
        for axis in (0, 1):
            begin, size = (_snapped(box[k] * image.shape[2 + axis]) for k in (axis, 2 + axis))
            first, stop = max(math.floor(begin), 0), min(math.ceil(begin + size), image.shape[2 + axis])
            image = image.narrow(2 + axis, first, stop - first)
            whole = whole and size == stop - first
            inner[axis], inner[2 + axis] = (begin - first) / (stop - first), size / (stop - first)
        if not whole:
            values = {key: torch.tensor([x], dtype=work) for key, x in zip(self.keys, inner, strict=True)}
            return self._apply(as_floats(image, work), values)
        # the same weights, by a function that knows which of them are 0
        resize = partial(interpolate, size=self._size, mode=self.interpolation, antialias=self.antialias)
        if self.rounded and self.antialias and image.dtype == torch.uint8:
            return as_floats(resize(image.contiguous()), work)
        return resize(as_floats(image, work)).clamp_(0, 1)

    def _apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        batch, channels, height, width = images.shape
        out_h, out_w = self._size
        wy = self._weights(parameters["top"], parameters["height"], height, out_h, images.dtype)  # [batch, out_h, height]
        wx = self._weights(parameters["left"], parameters["width"], width, out_w, images.dtype)  # [batch, out_w, width]
        if height * out_w * (width + out_h) <= width * out_h * (height + out_w):  # the order that multiplies less
            rows = torch.bmm(images.reshape(batch, channels * height, width), wx.mT).view(batch, channels, height, out_w)
            out = torch.stack([torch.bmm(wy, rows[:, c]) for c in range(channels)], dim=1)
        else:
            columns = torch.stack([torch.bmm(wy, images[:, c]) for c in range(channels)], dim=1)  # [batch, channels, out_h, width]
            out = torch.bmm(columns.view(batch, channels * out_h, width), wx.mT).view(batch, channels, out_h, out_w)
        return out.clamp_(0, 1)

    def _weights(self, start: Tensor, length: Tensor, pixels: int, out: int, dtype: torch.dtype) -> Tensor:
        """The resampling matrix of one axis, [batch, out, pixels]; start, length: [batch], fractions."""
        # in pixels, and back to the whole number that a float32 fraction of it may miss by 1e-5
        start, length = (_snap(x.to(dtype) * pixels)[:, None] for x in (start, length))
        step = length / out  # [batch, 1]
        stretch = step.clamp(min=1) if self.antialias else torch.ones_like(step)
        centre = start + (torch.arange(out, device=start.device, dtype=dtype) + 0.5) * step  # [batch, out]
        pixel = torch.arange(pixels, device=start.device, dtype=dtype)  # [pixels]
        first, last = start.floor(), (start + length).ceil() - 1  # of the box; pixels beyond it have no say
        inside = ((pixel >= first) & (pixel <= last)).to(dtype)  # [batch, pixels]
        offset = (pixel + 0.5) - centre[:, :, None]  # [batch, out, pixels]
        weights = self._kernel(offset.div_(stretch[:, :, None])).mul_(inside[:, None])
        if not self.antialias:  # taps beyond the box read its border pixel; with antialias they are left out
            for beyond in (1, 2):
                for edge, at in ((first, first - beyond), (last, last + beyond)):
                    tap = self._kernel(at + 0.5 - centre)[:, :, None]  # [batch, out, 1]
                    weights = weights + tap * (pixel == edge)[:, None]
        return weights.div_(weights.sum(dim=-1, keepdim=True))

    def _kernel(self, x: Tensor) -> Tensor:
        """The kernel at x, a fresh tensor that is written over."""
        if self.interpolation == "lanczos":
            return torch.sinc(x).mul_(torch.sinc(x / 3)).mul_(x.abs() < 3)
        x = x.abs_().neg_()
        if self.interpolation == "bilinear":
            return x.add_(1).clamp_(min=0)
        # Keys' cubic in truncated powers, one polynomial for all x: a t^2 (1 - t) + s^2 (3 + 4 a - 2 s), t = (2 - |x|)+,
        # s = (1 - |x|)+
        a = -0.5 if self.antialias else -0.75
        t = x.add_(2).clamp_(min=0)
        s = (t - 1).clamp_(min=0)
        squared = s * s
        out = (squared * (3 + 4 * a)).addcmul_(squared, s, value=-2)
        squared = t * t
        return out.add_(squared, alpha=a).addcmul_(squared, t, value=-a)


def _snapped(x: float) -> float:
    return float(round(x)) if abs(x - round(x)) < 1e-3 else x


def _snap(x: Tensor) -> Tensor:
    whole = x.round()
    return torch.where((x - whole).abs() < 1e-3, whole, x)
