"""The augmentations of the papers, by method."""

from collections.abc import Sequence

from sslkit._checks import wrong
from sslkit.augmentations._base import Augmentation
from sslkit.augmentations.blur import GaussianBlur
from sslkit.augmentations.color_jitter import ColorJitter
from sslkit.augmentations.compose import Compose
from sslkit.augmentations.crop import Interpolation, RandomResizedCrop
from sslkit.augmentations.flip import HorizontalFlip
from sslkit.augmentations.grayscale import Grayscale
from sslkit.augmentations.leave_one_out import LeaveOneOut
from sslkit.augmentations.multi_crop import MultiCrop
from sslkit.augmentations.paired import PairedCrop
from sslkit.augmentations.quarter_turn import QuarterTurn
from sslkit.augmentations.solarize import Solarize
from sslkit.augmentations.texture import RandomTexture


def _view(*ops: Augmentation) -> Compose:
    """These in their order, without those of probability 0."""
    return Compose(*(op for op in ops if getattr(op, "p", 1.0)))


def _local(where: str, size: int | Sequence[int], local_size: int | Sequence[int] | None, local_views: int) -> int | Sequence[int]:
    """The size of the local views: 3/7 of that of the global ones, if none is given."""
    if local_views < 0 or local_views != int(local_views):
        raise wrong(where, given=f"local_views={local_views}", expected="a whole number from 0 on", mend="pass 0 for none")
    if local_size is not None:
        return local_size
    return max(1, round(3 * size / 7)) if isinstance(size, int) else tuple(max(1, round(3 * side / 7)) for side in size)


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
        raise wrong("simclr", given=f"strength={strength} and jitter={jitter}", expected="one of the two", mend="scale the jitter yourself")
    jitter = jitter or (0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)
    colours = () if crop_only else (ColorJitter(*jitter, p=jitter_p), Grayscale(grayscale), GaussianBlur(p=blur))
    view = _view(RandomResizedCrop(size, scale=scale, interpolation=interpolation), HorizontalFlip(flip), *colours)
    return MultiCrop((view, view))


def moco_v2(
    size: int | Sequence[int],
    *,
    scale: tuple[float, float] = (0.2, 1.0),
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1),
    jitter_p: float = 0.8,
    grayscale: float = 0.2,
    blur: float = 0.5,
    flip: float = 0.5,
    interpolation: Interpolation = "bilinear",
    crop_only: bool = False,
) -> MultiCrop:
    """Two views alike: crop, jitter, grey, blur, flip. SimSiam's, too.

    Args:
        size: of the views; an int is a square.
        scale: range of the crop's area.
        jitter: brightness, contrast, saturation, hue.
        jitter_p: its probability; 0 leaves it out.
        grayscale: probability; 0 leaves it out.
        blur: probability; 0 leaves it out. Below 20 pixels its kernel has one tap and does nothing.
        flip: probability; 0 leaves it out.
        interpolation: of the crop.
        crop_only: crop and flip alone.

    Raises:
        ValueError: an option is out of range (of the part that takes it).

    Source: Chen et al. 2020, "Improved Baselines with Momentum Contrastive Learning", and the authors' code, whose order this is. Version 1
    has jitter=(0.4, 0.4, 0.4, 0.4), jitter_p=1, blur=0, and its grey before the jitter.
    """
    colours = () if crop_only else (ColorJitter(*jitter, p=jitter_p), Grayscale(grayscale), GaussianBlur(p=blur))
    view = _view(RandomResizedCrop(size, scale=scale, interpolation=interpolation), *colours, HorizontalFlip(flip))
    return MultiCrop((view, view))


def nnclr(
    size: int | Sequence[int],
    local_size: int | Sequence[int] | None = None,
    local_views: int = 0,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    local_scale: tuple[float, float] = (0.05, 0.14),
    jitter: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2),
    jitter_p: float = 0.8,
    grayscale: float = 0.2,
    blur: float = 0.5,
    flip: float = 0.5,
    interpolation: Interpolation = "bicubic",
    crop_only: bool = False,
) -> MultiCrop:
    """Two views alike, as SimCLR's: crop, flip, jitter, grey, blur; after them, of small parts, as many local ones as are asked for.

    Args:
        size: of the two views; an int is a square.
        local_size: of the local ones. None: 3/7 of `size`, 96 for 224.
        local_views: how many; 6 in the paper's multi-crop, 0 in all else.
        scale: range of the crop's area.
        local_scale: of the local crops'.
        jitter: brightness, contrast, saturation, hue.
        jitter_p: its probability; 0 leaves it out.
        grayscale: probability; 0 leaves it out.
        blur: probability; 0 leaves it out. Below 20 pixels its kernel has one tap and does nothing.
        flip: probability; 0 leaves it out.
        interpolation: of the crops.
        crop_only: crop and flip alone, the paper's table 5.

    Raises:
        ValueError: an option is out of range (of the part that takes it), or local_views below 0.

    Source: Dwibedi et al. 2021 (NNCLR), sec. 4.1, which takes SimCLR's views; the area of the local ones is SwAV's. No code of the authors
    is public; solo-learn trains it with BYOL's two unlike views.
    """

    def view(side: int | Sequence[int], area: tuple[float, float]) -> Augmentation:
        return simclr(side, scale=area, jitter=jitter, jitter_p=jitter_p, grayscale=grayscale, blur=blur, flip=flip,
                      interpolation=interpolation, crop_only=crop_only).views[0]  # fmt: skip

    side = _local("nnclr", size, local_size, local_views)
    return MultiCrop((*[view(size, scale)] * 2, *[view(side, local_scale)] * local_views))


def looc(
    size: int | Sequence[int],
    augmentations: Sequence[str] = ("color", "rotation"),
    *,
    texture: RandomTexture | None = None,
    turns: Sequence[int] = (1, 2, 3),
    scale: tuple[float, float] = (0.2, 1.0),
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1),
    jitter_p: float = 0.8,
    grayscale: float = 0.2,
    blur: float = 0.5,
    flip: float = 0.5,
    interpolation: Interpolation = "bilinear",
) -> LeaveOneOut:
    """A query, a key of its own draws, and a key for each augmentation with a space: turn, crop, flip, texture, jitter, grey, blur.

    Views turn, or change their texture, if that has a space; all have the others of MoCo v2, jitter and grey with or without a space. The
    controls are made of it: `LeaveOneOut(looc(32, ("rotation",)).ops)` is MoCo + Rotation, `replace(looc(32, ("rotation",)),
    all_shared=True)`, of dataclasses, the same turn for query and key; looc(32, ()) are MoCo's two views.

    Args:
        size: of the views; an int is a square.
        augmentations: with a space of their own, in the order of the heads: of "color" (jitter with grey), "rotation", "texture".
        texture: what "texture" is.
        turns: quarters that "rotation" draws from, if it is named; 0 is none of the paper's.
        scale: range of the crop's area.
        jitter: brightness, contrast, saturation, hue.
        jitter_p: its probability.
        grayscale: probability.
        blur: probability; 0 leaves it out. Below 20 pixels its kernel has one tap and does nothing.
        flip: probability.
        interpolation: of the crop.

    Raises:
        ValueError: an option is out of range (of the part that takes it), an unknown augmentation or one named twice, or `texture` without
            "texture" among them, or the other way round.

    Source: Xiao et al. 2021, "What Should Not Be Contrastive in Contrastive Learning", sec. 3 and 4, on the views of MoCo v2. The authors'
    code is not public; the order, a turn in front of all, is that of others who built it.
    """
    names = tuple(augmentations)
    if not set(names) <= {"color", "rotation", "texture"} or len(set(names)) < len(names):
        raise wrong("looc", given=f"augmentations={augmentations!r}", expected='some of "color", "rotation", "texture", each once',
                    mend='pass ("color", "rotation")')  # fmt: skip
    if ("texture" in names) != (texture is not None):
        raise wrong("looc", given=f"augmentations={augmentations!r} with texture={texture}", expected='both "texture" and what it is',
                    mend="pass texture=RandomTexture(...) where it has a space, and None elsewhere")  # fmt: skip
    stages: dict[str, list[Augmentation]] = {
        "rotation": [QuarterTurn(turns)] if "rotation" in names else [],
        "crop": [RandomResizedCrop(size, scale=scale, interpolation=interpolation), HorizontalFlip(flip)],
        "texture": [texture] if texture else [],
        "color": [ColorJitter(*jitter, p=jitter_p), Grayscale(grayscale)],
        "blur": [GaussianBlur(p=blur)] if blur else [],
    }
    ops = [op for stage in stages.values() for op in stage]
    return LeaveOneOut(ops, [[ops.index(op) for op in stages[name]] for name in names])


def beit(
    size: int | Sequence[int],
    token_size: int | Sequence[int] | None = None,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    jitter: float = 0.4,
    flip: float = 0.5,
    interpolation: Interpolation = "bicubic",
    token_interpolation: Interpolation = "lanczos",
) -> PairedCrop:
    """Two views of one box, flip and colours: for the model, and for the dVAE that turns it into visual words.

    Args:
        size: of the model's view; an int is a square.
        token_size: of the dVAE's, 8 pixels a token: 8 * size / patch. None: half of `size`, for patches of 16.
        scale: range of the crop's area.
        jitter: of brightness, contrast and saturation, always applied; 0 leaves it out.
        flip: probability.
        interpolation: of the model's view.
        token_interpolation: of the dVAE's.

    Raises:
        ValueError: an option is out of range (of the part that takes it).

    Source: Bao et al. 2022, "BEiT: BERT Pre-Training of Image Transformers", sec. 3.1, and the authors' code: jitter, flip, crop, in this
    order. Their model's view then is scaled to [-1, 1]; the dVAE takes [0, 1].
    """
    if token_size is None:
        token_size = size // 2 if isinstance(size, int) else tuple(side // 2 for side in size)
    before = Compose(*([ColorJitter(jitter, jitter, jitter)] if jitter else []), HorizontalFlip(flip))
    views = (size, interpolation), (token_size, token_interpolation)
    return PairedCrop(before, tuple(RandomResizedCrop(side, scale=scale, interpolation=kernel) for side, kernel in views))


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


def dino(
    size: int | Sequence[int],
    local_size: int | Sequence[int] | None = None,
    local_views: int = 8,
    *,
    scale: tuple[float, float] = (0.4, 1.0),
    local_scale: tuple[float, float] = (0.05, 0.4),
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1),
    jitter_p: float = 0.8,
    grayscale: float = 0.2,
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5),
    solarize: float = 0.2,
    flip: float = 0.5,
    interpolation: Interpolation = "bicubic",
    pillow: bool = False,
) -> MultiCrop:
    """Two global views, one always blurred and one sometimes solarised, and local ones of small parts.

    Args:
        size: of the global views; an int is a square.
        local_size: of the local ones. None: 3/7 of `size`, 96 for 224.
        local_views: how many; 0 leaves them out, and the paper then takes scale=(0.14, 1).
        scale: range of the global crops' area.
        local_scale: of the local ones'.
        jitter: brightness, contrast, saturation, hue.
        jitter_p: its probability; 0 leaves it out.
        grayscale: probability; 0 leaves it out.
        blur: probabilities for the first global view, the second, and the local ones. DINOv2's code turns them round by mistake: its
            released weights were trained with (0, 0.9, 0.5).
        solarize: probability, of the second global view.
        flip: probability; 0 leaves it out.
        interpolation: of the crops.
        pillow: crops and blur as by the authors' code on PIL pictures: large uint8 images on a CPU are resized in integers, several times
            as fast (`RandomResizedCrop(rounded=True)`), and boxes blur (`GaussianBlur(pillow=True)`).

    Raises:
        ValueError: an option is out of range (of the part that takes it), or local_views below 0.

    Source: Caron et al. 2021 (DINO), sec. 3.1 and appendix E, and the authors' code.
    """
    local_size = _local("dino", size, local_size, local_views)

    def view(side: int | Sequence[int], area: tuple[float, float], blurred: float, solarized: float) -> Compose:
        crop = RandomResizedCrop(side, scale=area, interpolation=interpolation, rounded=pillow)
        colours = ColorJitter(*jitter, p=jitter_p), Grayscale(grayscale), GaussianBlur(p=blurred, pillow=pillow), Solarize(p=solarized)
        return _view(crop, HorizontalFlip(flip), *colours)

    first, second = view(size, scale, blur[0], 0.0), view(size, scale, blur[1], solarize)
    return MultiCrop((first, second, *[view(local_size, local_scale, blur[2], 0.0)] * local_views))
