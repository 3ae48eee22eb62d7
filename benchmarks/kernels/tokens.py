"""Gathering visible tokens (MAE's encoder) and restoring the sequence (its decoder): 256 pictures, 49 of 196 tokens kept, bf16."""

import torch
from torch import Tensor

from benchmarks.kernels.case import Call, Case, backward_of, kept_ids, random, size_of
from sslkit.kernels._gather_tokens import reference as gather_reference
from sslkit.kernels._scatter_tokens import reference as scatter_reference

BF16, I32, I64, F32 = torch.bfloat16, torch.int32, torch.int64, torch.float32


def _sizes(small: bool, dim: int) -> tuple[int, int, int, int]:
    return (2, 9, 4, 8) if small else (256, 196, 49, dim)


def public_gather(x: Tensor, positions: Tensor, prefix: Tensor, ids: Tensor) -> Tensor:
    """MAE: positions to all tokens, an index in memory once for every number, the class token joined."""
    x = x + positions
    x = x.gather(1, ids.unsqueeze(-1).repeat(1, 1, x.shape[2]))
    return torch.cat([prefix.expand(x.shape[0], -1, -1), x], dim=1)


def public_restore(x: Tensor, token: Tensor, positions: Tensor, order: Tensor) -> Tensor:
    """MAE: mask tokens joined behind the visible ones, all unshuffled, the class token joined again, positions added."""
    hidden = token.repeat(x.shape[0], order.shape[1] + 1 - x.shape[1], 1)
    patches = torch.cat([x[:, 1:], hidden], dim=1).gather(1, order.unsqueeze(-1).repeat(1, 1, x.shape[2]))
    return torch.cat([x[:, :1], patches], dim=1) + positions


def gather(device: torch.device, small: bool) -> dict[str, Call]:
    from sslkit.kernels._gather_tokens import fused

    batch, tokens, kept, dim = _sizes(small, 768)
    x, positions, prefix = random(device, batch, tokens, dim), random(device, tokens, dim, seed=3), random(device, 1, dim, seed=4)
    ids = kept_ids(device, batch, tokens, kept)
    return {
        "fused": lambda: fused.forward(x, ids, positions, prefix, BF16),
        "reference": lambda: gather_reference.forward(x, ids, positions, prefix, BF16),
        "public": lambda: public_gather(x, positions, prefix, ids),
    }


def gather_backward(device: torch.device, small: bool) -> dict[str, Call]:
    from sslkit.kernels._gather_tokens import fused

    batch, tokens, kept, dim = _sizes(small, 768)
    x, positions, prefix = random(device, batch, tokens, dim), random(device, tokens, dim, seed=3), random(device, 1, dim, seed=4)
    ids, grad = kept_ids(device, batch, tokens, kept), random(device, batch, kept + 1, dim, seed=5)
    return {
        "fused": lambda: fused.backward(grad, ids, tokens, 1, BF16, None, None)[0],
        "reference": lambda: gather_reference.backward(grad, ids, tokens, 1, BF16, None, None)[0],
        "public": backward_of(lambda x: public_gather(x, positions, prefix, ids), (x,), lambda out: grad),
    }


def restore(device: torch.device, small: bool) -> dict[str, Call]:
    from sslkit.kernels._scatter_tokens import fused

    x, token, positions, ids, order, tokens, _ = _restore_inputs(device, small)
    return {
        "fused": lambda: fused.forward(x, ids, tokens, token, positions, 1, BF16),
        "reference": lambda: scatter_reference.forward(x, ids, tokens, token, positions, 1, BF16),
        "public": lambda: public_restore(x, token, positions, order),
    }


def restore_backward(device: torch.device, small: bool) -> dict[str, Call]:
    """Gradients of the tokens and of the mask token; positions are a fixed table of sines, as in MAE."""
    from sslkit.kernels._scatter_tokens import fused

    x, token, positions, ids, order, tokens, grad = _restore_inputs(device, small)
    return {
        "fused": lambda: fused.backward(grad, ids, tokens, 1, BF16, BF16, None)[:2],
        "reference": lambda: scatter_reference.backward(grad, ids, tokens, 1, BF16, BF16, None)[:2],
        "public": backward_of(lambda x, token: public_restore(x, token, positions, order), (x, token), lambda out: grad),
    }


def _restore_inputs(device: torch.device, small: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int, Tensor]:
    batch, tokens, kept, dim = _sizes(small, 512)
    ids = kept_ids(device, batch, tokens, kept)
    hidden = torch.ones(batch, tokens, dtype=torch.int64, device=device).scatter_(1, ids, 0)
    order = torch.cat([ids, hidden.sort(dim=1, stable=True, descending=True).indices[:, : tokens - kept]], dim=1).argsort(dim=1)
    return (random(device, batch, kept + 1, dim), random(device, dim, seed=3), random(device, tokens + 1, dim, seed=4), ids, order, tokens,
            random(device, batch, tokens + 1, dim, seed=5))  # fmt: skip


def gather_bytes(small: bool) -> int:
    b, n, k, d = _sizes(small, 768)
    return size_of(((b, k, d), BF16), ((n, d), BF16), ((1, d), BF16), ((b, k), I64), ((b, k + 1, d), BF16))


def gather_backward_bytes(small: bool) -> int:
    b, n, k, d = _sizes(small, 768)
    return size_of(((b, k, d), BF16), ((b, k), I64), ((b, n, d), BF16))


def restore_bytes(small: bool) -> int:
    b, n, k, d = _sizes(small, 512)
    return size_of(((b, k + 1, d), BF16), ((d,), BF16), ((n + 1, d), BF16), ((b, k), I64), ((b, n + 1, d), BF16))


def restore_backward_bytes(small: bool) -> int:
    b, n, k, d = _sizes(small, 512)
    return size_of(((b, n + 1, d), BF16), ((b, k), I64), ((b, k + 1, d), BF16), ((d,), BF16))


KEEP, FULL = "256 x 196 x 768, 49 kept, positions and class token, bf16", "256 x (1 + 49 of 196) x 512, bf16"
CASES = [
    Case("gather_tokens", KEEP, gather, gather_bytes),
    Case("gather_tokens, backward", KEEP, gather_backward, gather_backward_bytes, backward=True),
    Case("scatter_tokens", FULL, restore, restore_bytes),
    Case("scatter_tokens, backward", FULL, restore_backward, restore_backward_bytes, backward=True, loops=197 * 2 * 64, tolerance=1e-2),
]
