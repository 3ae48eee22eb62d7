"""Pixels, standardised token by token (MAE)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sslkit._checks import wrong
from sslkit.patches import Order, patchify


def normalized_pixels(images: Tensor, patch: int, *, tubelet: int = 1, frame_stride: int = 1, order: Order = "pqc",
                      mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Tensor:  # fmt: skip
    """The values of every token, less their mean, over their standard deviation.

        v = patchify(images)[b, n]                           F values
        target = (v - mean(v)) / sqrt(var(v) + 1e-6)         var over F - 1

    Args:
        images: [batch, channels, height, width], or clips [batch, channels, time, height, width]. Floating ones are taken as they are,
            uint8 is divided by 255.
        patch: side of a token in pixels.
        tubelet: frames per token.
        frame_stride: for clips, only frames 0, s, 2s, ... are used.
        order: of the values in a token, see `sslkit.patches.patchify`.
        mean: per channel, subtracted first; the 1e-6 is in the units that result.
        std: per channel, divided by after `mean`.

    Returns:
        [batch, tokens, F], float32 or wider, no gradient. A constant token, and one of a single value, is 0.

    Raises:
        ValueError: a size is no multiple of patch or tubelet, or mean and std do not have one number a channel.

    Source: He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", sec. 3, "Reconstruction target".
    """
    wide = torch.promote_types(images.dtype, torch.float32) if images.is_floating_point() else torch.float32
    values = images.detach().to(wide)
    if images.dtype == torch.uint8:
        values = values / 255
    for name, numbers in (("mean", mean), ("std", std)):
        if numbers is None:
            continue
        if len(numbers) != images.shape[1]:
            raise wrong("normalized_pixels", given=f"{name} of {len(numbers)} numbers", expected=f"{images.shape[1]}, one a channel",
                        mend=f"pass {name} for the channels of these images")  # fmt: skip
        shaped = torch.tensor(numbers, dtype=wide, device=images.device).view(-1, *[1] * (images.ndim - 2))
        values = values - shaped if name == "mean" else values / shaped
    tokens = patchify(values, patch, tubelet=tubelet, frame_stride=frame_stride, order=order)
    centred = tokens - tokens.mean(dim=-1, keepdim=True)
    variance = centred.square().sum(dim=-1, keepdim=True) / max(tokens.shape[-1] - 1, 1)
    return centred * (variance + 1e-6).rsqrt()
