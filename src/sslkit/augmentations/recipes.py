"""The augmentations of the papers, by method."""

from collections.abc import Sequence

from sslkit._checks import wrong
from sslkit.augmentations._base import Augmentation
from sslkit.augmentations.blur import GaussianBlur
from sslkit.augmentations.color import ColorJitter, Grayscale
from sslkit.augmentations.compose import Compose
from sslkit.augmentations.crop import Interpolation, RandomResizedCrop
from sslkit.augmentations.flip import HorizontalFlip
from sslkit.augmentations.multi_crop import MultiCrop


def simclr(
    size: int | Sequence[int],
    *,
    strength: float = 1.0,
    scale: tuple[float, float] = (0.08, 1.0),
    jitter: tuple[float, float, float, float] | None = None,
    jitter_p: float = 0.8,
    grayscale: float = 0.2,
    blur: float = 0.5,
    flip: float = 0.5,
    interpolation: Interpolation = "bicubic",
    crop_only: bool = False,
) -> MultiCrop:
    """Two views alike: crop, flip, jitter, grey, blur.

    Args:
        size: of the views; an int is a square.
        strength: s of the paper; scales the default jitter.
        scale: range of the crop's area.
        jitter: brightness, contrast, saturation, hue; None: (0.8, 0.8, 0.8, 0.2) * strength.
        jitter_p: probability of the jitter; 0 leaves it out.
        grayscale: probability; 0 leaves it out.
        blur: probability; 0 leaves it out, as the paper does for small images. Below 20 pixels its kernel has one tap and does nothing.
        flip: probability; 0 leaves it out.
        interpolation: of the crop.
        crop_only: crop and flip alone.

    Raises:
        ValueError: an option is out of range (of the part that takes it), or `strength` is given together with `jitter`.

    Source: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", app. A. Jitter is
    torchvision's (brightness multiplies, as in SimCLR v2); the blur reflects at the border where the authors' code pads
    with zeros.
    """
    if jitter is not None and strength != 1.0:
        raise wrong(
            "simclr",
            given=f"strength={strength} and jitter={jitter}",
            expected="one of the two",
            mend="scale the jitter yourself",
        )
    if jitter is None:
        jitter = (0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)
    ops: list[Augmentation] = [RandomResizedCrop(size, scale=scale, interpolation=interpolation)]
    if flip:
        ops.append(HorizontalFlip(flip))
    if jitter_p and not crop_only:
        ops.append(ColorJitter(*jitter, p=jitter_p))
    if grayscale and not crop_only:
        ops.append(Grayscale(grayscale))
    if blur and not crop_only:
        ops.append(GaussianBlur(p=blur))
    view = Compose(*ops)
    return MultiCrop((view, view))


def supervised(
    size: int | Sequence[int],
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    flip: float = 0.5,
    interpolation: Interpolation = "bicubic",
) -> Compose:
    """One view: crop and flip, as a linear probe or a supervised baseline trains with.

    Args:
        size: of the result; an int is a square.
        scale: range of the crop's area.
        flip: probability.
        interpolation: of the crop.

    Raises:
        ValueError: an option is out of range (of the part that takes it).
    """
    return Compose(RandomResizedCrop(size, scale=scale, interpolation=interpolation), HorizontalFlip(flip))
