"""Pixels, standardised token by token (MAE), and back."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sslkit._checks import wrong
from sslkit.kernels import gather_patches
from sslkit.patches import Order, patchify


def normalized_pixels(images: Tensor, patch: int, *, tubelet: int = 1, frame_stride: int = 1, order: Order = "pqc",
                      mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
                      ids: Tensor | None = None) -> Tensor:  # fmt: skip
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
        ids: [batch, kept], int64 or int32: only these tokens, `mask.ids_hidden` say; nothing else is read. The same values to rounding.

    Returns:
        [batch, tokens or kept, F], float32 or wider, no gradient. A constant token, and one of a single value, is 0.

    Raises:
        ValueError: a size is no multiple of patch or tubelet, or mean and std do not have one number a channel.
        IndexError: an id is outside the grid, as in `kernels.gather_patches`.

    Source: He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", sec. 3, "Reconstruction target".
    """
    tokens, mean_of, variance = _moments("normalized_pixels", images, patch, tubelet, frame_stride, order, mean, std, ids)
    return (tokens - mean_of) * (variance + 1e-6).rsqrt()


def unnormalized_pixels(prediction: Tensor, images: Tensor, patch: int, *, tubelet: int = 1, frame_stride: int = 1, order: Order = "pqc",
                        mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Tensor:  # fmt: skip
    """A prediction of `normalized_pixels`, brought back to the level and contrast of the tokens of `images`, to be looked at.

        values = prediction * sqrt(var(v) + 1e-6) + mean(v)         then times std, plus mean

    A model of normalised pixels does not predict level and contrast: they are taken from the originals, as in the pictures of the paper.

    Args:
        prediction: [batch, tokens, F], floating, F as `normalized_pixels` gives for `images`.
        images: the originals; they and all that follows as in `normalized_pixels`.
        patch: side of a token in pixels.
        tubelet: frames per token.
        frame_stride: for clips, only frames 0, s, 2s, ... are used.
        order: of the values in a token.
        mean: per channel; added at the end.
        std: per channel; multiplied by before that.

    Returns:
        [batch, tokens, F], float32 or wider, in the units of the images ([0, 1] for uint8): `unpatchify` makes pictures of it.

    Raises:
        ValueError: the prediction is not of the shape that `normalized_pixels` gives, or as there.

    Source: He et al. 2022, fig. 2 to 4.
    """
    tokens, mean_of, variance = _moments("unnormalized_pixels", images, patch, tubelet, frame_stride, order, mean, std)
    if prediction.shape != tokens.shape:
        raise wrong("unnormalized_pixels", given=f"prediction {list(prediction.shape)}",
                    expected=f"{list(tokens.shape)}, as the images give", mend="pass images and patch of the prediction")  # fmt: skip
    values = prediction.detach().to(tokens.dtype) * (variance + 1e-6).sqrt() + mean_of
    repeat = patch**2 * tubelet
    for name, numbers in (("std", std), ("mean", mean)):
        if numbers is not None:
            row = torch.tensor(numbers, dtype=values.dtype, device=values.device)
            row = row.repeat(repeat) if order == "pqc" else row.repeat_interleave(repeat)  # [F]: one number a channel, in its places
            values = values * row if name == "std" else values + row
    return values


def _moments(where: str, images: Tensor, patch: int, tubelet: int, frame_stride: int, order: Order, mean: Sequence[float] | None,
             std: Sequence[float] | None, ids: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The values of every token, or of those in `ids`, [batch, tokens, F], and their mean and unbiased variance [batch, tokens, 1]."""
    wide = torch.promote_types(images.dtype, torch.float32) if images.is_floating_point() else torch.float32
    for name, numbers in (("mean", mean), ("std", std)):
        if numbers is not None and len(numbers) != images.shape[1]:
            raise wrong(where, given=f"{name} of {len(numbers)} numbers", expected=f"{images.shape[1]}, one a channel",
                        mend=f"pass {name} for the channels of these images")  # fmt: skip
    if ids is not None:
        tokens = gather_patches(images.detach(), ids, patch, tubelet=tubelet, frame_stride=frame_stride, order=order, mean=mean, std=std,
                                out_dtype=wide)  # fmt: skip
    else:
        values = images.detach().to(wide)
        if images.dtype == torch.uint8:
            values = values / 255
        if mean is not None:
            values = values - _by_channel(mean, values)
        if std is not None:
            values = values / _by_channel(std, values)
        tokens = patchify(values, patch, tubelet=tubelet, frame_stride=frame_stride, order=order)
    mean_of = tokens.mean(dim=-1, keepdim=True)
    variance = (tokens - mean_of).square().sum(dim=-1, keepdim=True) / max(tokens.shape[-1] - 1, 1)
    return tokens, mean_of, variance


def _by_channel(numbers: Sequence[float], values: Tensor) -> Tensor:
    """[channels, 1, ...], to meet values [batch, channels, ...]."""
    return torch.tensor(numbers, dtype=values.dtype, device=values.device).view(-1, *[1] * (values.ndim - 2))
