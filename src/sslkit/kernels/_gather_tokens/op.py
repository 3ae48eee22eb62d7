"""Gathering tokens: the public function, its registration and its gradient."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sslkit._checks import bind_axes
from sslkit.kernels import _choose, _launch
from sslkit.kernels._gather_tokens import reference
from sslkit.kernels._rows import as_table, fresh, need_ids

DType = torch.dtype | None


def gather_tokens(x: Tensor, ids: Tensor, *, positions: Tensor | None = None, prefix: Tensor | None = None,
                  out_dtype: torch.dtype | None = None, backend: _choose.Backend = "auto") -> Tensor:  # fmt: skip
    """Keeps some tokens of every sample, adds their positions, and puts common tokens in front.

        out[b, p]     = prefix[p]
        out[b, P + k] = x[b, ids[b, k]] + positions[ids[b, k]]

    Args:
        x: [batch, tokens, dim]; any strides.
        ids: [batch, kept], int64 or int32, in any order. Unique inside a row: of a token named twice the gradient counts one.
        positions: [tokens, dim] or [1, tokens, dim].
        prefix: [P, dim] or [1, P, dim], a class token with its position, say.
        out_dtype: default: by promotion of x, positions and prefix.
        backend: "auto", "reference" or "fused"; see `explain`.

    Returns:
        [batch, P + kept, dim], contiguous, sharing no memory with x. Differentiable twice in x, positions and prefix; sums over the
        batch in float32 or wider, in the same order in every run.

    Raises:
        ValueError: the axes or devices disagree, or an explicit backend cannot run.
        TypeError: ids are not int64 or int32.
        IndexError: an id is outside 0..tokens-1, on a CPU (on a GPU: a row of NaN, or a device-side assertion of the reference).

    Source: He et al. 2022 (MAE), sec. 3, "MAE encoder".
    """
    bind_axes("gather_tokens", x=(x, "batch tokens dim"), ids=(ids, "batch kept"))
    need_ids("gather_tokens", "ids", ids)
    positions = as_table("gather_tokens", "positions", positions, x, x.shape[1])
    prefix = as_table("gather_tokens", "prefix", prefix, x)
    return torch.ops.sslkit.gather_tokens(x, ids, positions, prefix, out_dtype, _choose.requested("gather_tokens", backend))  # type: ignore[no-any-return]


def _result(x: Tensor, positions: Tensor | None, prefix: Tensor | None, out_dtype: DType) -> torch.dtype:
    dtype = x.dtype
    for other in (positions, prefix):
        dtype = dtype if other is None else torch.promote_types(dtype, other.dtype)
    return out_dtype or dtype


def _version(x: Tensor, backend: _choose.Backend, rows: int, *dtypes: DType) -> ModuleType:
    """`rows` of the longest table that is read or written, `dtypes` of the other tensors."""
    if _choose.choose("gather_tokens", x, backend, _launch.beyond(rows, *dtypes)).version == "fused":
        from sslkit.kernels._gather_tokens import fused

        return fused
    return reference


@torch.library.custom_op(
    "sslkit::gather_tokens",
    mutates_args=(),
    schema="(Tensor x, Tensor ids, Tensor? positions, Tensor? prefix, ScalarType? out_dtype, str backend) -> Tensor",
)
def _forward(x: Tensor, ids: Tensor, positions: Tensor | None, prefix: Tensor | None, out_dtype: DType, backend: _choose.Backend) -> Tensor:
    dtype = _result(x, positions, prefix, out_dtype)
    rows = len(x) * max(x.shape[1], ids.shape[1] + (0 if prefix is None else len(prefix)))
    version = _version(x, backend, rows, dtype, *(t.dtype for t in (positions, prefix) if t is not None))
    out: Tensor = version.forward(x, ids, positions, prefix, dtype)
    return out


@_forward.register_fake
def _(x: Tensor, ids: Tensor, positions: Tensor | None, prefix: Tensor | None, out_dtype: DType, backend: str) -> Tensor:
    length = ids.shape[1] + (0 if prefix is None else prefix.shape[0])
    return x.new_empty(x.shape[0], length, x.shape[2], dtype=_result(x, positions, prefix, out_dtype))


@torch.library.custom_op(
    "sslkit::gather_tokens_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor ids, SymInt tokens, SymInt prefix, ScalarType? x_dtype, ScalarType? positions_dtype, "
    "ScalarType? prefix_dtype, str backend) -> (Tensor, Tensor, Tensor)",
)
def _backward(grad: Tensor, ids: Tensor, tokens: int, prefix: int, x_dtype: DType, positions_dtype: DType, prefix_dtype: DType,
              backend: _choose.Backend) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    version = _version(grad, backend, len(grad) * max(tokens, grad.shape[1]), x_dtype, positions_dtype, prefix_dtype)
    gradients: tuple[Tensor, Tensor, Tensor] = version.backward(grad, ids, tokens, prefix, x_dtype, positions_dtype, prefix_dtype)
    return gradients


@_backward.register_fake
def _(grad: Tensor, ids: Tensor, tokens: int, prefix: int, x_dtype: DType, positions_dtype: DType, prefix_dtype: DType,
      backend: str) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    batch, dim = grad.shape[0], grad.shape[2]
    return (
        fresh(grad, x_dtype, batch, tokens, dim),
        fresh(grad, positions_dtype, tokens, dim),
        fresh(grad, prefix_dtype, prefix, dim),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ids, positions, prefix, _, ctx.backend = inputs
    ctx.save_for_backward(ids)
    ctx.tokens, ctx.prefix = x.shape[1], 0 if prefix is None else prefix.shape[0]
    ctx.dtypes = tuple(None if t is None else t.dtype for t in (x, positions, prefix))


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs = [ctx.needs_input_grad[i] for i in (0, 2, 3)]
    dtypes = [dtype if need else None for dtype, need in zip(ctx.dtypes, needs, strict=True)]
    results = torch.ops.sslkit.gather_tokens_backward(grad, ctx.saved_tensors[0], ctx.tokens, ctx.prefix, *dtypes, ctx.backend)
    to_x, to_positions, to_prefix = (result if need else None for result, need in zip(results, needs, strict=True))
    return to_x, None, to_positions, to_prefix, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad, ids, ctx.tokens, ctx.prefix, *ctx.dtypes, ctx.backend = inputs
    ctx.save_for_backward(ids)
    ctx.shape, ctx.dtype = grad.shape, grad.dtype


def _gradient_backward(ctx: Any, x: Tensor, positions: Tensor, prefix: Tensor) -> tuple[Tensor | None, ...]:
    """The backward pass is the transpose of the forward pass, so its own gradient is the forward pass."""
    has_x, has_positions, has_prefix = (dtype is not None for dtype in ctx.dtypes)
    batch, _, dim = ctx.shape
    out = torch.ops.sslkit.gather_tokens(
        x if has_x else positions.new_zeros(batch, ctx.tokens, dim, dtype=ctx.dtype), ctx.saved_tensors[0],
        positions if has_positions else None,
        prefix if has_prefix else x.new_zeros(ctx.prefix, dim, dtype=ctx.dtype), ctx.dtype, ctx.backend)  # fmt: skip
    return out, *[None] * 7


_forward.register_autograd(_gradient, setup_context=_save)
_backward.register_autograd(_gradient_backward, setup_context=_save_backward)
