"""What the kernels that read images ask of them: axes, dtype, one number a channel."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sslkit._checks import wrong

AXES = {4: "batch channels height width", 5: "batch channels time height width"}


def axes_of(images: Tensor) -> str:
    """The names of the axes of images or clips; those of images for whatever is neither, so that `bind_axes` tells what was expected."""
    return AXES.get(getattr(images, "ndim", 4), AXES[4])


def need_images(where: str, images: Tensor) -> None:
    """Raises a TypeError unless images are uint8 or floating."""
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise wrong(where, given=f"images of dtype {images.dtype}", expected="uint8 or a floating dtype",
                    mend="pass the levels as uint8, or images.float()", kind=TypeError)  # fmt: skip


def need_channel_numbers(where: str, name: str, numbers: Sequence[float] | None, channels: int) -> None:
    """Raises a TypeError unless `numbers` is None or a sequence that is no tensor, a ValueError unless it holds one number a channel."""
    if numbers is None:
        return
    if not isinstance(numbers, Sequence):
        raise wrong(where, given=f"{name} of type {type(numbers).__name__}", expected="a tuple of numbers, one a channel",
                    mend=f"pass tuple({name}), read once: numbers on a GPU would have to be waited for", kind=TypeError)  # fmt: skip
    if len(numbers) != channels:
        raise wrong(where, given=f"{name} of {len(numbers)} numbers", expected=f"{channels}, one a channel",
                    mend=f"pass {name} for the channels of these images")  # fmt: skip
