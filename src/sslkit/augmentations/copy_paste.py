"""The object on another background (DiLo): cut out by its saliency, pasted."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2.functional import gaussian_blur

from sslkit._checks import bind_axes, need_positive, need_whole, wrong
from sslkit.augmentations._base import Parameters, Size, _blocks, as_floats, need_images, need_probability
from sslkit.augmentations._choose import choose, only
from sslkit.counter import uniforms

Blend = Literal["none", "gaussian", "mix"]
Backgrounds = Literal["grayscale"] | Callable[[Tensor, Size], Tensor]
_SLOTS = 5  # whether, whether blurred, and three for the background


@dataclass(frozen=True)
class CopyPaste:
    """Keeps the object and replaces what surrounds it, so that an embedding cannot rest on the background.

        m = saliency, blurred by a Gaussian if drawn        "none": never, "gaussian": always, "mix": every other sample
        out[b] = m[b] * images[b] + (1 - m[b]) * background[b]           with `probability`, else images[b]

    The map is soft: it is not made binary. DiLo pastes whole images, both views independently, before crops and colours.

    Parameters: pasted [batch] bool; blurred [batch] bool; background [batch, 3] in [0, 1), what `backgrounds` is called with.

    Args:
        backgrounds: "grayscale": one grey level a sample, the paper's best; or (u [batch, 3], (height, width)) -> images
            [batch, channels, height, width], floating in [0, 1]: `ImageBackgrounds` of textures, or of pictures without an object.
        blend: of table 2 (d); "mix" is the best there.
        probability: of pasting; 0.3 in the authors' code. At 1 training never sees a real background.
        sigma: of the Gaussian in pixels, cut off at 3 sigma, borders reflected; 5 at 224.

    Raises:
        ValueError: a probability outside [0, 1], an unknown word, sigma not above 0; when called, images and saliency of other sizes.
        TypeError: images or saliency neither uint8 nor floating.

    Source: Zhao et al. 2021, "Distilling Localization for Self-Supervised Representation Learning", sec. 3.2 and table 2. The authors' blur
    is Pillow's, a sum of boxes; their grey level is floor(255 u).
    """

    backgrounds: Backgrounds = "grayscale"
    blend: Blend = "mix"
    probability: float = 0.3
    sigma: float = 5.0

    def __post_init__(self) -> None:
        need_probability("CopyPaste", probability=self.probability)
        need_positive("CopyPaste", sigma=self.sigma)
        if self.blend not in ("none", "gaussian", "mix"):
            raise wrong("CopyPaste", given=f"blend={self.blend!r}", expected='"none", "gaussian" or "mix"', mend='pass "mix"')
        if self.backgrounds != "grayscale" and not callable(self.backgrounds):
            raise wrong("CopyPaste", given=f"backgrounds={self.backgrounds!r}", expected='"grayscale" or a callable (u, size) -> images',
                        mend="pass ImageBackgrounds(pictures) for textures or pictures")  # fmt: skip

    def sample(self, batch: int, *, generator: torch.Generator | None = None, indices: Tensor | None = None, seed: int | None = None,
               epoch: int = 0, offset: int = 0, device: torch.device | str | None = None) -> Parameters:  # fmt: skip
        """Draws the parameters of a batch, from a generator or as a function of (seed, epoch, index): as other augmentations do."""
        source = device if generator is None else None
        u = uniforms(batch, _SLOTS, generator=generator, indices=indices, seed=seed, epoch=epoch, offset=offset, device=source)
        u = u if device is None else u.to(device)
        often = {"none": 0.0, "gaussian": 1.0, "mix": 0.5}[self.blend]
        return {"pasted": u[:, 0] < self.probability, "blurred": u[:, 1] < often, "background": u[:, 2:]}

    def apply(self, images: Tensor, saliency: Tensor, parameters: Parameters, *, out: Tensor | None = None) -> Tensor:
        """Uses given parameters, one row a sample.

        Args:
            images: [batch, channels, height, width], uint8 or floating in [0, 1].
            saliency: [batch, 1, height, width], uint8 or floating in [0, 1], of the same pixels: 1 is the object.
            parameters: of `sample`.
            out: where the result is written, of the shape and dtype of the images; may be the images. None: new memory, which on a CPU
                costs more than the blending.

        Returns:
            Images of the same shape and dtype; uint8 is rounded once, to the nearest level as Pillow's composite. Where saliency is
            1 (0) and not blurred, the image's (the background's) own bits.
        """
        need_images("CopyPaste", images)
        need_images("CopyPaste", saliency)
        bind_axes("CopyPaste", images=(images, "batch channels height width"), saliency=(saliency, "batch 1 height width"),
                  pasted=(parameters["pasted"], "batch"))  # fmt: skip
        if out is None:
            out = torch.empty_like(images)
        elif out.shape != images.shape or out.dtype != images.dtype:
            raise wrong("CopyPaste", given=f"out {list(out.shape)} of {out.dtype}", expected=f"{list(images.shape)} of {images.dtype}",
                        mend="pass torch.empty_like(images), or the images themselves")  # fmt: skip
        batch = len(images)
        whole = batch > 0 and images.device.type != "cpu"
        for start, stop in [(0, batch)] if whole else _blocks(batch, 4 * images[:1].numel()):
            part = slice(start, stop)
            self._blend(images[part], saliency[part], {key: value[part] for key, value in parameters.items()}, out[part])
        return out

    def _blend(self, images: Tensor, saliency: Tensor, parameters: Parameters, out: Tensor) -> None:
        front, mask = (as_floats(x, torch.promote_types(x.dtype, torch.float32)) for x in (images, saliency))
        mask = mask.to(front.dtype)
        if self.blend != "none":
            mask = only(parameters["blurred"], lambda chosen, _: self._blurred(chosen), mask, {})
        mask = choose(parameters["pasted"], mask, torch.ones_like(mask))  # at 1, the image to the bit
        u = parameters["background"]
        if self.backgrounds == "grayscale":
            behind = ((255 * u[:, 0]).floor() / 255).to(front.dtype)[:, None, None, None]
        else:
            behind = self.backgrounds(u, (images.shape[2], images.shape[3])).to(front.dtype)
            if behind.shape != images.shape:
                raise wrong("CopyPaste", given=f"backgrounds {list(behind.shape)}", expected=f"{list(images.shape)}, as the images",
                            mend="return [batch, channels, height, width] for u and size")  # fmt: skip
        if front.dtype == out.dtype and not (images.requires_grad or saliency.requires_grad or behind.requires_grad):
            torch.lerp(behind, front, mask, out=out)
            return
        mixed = torch.lerp(behind, front, mask)
        out.copy_(mixed.mul_(255).round_().clamp_(0, 255) if images.dtype == torch.uint8 else mixed)

    def __call__(self, images: Tensor, saliency: Tensor, *, generator: torch.Generator | None = None, indices: Tensor | None = None,
                 seed: int | None = None, epoch: int = 0, offset: int = 0) -> Tensor:  # fmt: skip
        """Draws and applies: see `sample` and `apply`."""
        need_images("CopyPaste", images)
        parameters = self.sample(len(images), generator=generator, indices=indices, seed=seed, epoch=epoch, offset=offset,
                                 device=images.device)  # fmt: skip
        return self.apply(images, saliency, parameters)

    def _blurred(self, mask: Tensor) -> Tensor:
        radius = min(round(3 * self.sigma), min(mask.shape[2:]) - 1)  # a reflection is no wider than the picture
        with torch.autocast(mask.device.type, enabled=False):
            out: Tensor = gaussian_blur(mask, [2 * radius + 1] * 2, [self.sigma] * 2) if radius else mask
        return out


class ImageBackgrounds(nn.Module):
    """Pictures to paste onto: one at random, a random part of the size that is wanted.

        picture floor(u0 n), enlarged bilinearly to cover (height, width) where it is smaller; the window at (u1, u2) of what is left over

    Args:
        images: [n, channels, height, width], uint8 or floating in [0, 1]: textures, or pictures in which nothing stands out:
            `images[robust_background_saliency(images).mean(dim=(1, 2, 3)) < 0.1]`. Kept as they are, in no state dict.

    Raises:
        ValueError: no picture, or not four axes.
        TypeError: neither uint8 nor floating.

    Source: Zhao et al. 2021 (DiLo), sec. 3.2 "Background images".
    """

    images: Tensor

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        need_images("ImageBackgrounds", images)
        need_whole("ImageBackgrounds", pictures=len(images))
        self.register_buffer("images", images, persistent=False)

    def forward(self, u: Tensor, size: Size) -> Tensor:
        """u [batch, 3] in [0, 1), (height, width) -> [batch, channels, height, width], float32 or wider in [0, 1]."""
        bind_axes("ImageBackgrounds", u=(u, "batch 3"))
        which = (u[:, 0] * len(self.images)).long().clamp(max=len(self.images) - 1)
        pictures = self.images[which]
        pictures = (
            pictures.float() / 255 if pictures.dtype == torch.uint8 else pictures.to(torch.promote_types(pictures.dtype, torch.float32))
        )
        scale = max(size[0] / pictures.shape[2], size[1] / pictures.shape[3])
        if scale > 1:
            cover = [max(wanted, round(scale * have)) for wanted, have in zip(size, pictures.shape[2:], strict=True)]
            pictures = functional.interpolate(pictures, size=cover, mode="bilinear", align_corners=False)
        top, left = ((u[:, i] * (pictures.shape[i + 1] - size[i - 1] + 1)).long() for i in (1, 2))
        rows = top[:, None] + torch.arange(size[0], device=u.device)
        columns = left[:, None] + torch.arange(size[1], device=u.device)
        batch = torch.arange(len(u), device=u.device)[:, None, None]
        return pictures.movedim(1, -1)[batch, rows[:, :, None], columns[:, None, :]].movedim(-1, 1).contiguous()
