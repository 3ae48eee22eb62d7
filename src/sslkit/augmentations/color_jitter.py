"""Colour jitter: brightness, contrast, saturation and hue, in an order per sample."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sslkit._checks import wrong
from sslkit.augmentations._base import Augmentation, Parameters, Size, need_probability
from sslkit.augmentations._choose import eager_cpu, only
from sslkit.augmentations.grayscale import luma

_OPS = ("brightness", "contrast", "saturation", "hue")
Range = float | tuple[float, float]


@dataclass(frozen=True)
class ColorJitter(Augmentation):
    """Changes brightness, contrast, saturation and hue by random amounts in a random order, each sample its own.

        brightness: clamp(f x)                                  grey = 0.2989 r + 0.587 g + 0.114 b
        contrast:   clamp(f x + (1 - f) mean of grey)           (the picture's mean)
        saturation: clamp(f x + (1 - f) grey)
        hue:        the hue of HSV, in turns, is moved by f     all clamped to [0, 1]

    As torchvision's. SimCLR's first version adds brightness instead, and TensorFlow's contrast keeps each channel's own mean.

    Parameters: brightness, contrast, saturation, hue [batch] float32, the factors f; order [batch, 4] int64, the
    operations (0..3 in the order above) from first to last; jittered [batch] bool. An operation whose range leaves
    nothing to change is skipped whatever f says.

    Args:
        brightness: a number x means the range [max(0, 1 - x), 1 + x]; or (low, high).
        contrast: as `brightness`.
        saturation: as `brightness`.
        hue: a number x <= 1/2 means [-x, x]; or (low, high).
        p: probability.

    Raises:
        ValueError: a range is empty or negative, hue beyond 1/2, p outside [0, 1]; or the images do not have 3 channels
            though saturation or hue is jittered. Without these two any number of channels works, and grey is the mean of
            the channels.

    Source: Howard 2013, "Some Improvements on Deep Convolutional Neural Network Based Image Classification"; SimCLR, app. A.
    """

    brightness: Range = 0.0
    contrast: Range = 0.0
    saturation: Range = 0.0
    hue: Range = 0.0
    p: float = 1.0
    name: ClassVar[str] = "jitter"

    def __post_init__(self) -> None:
        for op in _OPS:
            given = getattr(self, op)
            middle, least, most = (0.0, -0.5, 0.5) if op == "hue" else (1.0, 0.0, float("inf"))
            if not isinstance(given, (int, float)):
                pair = tuple(given)
            else:  # brightness 1.5 means [0, 2.5]; hue 0.6 is a mistake
                pair = (middle - given if op == "hue" or given < 0 else max(least, middle - given), middle + given)
            if len(pair) != 2 or not least <= pair[0] <= pair[1] <= most:
                raise wrong(
                    "ColorJitter",
                    given=f"{op}={given}",
                    expected=f"{'0..0.5' if op == 'hue' else 'a number >= 0'}, or (low, high)",
                    mend=f"pass {op}=0.2, or 0 to leave it out",
                )
            object.__setattr__(self, op, pair)
        need_probability("ColorJitter", p=self.p)

    @property
    def keys(self) -> tuple[str, ...]:
        return (*_OPS, "order", "jittered")

    @property
    def slots(self) -> int:
        return 9

    def parameters(self, u: Tensor, size: Size) -> Parameters:
        drawn = {op: low + u[:, slot] * (high - low) for slot, (op, (low, high)) in enumerate(self._ranges())}
        return {**drawn, "order": u[:, 4:8].argsort(dim=1), "jittered": u[:, 8] < self.p}

    def check(self, channels: int, size: Size) -> None:
        if channels != 3 and (self._changes("saturation") or self._changes("hue")):
            raise wrong(
                "ColorJitter",
                given=f"images with {channels} channels",
                expected="3 (red, green, blue) for saturation and hue",
                mend="pass saturation=0, hue=0",
            )

    def _ranges(self) -> list[tuple[str, tuple[float, float]]]:
        return [(op, getattr(self, op)) for op in _OPS]

    def _changes(self, op: str) -> bool:
        return bool(getattr(self, op) != ((0.0, 0.0) if op == "hue" else (1.0, 1.0)))

    def _apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        own = {key: parameters[key] for key in (*_OPS, "order")}
        return self._jitter(images, own) if self.p == 1 else only(parameters["jittered"], self._jitter, images, own)

    def _jitter(self, images: Tensor, parameters: Parameters) -> Tensor:
        # The three operations other than hue, in their order, are three blends. Hue is costly and is done once, of all samples: a
        # sample's blends come before it, or after it.
        is_hue = (parameters["order"] == 3).int()
        ops = parameters["order"].gather(1, is_hue.argsort(dim=1, stable=True))[:, :3]  # stable: the others stay in order
        ones = torch.ones_like(parameters["hue"])
        factors = torch.stack([parameters[op] if self._changes(op) else ones for op in _OPS[:3]], dim=1)
        factors = factors.to(images.dtype).gather(1, ops)  # [batch, 3], of first, second, third
        if not self._changes("hue"):
            return self._blends(images, ops, factors)
        hue, place = parameters["hue"].to(images.dtype), is_hue.argmax(dim=1)  # how many blends come before it
        if not eager_cpu(images):
            before = torch.arange(3, device=images.device) < place[:, None]  # [batch, 3]; idle blends on the other side
            out = self._blends(images, ops, torch.where(before, factors, 1))
            return self._blends(_shift_hue(out, hue), ops, torch.where(before, 1, factors))
        rows = place.argsort(descending=True)  # those with a k-th blend before the hue come first, the others have it after
        out, ops, factors = images.index_select(0, rows), ops[rows], factors[rows]
        firsts = [int((place > k).sum()) for k in range(3)]
        for k, first in enumerate(firsts):
            self._blend(out[:first], ops[:first, k], factors[:first, k], out=out[:first])
        out = _shift_hue(out, hue[rows])
        for k, first in enumerate(firsts):
            self._blend(out[first:], ops[first:, k], factors[first:, k], out=out[first:])
        return out.index_select(0, rows.argsort())

    def _blends(self, images: Tensor, ops: Tensor, factors: Tensor) -> Tensor:
        for k in range(3):
            images = self._blend(images, ops[:, k], factors[:, k])
        return images

    def _blend(self, images: Tensor, ops: Tensor, factors: Tensor, out: Tensor | None = None) -> Tensor:
        """clamp(f x + (1 - f) reference), the reference being 0, the mean of grey, or grey, as ops [batch] say; may be written to `out`."""
        f, op = factors[:, None, None], ops[:, None, None]  # [batch, 1, 1]
        if not (self._changes("contrast") or self._changes("saturation")):
            return torch.mul(images, f[:, None], out=out).clamp_(0, 1) if self._changes("brightness") else images
        grey = luma(images)  # [batch, height, width]
        mean = grey.mean(dim=(1, 2), keepdim=True) * torch.where(op == 1, 1 - f, 0)
        reference = torch.addcmul(mean, grey, torch.where(op == 2, 1 - f, 0))
        return torch.addcmul(reference[:, None], images, f[:, None], out=out).clamp_(0, 1)


def _shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Moves the hue of HSV by turns [batch], without the six cases of the textbook.

    hue = +-(1 + (g + b - r - min) / (max - min)) / 6 turns, with the sign of g - b
    out_c = min + (max - min) * clamp(6 |frac(hue + turns + phase_c) - 1/2| - 1, 0, 1)
    phase = (0, 4, 2) / 6 for red, green, blue
    """
    red, green, blue = images.unbind(dim=1)
    low = torch.minimum(torch.minimum(red, green), blue)
    span = torch.maximum(torch.maximum(red, green), blue).sub_(low)  # 0 for grey, where any hue gives the same colour
    hue = torch.add(green, blue).sub_(red).sub_(low).div_(span.clamp(min=1e-20)).add_(1)
    hue = (hue.copysign_(green - blue) * (1 / 6)).add_((turns + 1)[:, None, None])  # >= 0, as frac needs
    phase = torch.arange(3, device=images.device, dtype=images.dtype)[:, None, None] * (4 / 6)  # a whole turn more for blue
    wave = hue[:, None] + phase  # [batch, 3, height, width]
    wave = wave.frac_().sub_(0.5).abs_().mul_(6).sub_(1).clamp_(0, 1)
    return torch.addcmul(low[:, None], wave, span[:, None])
