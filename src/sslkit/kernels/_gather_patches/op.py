"""Cutting tokens out of images: the public function, its registration and its gradient."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, get_args

import torch
from torch import Tensor

from sslkit._checks import bind_axes, wrong
from sslkit.kernels import _choose, _launch
from sslkit.kernels._gather_patches import cpu, reference
from sslkit.kernels._images import axes_of, need_channel_numbers, need_images
from sslkit.kernels._rows import need_ids
from sslkit.patches import Order, grid_of

PLANES = 64  # channels * tubelet of the fused version, whose loop over them is unrolled
Numbers = list[float] | None


def gather_patches(images: Tensor, ids: Tensor, patch: int, *, tubelet: int = 1, frame_stride: int = 1, mean: Sequence[float] | None = None,
                   std: Sequence[float] | None = None, order: Order = "cpq", out_dtype: torch.dtype | None = None,
                   backend: _choose.Backend = "auto") -> Tensor:  # fmt: skip
    """The pixels of some tokens, normalised: `patchify` of the images at `ids`, where nothing else is read or written.

        out[b, k, (c, u, p, q)] = scale[c] * images[b, c, t * tubelet + u, h * patch + p, w * patch + q] + bias[c]
        (t, h, w) = place of ids[b, k] in the grid        bias = -mean / std        scale = 1 / (255 std) for uint8, else 1 / std

    In the order "cpq", `functional.linear(out, conv.weight.flatten(1), conv.bias)` is the patch embedding of a convolution.

    Args:
        images: [batch, channels, height, width], or clips [batch, channels, time, height, width]; uint8 or floating, any strides.
        ids: [batch, kept], int64 or int32, in any order: numbers of tokens, row-major over the grid (h, w) or (t, h, w).
        patch: side of a token in pixels.
        tubelet: frames per token.
        frame_stride: for clips, only frames 0, s, 2s, ... are used.
        mean: one number a channel, in the units of floating images, of the levels / 255 for uint8. None: 0.
        std: likewise. None: 1.
        order: of a token's values: "cpq" (channel, frame, row, column; a convolution's weight) or "pqc" (frame, row, column, channel; MAE).
        out_dtype: default: float32 for uint8, the images' otherwise. Computed in float32 or wider, rounded once.
        backend: "auto", "reference" or "fused"; see `explain`. Images that require grad take the reference.

    Returns:
        [batch, kept, channels * tubelet * patch**2], contiguous, sharing no memory with the images. Without mean and std, floating values
        are copied as they are. Differentiable twice in the images; of a token named twice, the gradient is the sum.

    Raises:
        ValueError: wrong axes, a size that is no multiple of patch or tubelet (as `grid_of`), mean or std of other than one number a
            channel or a std of 0, an unknown order, or an explicit backend cannot run.
        TypeError: images neither uint8 nor floating, ids not int64 or int32, an `out_dtype` that is not floating, mean or std a tensor.
        IndexError: an id is outside the grid, on a CPU (on a GPU: a row of NaN, or a device-side assertion of the reference).

    Source: Dosovitskiy et al. 2021 (ViT), eq. 1; Arnab et al. 2021 (ViViT), sec. 3.2, for tubelets; He et al. 2022 (MAE), sec. 3, for ids.
    """
    scale, bias = _check(images, ids, patch, tubelet, frame_stride, mean, std, order, out_dtype)
    chosen = _choose.requested("gather_patches", backend)
    if images.requires_grad and torch.is_grad_enabled():
        if chosen == "fused":
            raise wrong("gather_patches", given='backend="fused" for images that require grad', expected='"auto" or "reference"',
                        mend="leave backend out, or pass images.detach()")  # fmt: skip
        chosen = chosen if images.device.type == "cpu" else "reference"
    return torch.ops.sslkit.gather_patches(images, ids, patch, tubelet, frame_stride, scale, bias, order, out_dtype, chosen)  # type: ignore[no-any-return]


def _check(images: Tensor, ids: Tensor, patch: int, tubelet: int, frame_stride: int, mean: Sequence[float] | None,
           std: Sequence[float] | None, order: str, out_dtype: torch.dtype | None) -> tuple[Numbers, Numbers]:  # fmt: skip
    """scale and bias of every channel; None for both where nothing is to be computed."""
    bind_axes("gather_patches", images=(images, axes_of(images)), ids=(ids, "batch kept"))
    need_ids("gather_patches", "ids", ids)
    need_images("gather_patches", images)
    if out_dtype is not None and not out_dtype.is_floating_point:
        raise wrong("gather_patches", given=f"out_dtype={out_dtype}", expected="a floating dtype",
                    mend="leave it out, or pass torch.bfloat16", kind=TypeError)  # fmt: skip
    if order not in get_args(Order):
        raise wrong("gather_patches", given=f"order={order!r}", expected=" or ".join(map(repr, get_args(Order))),
                    mend="use cpq for a convolution's weight, pqc for MAE's pixels")  # fmt: skip
    grid_of(tuple(images.shape[2:]), patch, tubelet=tubelet, frame_stride=frame_stride)
    channels = images.shape[1]
    need_channel_numbers("gather_patches", "mean", mean, channels)
    need_channel_numbers("gather_patches", "std", std, channels)
    middle = [0.0] * channels if mean is None else [float(m) for m in mean]
    spread = [1.0] * channels if std is None else [float(s) for s in std]
    if 0 in spread:
        raise wrong("gather_patches", given=f"std={std}", expected="numbers other than 0", mend="pass 1 for a constant channel")
    if mean is None and std is None and images.is_floating_point():
        return None, None
    levels = 255 if images.dtype == torch.uint8 else 1
    return [1 / (levels * s) for s in spread], [-m / s for m, s in zip(middle, spread, strict=True)]


def _result(images: Tensor, out_dtype: torch.dtype | None) -> torch.dtype:
    return out_dtype or (torch.float32 if images.dtype == torch.uint8 else images.dtype)


def _version(images: Tensor, ids: Tensor, tubelet: int, dtype: torch.dtype, backend: _choose.Backend) -> ModuleType:
    planes = images.shape[1] * tubelet
    limit = _launch.beyond(max(ids.numel(), images[:1, :1].numel()), dtype) or (f"{planes} planes a token" if planes > PLANES else None)
    if _choose.choose("gather_patches", images, backend, limit).version == "fused":
        from sslkit.kernels._gather_patches import fused

        return fused
    return _plain(images, backend)


def _plain(x: Tensor, backend: _choose.Backend) -> ModuleType:
    return cpu if x.device.type == "cpu" and backend != "reference" else reference  # by name, the definition itself


@torch.library.custom_op(
    "sslkit::gather_patches",
    mutates_args=(),
    schema="(Tensor images, Tensor ids, int patch, int tubelet, int frame_stride, float[]? scale, float[]? bias, str order, "
    "ScalarType? out_dtype, str backend) -> Tensor",
)
def _forward(images: Tensor, ids: Tensor, patch: int, tubelet: int, frame_stride: int, scale: Numbers, bias: Numbers, order: Order,
             out_dtype: torch.dtype | None, backend: _choose.Backend) -> Tensor:  # fmt: skip
    dtype = _result(images, out_dtype)
    version = _version(images, ids, tubelet, dtype, backend)
    out: Tensor = version.forward(images, ids, patch, tubelet, frame_stride, scale, bias, order, dtype)
    return out


@_forward.register_fake
def _(images: Tensor, ids: Tensor, patch: int, tubelet: int, frame_stride: int, scale: Numbers, bias: Numbers, order: str,
      out_dtype: torch.dtype | None, backend: str) -> Tensor:  # fmt: skip
    return images.new_empty(*ids.shape, images.shape[1] * tubelet * patch**2, dtype=_result(images, out_dtype))


@torch.library.custom_op(
    "sslkit::gather_patches_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor ids, SymInt[] size, int patch, int tubelet, int frame_stride, float[]? scale, str order, "
    "ScalarType dtype, str backend) -> Tensor",
)
def _backward(grad: Tensor, ids: Tensor, size: list[int], patch: int, tubelet: int, frame_stride: int, scale: Numbers, order: Order,
              dtype: torch.dtype, backend: _choose.Backend) -> Tensor:  # fmt: skip
    out: Tensor = _plain(grad, backend).backward(grad, ids, size, patch, tubelet, frame_stride, scale, order, dtype)
    return out


@_backward.register_fake
def _(grad: Tensor, ids: Tensor, size: list[int], patch: int, tubelet: int, frame_stride: int, scale: Numbers, order: str,
      dtype: torch.dtype, backend: str) -> Tensor:  # fmt: skip
    return grad.new_empty(size, dtype=dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    images, ids, *ctx.cut, ctx.scale, _, ctx.order, _, ctx.backend = inputs
    ctx.save_for_backward(ids)
    ctx.size, ctx.dtype = images.shape, images.dtype


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    to_images = None
    if ctx.needs_input_grad[0]:
        (ids,) = ctx.saved_tensors
        to_images = torch.ops.sslkit.gather_patches_backward(grad, ids, ctx.size, *ctx.cut, ctx.scale, ctx.order, ctx.dtype, ctx.backend)
    return to_images, *[None] * 9


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, ids, _, *ctx.cut, ctx.scale, ctx.order, _, ctx.backend = inputs
    ctx.save_for_backward(ids)
    ctx.dtype = grad.dtype


def _gradient_backward(ctx: Any, images: Tensor) -> tuple[Tensor | None, ...]:
    """The backward pass is the transpose of the linear part of the forward pass, so its own gradient is that part."""
    bias = None if ctx.scale is None else [0.0] * len(ctx.scale)
    out = torch.ops.sslkit.gather_patches(images, ctx.saved_tensors[0], *ctx.cut, ctx.scale, bias, ctx.order, ctx.dtype, ctx.backend)
    return out, *[None] * 9


_forward.register_autograd(_gradient, setup_context=_save)
_backward.register_autograd(_gradient_backward, setup_context=_save_backward)
