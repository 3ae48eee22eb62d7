"""The loss on hidden pixels, in plain PyTorch.

v[b, k]       = gather_patches(images, ids)[b, k]                       F values
target[b, k]  = (v - mean(v)) / sqrt(var(v) + eps)                      var over F - 1; v itself where eps is None
loss[b, k]    = 1/F * sum over f of (prediction - target)^2             or |prediction - target|
"""

import torch
from torch import Tensor

from sslkit.kernels._gather_patches import cpu, reference
from sslkit.kernels._rows import wide
from sslkit.patches import Order


def forward(prediction: Tensor, images: Tensor, ids: Tensor, patch: int, tubelet: int, frame_stride: int, scale: list[float] | None,
            bias: list[float] | None, eps: float | None, loss: str, order: Order) -> Tensor:  # fmt: skip
    """[batch, kept], float32 or wider. No more than the named tokens is ever formed."""
    d = difference(prediction, images, ids, patch, tubelet, frame_stride, scale, bias, eps, order)
    return (d.square_() if loss == "mse" else d.abs_()).mean(dim=-1)


def backward(grad: Tensor, prediction: Tensor, images: Tensor, ids: Tensor, patch: int, tubelet: int, frame_stride: int,
             scale: list[float] | None, bias: list[float] | None, eps: float | None, loss: str, order: Order) -> Tensor:  # fmt: skip
    """Gradient of the prediction, in its dtype:  grad * 2/F * (prediction - target),  or  grad * 1/F * sign(prediction - target)."""
    d = difference(prediction, images, ids, patch, tubelet, frame_stride, scale, bias, eps, order)
    slope = d.mul_(2) if loss == "mse" else d.sign_()
    return slope.mul_((grad / d.shape[-1])[..., None]).to(prediction.dtype)


def difference(prediction: Tensor, images: Tensor, ids: Tensor, patch: int, tubelet: int, frame_stride: int, scale: list[float] | None,
               bias: list[float] | None, eps: float | None, order: Order) -> Tensor:  # fmt: skip
    """prediction - target: [batch, kept, F], float32 or wider as the prediction. Computed in the images' dtype if that is wider still."""
    dtype = wide(prediction.dtype)
    compute = dtype if images.dtype == torch.uint8 else torch.promote_types(dtype, images.dtype)
    cut = cpu.forward if images.device.type == "cpu" else reference.forward
    v = cut(images, ids, patch, tubelet, frame_stride, scale, bias, order, compute)
    if eps is not None:
        v -= v.mean(dim=-1, keepdim=True)
        variance = v.square().sum(dim=-1, keepdim=True) / max(v.shape[-1] - 1, 1)
        v *= (variance + eps).rsqrt()
    v = v.to(dtype)
    return torch.sub(prediction, v, out=v)  # contiguous, however the prediction lies in memory
