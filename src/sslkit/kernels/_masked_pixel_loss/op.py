"""The loss on hidden pixels: the public function, its registration and its gradient."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from sslkit._checks import bind_axes, need_floating, need_positive, wrong
from sslkit.kernels import _choose, _launch
from sslkit.kernels._images import axes_of, need_channel_numbers, need_images
from sslkit.kernels._masked_pixel_loss import reference
from sslkit.kernels._rows import need_ids, wide
from sslkit.patches import Order, grid_of

Loss = Literal["mse", "l1"]
Numbers = list[float] | None
CHANNELS, PIXELS = 8, 4096  # of a token, the most that the fused version keeps in registers


def masked_pixel_loss(prediction: Tensor, images: Tensor, ids: Tensor, patch: int, *, tubelet: int = 1, frame_stride: int = 1,
                      mean: Sequence[float] | None = None, std: Sequence[float] | None = None, normalize: bool = True, loss: Loss = "mse",
                      order: Order = "pqc", backend: _choose.Backend = "auto") -> Tensor:  # fmt: skip
    """The error of every predicted token against its pixels, which are standardised token by token (MAE).

        v[b, k]       = token ids[b, k] of the images, F values
        target[b, k]  = (v - mean(v)) / sqrt(var(v) + 1e-6)              var over F - 1; v itself without `normalize`
        out[b, k]     = 1/F * sum over f of (prediction - target)**2     "l1": |prediction - target|

    `out.mean()` is MAE's loss: `masked_mse` of `normalized_pixels`, but no target is formed of tokens that are visible, and none is kept
    for the backward pass, which forms it again.

    Args:
        prediction: [batch, kept, F], floating, of the tokens that `ids` names; any strides. F = channels * tubelet * patch**2.
        images: [batch, channels, height, width], or clips [batch, channels, time, height, width], any strides. Floating ones are taken as
            they are, uint8 is divided by 255.
        ids: [batch, kept], int64 or int32, in any order: numbers of tokens, row-major over the grid (h, w) or (t, h, w).
        patch: side of a token in pixels.
        tubelet: frames per token.
        frame_stride: for clips, only frames 0, s, 2s, ... are used.
        mean: per channel, subtracted first; the 1e-6 is in the units that result.
        std: per channel, divided by after `mean`.
        normalize: whether tokens are standardised.
        loss: "mse" or "l1".
        order: of the values in a token, see `sslkit.patches.patchify`. One is as fast as the other.
        backend: "auto", "reference" or "fused"; see `explain`. Tokens of more than 8 channels or 4096 pixels take the reference.

    Returns:
        [batch, kept], float32, or float64 if the prediction is; in and out of autocast, and the same in every run. Differentiable once, in
        the prediction; no gradient flows into the images. Nothing hidden, [batch, 0], has no mean: guard that where it can happen.

    Raises:
        ValueError: the axes disagree, a size is no multiple of patch or tubelet, mean or std are not one number a channel, or an explicit
            backend cannot run.
        TypeError: the prediction is not floating, images neither uint8 nor floating, or ids not int64 or int32.
        IndexError: an id is outside the grid, on a CPU (on a GPU: NaN, or a device-side assertion of the reference).
        RuntimeError: a second derivative is asked for.

    Source: He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", sec. 3, "Reconstruction target".
    """
    _check(prediction, images, ids, patch, tubelet, frame_stride, mean, std, loss, order)
    scale, bias, eps = units(images, mean, std, normalize)
    backend = _choose.requested("masked_pixel_loss", backend)
    return torch.ops.sslkit.masked_pixel_loss(  # type: ignore[no-any-return]
        prediction, images.detach(), ids, patch, tubelet, frame_stride, scale, bias, eps, loss, order, backend
    )


def units(images: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None,
          normalize: bool) -> tuple[Numbers, Numbers, float | None]:  # fmt: skip
    """(scale, bias, eps) of `reference`; scale and bias are None where they would be 1 and 0.

    Levels that are to be standardised stay levels: whole numbers have exact sums, and 255 cancels if eps is in levels as well.
    """
    top = 255.0 if images.dtype == torch.uint8 else 1.0
    unit = 1.0 if normalize else top
    eps = 1e-6 * top**2 if normalize else None
    if mean is None and std is None and unit == 1:
        return None, None, eps
    middle = [0.0] * images.shape[1] if mean is None else mean
    spread = [1.0] * images.shape[1] if std is None else std
    return [1 / (s * unit) for s in spread], [-m * top / (s * unit) for m, s in zip(middle, spread, strict=True)], eps


def _check(prediction: Tensor, images: Tensor, ids: Tensor, patch: int, tubelet: int, frame_stride: int, mean: Sequence[float] | None,
           std: Sequence[float] | None, loss: str, order: str) -> None:  # fmt: skip
    where = "masked_pixel_loss"
    sizes = bind_axes(where, prediction=(prediction, "batch kept values"), images=(images, axes_of(images)), ids=(ids, "batch kept"))
    need_floating(where, prediction=prediction)
    need_ids(where, "ids", ids)
    need_images(where, images)
    for name, value, known in (("loss", loss, get_args(Loss)), ("order", order, get_args(Order))):
        if value not in known:
            raise wrong(where, given=f"{name}={value!r}", expected=" or ".join(map(repr, known)), mend=f"leave it at {known[0]!r}")
    grid_of(tuple(images.shape[2:]), patch, tubelet=tubelet, frame_stride=frame_stride)
    channels = sizes["channels"]
    if not channels or sizes["values"] != channels * tubelet * patch**2:
        raise wrong(where, given=f"prediction {list(prediction.shape)} for images {list(images.shape)}, patch={patch}, tubelet={tubelet}",
                    expected=f"{channels * tubelet * patch**2} values a token, and at least one channel",
                    mend="predict the values of whole tokens: channels * tubelet * patch**2")  # fmt: skip
    need_channel_numbers(where, "mean", mean, channels)
    need_channel_numbers(where, "std", std, channels)
    for number in std or ():
        need_positive(where, std=number)


def _version(prediction: Tensor, images: Tensor, ids: Tensor, patch: int, tubelet: int, backend: _choose.Backend) -> ModuleType:
    channels, pixels = images.shape[1], tubelet * patch**2
    limit = _launch.beyond(ids.numel())
    if images.dtype not in (torch.uint8, *_launch.DTYPES):
        limit = f"images of {images.dtype}"
    elif channels > CHANNELS or pixels > PIXELS:
        limit = f"tokens of {channels} channels and {pixels} pixels"
    elif sum((size - 1) * step for size, step in zip(images.shape[1:], images.stride()[1:], strict=True)) >= _launch.LIMIT:
        limit = f"samples {list(images.shape[1:])} with strides {list(images.stride()[1:])}"
    if _choose.choose("masked_pixel_loss", prediction, backend, limit).version == "fused":
        from sslkit.kernels._masked_pixel_loss import fused

        return fused
    return reference


CUT = "Tensor images, Tensor ids, int patch, int tubelet, int frame_stride, float[]? scale, float[]? bias, float? eps, str loss, str order"


@torch.library.custom_op("sslkit::masked_pixel_loss", mutates_args=(), schema=f"(Tensor prediction, {CUT}, str backend) -> Tensor")
def _forward(prediction: Tensor, images: Tensor, ids: Tensor, patch: int, tubelet: int, frame_stride: int, scale: Numbers, bias: Numbers,
             eps: float | None, loss: Loss, order: Order, backend: _choose.Backend) -> Tensor:  # fmt: skip
    version = _version(prediction, images, ids, patch, tubelet, backend)
    out: Tensor = version.forward(prediction, images, ids, patch, tubelet, frame_stride, scale, bias, eps, loss, order)
    return out


@_forward.register_fake
def _(prediction: Tensor, images: Tensor, ids: Tensor, patch: int, tubelet: int, frame_stride: int, scale: Numbers, bias: Numbers,
      eps: float | None, loss: str, order: str, backend: str) -> Tensor:  # fmt: skip
    return prediction.new_empty(ids.shape, dtype=wide(prediction.dtype))


@torch.library.custom_op(
    "sslkit::masked_pixel_loss_backward", mutates_args=(), schema=f"(Tensor grad, Tensor prediction, {CUT}, str backend) -> Tensor"
)
def _backward(grad: Tensor, prediction: Tensor, images: Tensor, ids: Tensor, patch: int, tubelet: int, frame_stride: int, scale: Numbers,
              bias: Numbers, eps: float | None, loss: Loss, order: Order, backend: _choose.Backend) -> Tensor:  # fmt: skip
    version = _version(prediction, images, ids, patch, tubelet, backend)
    out: Tensor = version.backward(grad, prediction, images, ids, patch, tubelet, frame_stride, scale, bias, eps, loss, order)
    return out


@_backward.register_fake
def _(grad: Tensor, prediction: Tensor, images: Tensor, ids: Tensor, patch: int, tubelet: int, frame_stride: int, scale: Numbers,
      bias: Numbers, eps: float | None, loss: str, order: str, backend: str) -> Tensor:  # fmt: skip
    return prediction.new_empty(prediction.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    prediction, images, ids, *ctx.how = inputs
    ctx.save_for_backward(prediction, images, ids)


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    to_prediction = None
    if ctx.needs_input_grad[0]:
        to_prediction = torch.ops.sslkit.masked_pixel_loss_backward(grad, *ctx.saved_tensors, *ctx.how)
    return to_prediction, *[None] * 11


def _refused(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    raise wrong("masked_pixel_loss", given="a second derivative", expected="one, of the prediction",
                mend="use losses.masked_mse on targets.normalized_pixels", kind=RuntimeError)  # fmt: skip


_forward.register_autograd(_gradient, setup_context=_save)
_backward.register_autograd(_refused)
