"""MAE's loss on its hidden patches: 147 of 196 patches of 256 uint8 pictures, bf16 predictions, pixels standardised patch by patch.
DINO's cross-entropy: 10 views of 64 pictures, 65536 classes, bf16 logits; the float32 targets are sums over a teacher's two views.
"""

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.kernels.case import Call, Case, backward_of, kept_ids, levels, random, size_of
from sslkit.kernels._masked_pixel_loss import reference
from sslkit.kernels._soft_cross_entropy import reference as cross_entropy
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


VIEWS, TEMPERATURE = 10, 0.1


def _views(device: torch.device, small: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """logits [views * batch, classes]; targets [3 * batch, classes] of the teacher's second view, its first, and both; index; grad."""
    batch, classes = _classes(small)
    probs = (random(device, 2, batch, classes, dtype=F32, seed=7) / 0.4).softmax(dim=-1)
    targets = torch.cat([probs[1], probs[0], probs[0] + probs[1]])
    row = torch.arange(batch, device=device)
    which = torch.arange(VIEWS, device=device).clamp(max=2)
    return (random(device, VIEWS * batch, classes), targets, (which[:, None] * batch + row).flatten(),
            random(device, VIEWS * batch, dtype=F32, seed=8))  # fmt: skip


def _classes(small: bool) -> tuple[int, int]:
    return (2, 96) if small else (64, 65536)


def public_views(logits: Tensor, targets: Tensor) -> Tensor:
    """DINO's chain: a log-softmax and a product for every pair of views; here the pairs of a view are added, and nothing is averaged."""
    second, first, _ = targets.chunk(3)
    views = (logits.float() / TEMPERATURE).chunk(VIEWS)
    losses = []
    for v, view in enumerate(views):
        pairs = [torch.sum(-q * functional.log_softmax(view, dim=-1), dim=-1) for t, q in enumerate((first, second)) if v != t]
        losses.append(torch.stack(pairs).sum(dim=0))
    return torch.cat(losses)


def views_forward(device: torch.device, small: bool) -> dict[str, Call]:
    from sslkit.kernels._soft_cross_entropy import fused

    logits, targets, index, _ = _views(device, small)
    return {
        "fused": lambda: fused.forward(logits, targets, index, TEMPERATURE)[0],
        "reference": lambda: cross_entropy.forward(logits, targets, index, TEMPERATURE)[0],
        "public": lambda: public_views(logits, targets),
    }


def views_backward(device: torch.device, small: bool) -> dict[str, Call]:
    from sslkit.kernels._soft_cross_entropy import fused

    logits, targets, index, grad = _views(device, small)
    saved = cross_entropy.forward(logits, targets, index, TEMPERATURE)[1]
    return {
        "fused": lambda: fused.backward(grad, logits, targets, index, saved, TEMPERATURE),
        "reference": lambda: cross_entropy.backward(grad, logits, targets, index, saved, TEMPERATURE),
        "public": backward_of(lambda x: public_views(x, targets), (logits,), lambda out: grad),
    }


def views_forward_bytes(small: bool) -> int:
    batch, classes = _classes(small)
    rows = VIEWS * batch
    return size_of(((rows, classes), BF16), ((3 * batch, classes), F32), ((rows,), I64), ((3, rows), F32))


def views_backward_bytes(small: bool) -> int:
    batch, classes = _classes(small)
    return views_forward_bytes(small) + size_of(((VIEWS * batch, classes), BF16))


ROWS = "10 views of 64 pictures, 65536 classes, bf16 logits, fp32 targets"
SIZE = "256 x 147 of 196 patches of 768, uint8 pictures, bf16 predictions"
CASES = [
    Case("masked_pixel_loss", SIZE, forward, forward_bytes, tolerance=1e-5),
    Case("masked_pixel_loss, backward", SIZE, backward, backward_bytes, backward=True, tolerance=1e-2),
    Case("soft_cross_entropy", ROWS, views_forward, views_forward_bytes, loops=640 * 65536 // 2048, tolerance=1e-5),
    Case("soft_cross_entropy, backward", ROWS, views_backward, views_backward_bytes, backward=True, tolerance=1e-2),
]
