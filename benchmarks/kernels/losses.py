"""MAE's loss on its hidden patches: 147 of 196 patches of 256 uint8 pictures, bf16 predictions, pixels standardised patch by patch."""

import torch
from torch import Tensor

from benchmarks.kernels.case import Call, Case, backward_of, kept_ids, levels, random, size_of
from sslkit.kernels._masked_pixel_loss import reference
from sslkit.patches import patchify

BF16, I64, F32, U8 = torch.bfloat16, torch.int64, torch.float32, torch.uint8
PATCH, VALUES = 16, 768
EPS = 255**2 * 1e-6  # of levels, 1e-6 of their 255ths


def _inputs(device: torch.device, small: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, side, tokens, hidden = _sizes(small)
    return (random(device, batch, hidden, VALUES), levels(device, batch, 3, side, side), kept_ids(device, batch, tokens, hidden),
            random(device, batch, hidden, dtype=F32, seed=6))  # fmt: skip


def _sizes(small: bool) -> tuple[int, int, int, int]:
    return (2, 64, 16, 12) if small else (256, 224, 196, 147)


def public(prediction: Tensor, images: Tensor, ids: Tensor) -> Tensor:
    """MAE's chain: all patches of the float picture, standardised, then those that count."""
    target = patchify(images.float() / 255, PATCH)
    mean, variance = target.mean(dim=-1, keepdim=True), target.var(dim=-1, keepdim=True)
    target = (target - mean) / (variance + 1e-6) ** 0.5
    target = target.gather(1, ids.unsqueeze(-1).expand(-1, -1, VALUES))
    return ((prediction - target) ** 2).mean(dim=-1)


def forward(device: torch.device, small: bool) -> dict[str, Call]:
    from sslkit.kernels._masked_pixel_loss import fused

    prediction, images, ids, _ = _inputs(device, small)
    options = (images, ids, PATCH, 1, 1, None, None, EPS, "mse", "pqc")
    return {
        "fused": lambda: fused.forward(prediction, *options),
        "reference": lambda: reference.forward(prediction, *options),
        "public": lambda: public(prediction, images, ids),
    }


def backward(device: torch.device, small: bool) -> dict[str, Call]:
    from sslkit.kernels._masked_pixel_loss import fused

    prediction, images, ids, grad = _inputs(device, small)
    options = (images, ids, PATCH, 1, 1, None, None, EPS, "mse", "pqc")
    return {
        "fused": lambda: fused.backward(grad, prediction, *options),
        "reference": lambda: reference.backward(grad, prediction, *options),
        "public": backward_of(lambda x: public(x, images, ids), (prediction,), lambda out: grad),
    }


def forward_bytes(small: bool) -> int:
    batch, _, _, hidden = _sizes(small)
    return size_of(((batch, hidden, VALUES), BF16), ((batch, hidden, VALUES), U8), ((batch, hidden), I64), ((batch, hidden), F32))


def backward_bytes(small: bool) -> int:
    batch, _, _, hidden = _sizes(small)
    return forward_bytes(small) + size_of(((batch, hidden, VALUES), BF16))


SIZE = "256 x 147 of 196 patches of 768, uint8 pictures, bf16 predictions"
CASES = [
    Case("masked_pixel_loss", SIZE, forward, forward_bytes, tolerance=1e-5),
    Case("masked_pixel_loss, backward", SIZE, backward, backward_bytes, backward=True, tolerance=1e-2),
]
