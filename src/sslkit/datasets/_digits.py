"""scikit-learn's handwritten digits: small, real, and filling the picture."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F

from sslkit._checks import need_positive, wrong
from sslkit.datasets._loaded import LoadedImages

_TRAIN = 1297  # of 1797


def digits(split: Literal["train", "test"] = "train", size: int = 16, channels: Literal[1, 3] = 1) -> LoadedImages:
    """1797 digits of 8x8 pixels and 17 levels, enlarged: the first 1297 of a fixed permutation for training, the last 500 for the
    test.

    Args:
        split: "train" or "test".
        size: side in pixels; bicubic, clamped to [0, 1]. 8 leaves the pictures as they are.
        channels: 3 repeats the grey channel.

    Returns:
        images [n, channels, size, size] float32 in [0, 1], 1 = ink; labels the digit. Do not mirror them: a mirrored digit is
        another sign.

    Raises:
        ValueError: an option is out of its range; ImportError: scikit-learn, whose wheel carries the data, is missing.

    Source: Alpaydin and Kaynak 1998, "Optical recognition of handwritten digits" (UCI); the copy in scikit-learn is its test
    part.
    """
    need_positive("digits", size=size)
    if split not in get_args(Literal["train", "test"]):
        raise wrong("digits", given=f"split={split!r}", expected="'train' or 'test'", mend="pass one of these")
    if channels not in (1, 3):
        raise wrong("digits", given=f"channels={channels}", expected="1 or 3", mend="pass one of these")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise wrong("digits", given="no scikit-learn", expected="the package, which carries the data",
                    mend='pip install "sslkit[examples]"', kind=ImportError) from error  # fmt: skip
    data = load_digits()
    images = torch.as_tensor(data.images, dtype=torch.float32)[:, None] / 16
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    rows = order[:_TRAIN] if split == "train" else order[_TRAIN:]
    images = images[rows]
    if size != images.shape[-1]:
        images = F.interpolate(images, size=(size, size), mode="bicubic", align_corners=False).clamp(0, 1)
    return LoadedImages(
        images.repeat(1, channels, 1, 1),
        torch.as_tensor(data.target, dtype=torch.int64)[rows],
        classes=tuple("0123456789"),
    )
