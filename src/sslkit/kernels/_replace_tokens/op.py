"""Replacing hidden tokens: the public function, its registration and its gradient."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sslkit._checks import bind_axes, wrong
from sslkit.kernels import _choose
from sslkit.kernels._replace_tokens import cpu, reference
from sslkit.kernels._rows import as_row, fresh

DType = torch.dtype | None


def replace_tokens(x: Tensor, mask: Tensor, mask_token: Tensor, *, backend: _choose.Backend = "auto") -> Tensor:
    """Puts the mask token in the place of every hidden token.

        out[b, n] = mask_token if mask[b, n] else x[b, n]

    A choice, not x * (1 - mask) + mask_token * mask: a NaN in a hidden token stays there.

    Args:
        x: [batch, tokens, dim]; any strides.
        mask: [batch, tokens], bool, True = hidden; rows may hide different numbers of tokens.
        mask_token: [dim] or [1, 1, dim].
        backend: "auto", "reference" or "fused"; see `explain`.

    Returns:
        [batch, tokens, dim], contiguous, of the dtype that x and mask_token promote to. Differentiable twice in x and mask_token; the
        sum over hidden tokens in float32 or wider, in the same order in every run. If nothing is hidden, that gradient is exactly 0.

    Raises:
        ValueError: the axes or devices disagree, mask is not bool, or an explicit backend cannot run.

    Source: Bao et al. 2022 (BEiT), sec. 2.3.
    """
    bind_axes("replace_tokens", x=(x, "batch tokens dim"), mask=(mask, "batch tokens"))
    if mask.dtype != torch.bool:
        raise wrong("replace_tokens", given=f"mask of dtype {mask.dtype}", expected="torch.bool, True = hidden",
                    mend="write mask.bool(), or ~mask.bool() if yours marks the visible tokens")  # fmt: skip
    mask_token = as_row("replace_tokens", "mask_token", mask_token, x)
    return torch.ops.sslkit.replace_tokens(x, mask, mask_token, _choose.requested("replace_tokens", backend))  # type: ignore[no-any-return]


def _version(x: Tensor, backend: _choose.Backend) -> ModuleType:
    _choose.choose("replace_tokens", x, backend)
    return cpu if x.device.type == "cpu" else reference


@torch.library.custom_op(
    "sslkit::replace_tokens", mutates_args=(), schema="(Tensor x, Tensor mask, Tensor mask_token, str backend) -> Tensor"
)
def _forward(x: Tensor, mask: Tensor, mask_token: Tensor, backend: _choose.Backend) -> Tensor:
    return _version(x, backend).forward(x, mask, mask_token, torch.promote_types(x.dtype, mask_token.dtype))  # type: ignore[no-any-return]


@_forward.register_fake
def _(x: Tensor, mask: Tensor, mask_token: Tensor, backend: str) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, mask_token.dtype))


@torch.library.custom_op(
    "sslkit::replace_tokens_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor mask, ScalarType? x_dtype, ScalarType? token_dtype, str backend) -> (Tensor, Tensor)",
)
def _backward(grad: Tensor, mask: Tensor, x_dtype: DType, token_dtype: DType, backend: _choose.Backend) -> tuple[Tensor, Tensor]:
    return _version(grad, backend).backward(grad, mask, x_dtype, token_dtype)  # type: ignore[no-any-return]


@_backward.register_fake
def _(grad: Tensor, mask: Tensor, x_dtype: DType, token_dtype: DType, backend: str) -> tuple[Tensor, Tensor]:
    return fresh(grad, x_dtype, *grad.shape), fresh(grad, token_dtype, grad.shape[2])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, mask, mask_token, ctx.backend = inputs
    ctx.save_for_backward(mask)
    ctx.dtypes = x.dtype, mask_token.dtype


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs = [ctx.needs_input_grad[i] for i in (0, 2)]
    dtypes = [dtype if need else None for dtype, need in zip(ctx.dtypes, needs, strict=True)]
    results = torch.ops.sslkit.replace_tokens_backward(grad, ctx.saved_tensors[0], *dtypes, ctx.backend)
    to_x, to_token = (result if need else None for result, need in zip(results, needs, strict=True))
    return to_x, None, to_token, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad, mask, *ctx.dtypes, ctx.backend = inputs
    ctx.save_for_backward(mask)
    ctx.shape, ctx.dtype = grad.shape, grad.dtype


def _gradient_backward(ctx: Any, x: Tensor, mask_token: Tensor) -> tuple[Tensor | None, ...]:
    """The backward pass is the transpose of the forward pass, so its own gradient is the forward pass."""
    has_x, has_token = (dtype is not None for dtype in ctx.dtypes)
    out = torch.ops.sslkit.replace_tokens(
        x.to(ctx.dtype) if has_x else x.new_zeros(ctx.shape, dtype=ctx.dtype), ctx.saved_tensors[0],
        mask_token.to(ctx.dtype) if has_token else x.new_zeros(ctx.shape[2], dtype=ctx.dtype), ctx.backend)  # fmt: skip
    return out, *[None] * 4


_forward.register_autograd(_gradient, setup_context=_save)
_backward.register_autograd(_gradient_backward, setup_context=_save_backward)
