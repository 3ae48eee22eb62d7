"""Putting tokens back in their places: the public function, its registration and its gradient."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sslkit._checks import bind_axes, wrong
from sslkit.kernels import _choose, _launch
from sslkit.kernels._rows import as_row, as_table, fresh, need_ids
from sslkit.kernels._scatter_tokens import reference

DType = torch.dtype | None


def scatter_tokens(x: Tensor, ids_keep: Tensor, tokens: int, mask_token: Tensor, *, positions: Tensor | None = None, prefix: int = 0,
                   out_dtype: torch.dtype | None = None, backend: _choose.Backend = "auto") -> Tensor:  # fmt: skip
    """Restores the full sequence: visible tokens in their places, the mask token in all others, positions added.

        out[b, p]                   = x[b, p] + positions[p]                            p < P, P = prefix
        out[b, P + ids_keep[b, k]]  = x[b, P + k] + positions[P + ids_keep[b, k]]
        out[b, P + n]               = mask_token + positions[P + n]                     n not in ids_keep[b]

    Args:
        x: [batch, P + kept, dim]; any strides.
        ids_keep: [batch, kept], int64 or int32, the place of each token among `tokens`; unique inside a row, in any order.
        tokens: length of the full sequence, without the prefix.
        mask_token: [dim] or [1, 1, dim].
        positions: [P + tokens, dim] or [1, P + tokens, dim].
        prefix: that many tokens in front keep their places; ids_keep does not count them.
        out_dtype: default: by promotion of x, mask_token and positions.
        backend: "auto", "reference" or "fused"; see `explain`.

    Returns:
        [batch, P + tokens, dim], contiguous. Differentiable twice in x, mask_token and positions; sums over the batch in float32 or
        wider, in the same order in every run. If nothing is hidden, the mask token's gradient is exactly 0.

    Raises:
        ValueError: the axes or devices disagree, more tokens are kept than there are, or an explicit backend cannot run.
        TypeError: ids_keep is not int64 or int32.
        IndexError: on a CPU, an id is outside 0..tokens-1 (on a GPU, a device-side assertion).

    Source: He et al. 2022 (MAE), sec. 3, "MAE decoder".
    """
    sizes = bind_axes("scatter_tokens", x=(x, "batch length dim"), ids_keep=(ids_keep, "batch kept"))
    need_ids("scatter_tokens", "ids_keep", ids_keep)
    if prefix < 0 or sizes["length"] != prefix + sizes["kept"] or sizes["kept"] > tokens:
        raise wrong("scatter_tokens", given=f"x {list(x.shape)}, ids_keep {list(ids_keep.shape)}, tokens={tokens}, prefix={prefix}",
                    expected="x [batch, prefix + kept, dim] and kept <= tokens",
                    mend="pass prefix= the number of class and register tokens in x, and the ids that x was gathered with")  # fmt: skip
    mask_token = as_row("scatter_tokens", "mask_token", mask_token, x)
    positions = as_table("scatter_tokens", "positions", positions, x, prefix + tokens)
    backend = _choose.requested("scatter_tokens", backend)
    return torch.ops.sslkit.scatter_tokens(x, ids_keep, tokens, mask_token, positions, prefix, out_dtype, backend)  # type: ignore[no-any-return]


def _result(x: Tensor, mask_token: Tensor, positions: Tensor | None, out_dtype: DType) -> torch.dtype:
    dtype = torch.promote_types(x.dtype, mask_token.dtype)
    return out_dtype or (dtype if positions is None else torch.promote_types(dtype, positions.dtype))


def _version(x: Tensor, backend: _choose.Backend, rows: int, *dtypes: DType) -> ModuleType:
    """`rows` of the longest table that is read or written, `dtypes` of the other tensors."""
    if _choose.choose("scatter_tokens", x, backend, _launch.beyond(rows, *dtypes)).version == "fused":
        from sslkit.kernels._scatter_tokens import fused

        return fused
    return reference


@torch.library.custom_op(
    "sslkit::scatter_tokens",
    mutates_args=(),
    schema="(Tensor x, Tensor ids_keep, SymInt tokens, Tensor mask_token, Tensor? positions, SymInt prefix, ScalarType? out_dtype, "
    "str backend) -> Tensor",
)
def _forward(x: Tensor, ids_keep: Tensor, tokens: int, mask_token: Tensor, positions: Tensor | None, prefix: int, out_dtype: DType,
             backend: _choose.Backend) -> Tensor:  # fmt: skip
    dtype = _result(x, mask_token, positions, out_dtype)
    others = (t.dtype for t in (mask_token, positions) if t is not None)
    version = _version(x, backend, len(x) * (prefix + tokens), dtype, *others)
    out: Tensor = version.forward(x, ids_keep, tokens, mask_token, positions, prefix, dtype)
    return out


@_forward.register_fake
def _(x: Tensor, ids_keep: Tensor, tokens: int, mask_token: Tensor, positions: Tensor | None, prefix: int, out_dtype: DType,
      backend: str) -> Tensor:  # fmt: skip
    return x.new_empty(x.shape[0], prefix + tokens, x.shape[2], dtype=_result(x, mask_token, positions, out_dtype))


@torch.library.custom_op(
    "sslkit::scatter_tokens_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor ids_keep, SymInt tokens, SymInt prefix, ScalarType? x_dtype, ScalarType? token_dtype, "
    "ScalarType? positions_dtype, str backend) -> (Tensor, Tensor, Tensor)",
)
def _backward(grad: Tensor, ids_keep: Tensor, tokens: int, prefix: int, x_dtype: DType, token_dtype: DType, positions_dtype: DType,
              backend: _choose.Backend) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    version = _version(grad, backend, len(grad) * grad.shape[1], x_dtype, token_dtype, positions_dtype)
    gradients: tuple[Tensor, Tensor, Tensor] = version.backward(grad, ids_keep, tokens, prefix, x_dtype, token_dtype, positions_dtype)
    return gradients


@_backward.register_fake
def _(grad: Tensor, ids_keep: Tensor, tokens: int, prefix: int, x_dtype: DType, token_dtype: DType, positions_dtype: DType,
      backend: str) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    batch, length, dim = grad.shape
    return (
        fresh(grad, x_dtype, batch, prefix + ids_keep.shape[1], dim),
        fresh(grad, token_dtype, dim),
        fresh(grad, positions_dtype, length, dim),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ids_keep, ctx.tokens, mask_token, positions, ctx.prefix, _, ctx.backend = inputs
    ctx.save_for_backward(ids_keep)
    ctx.dtypes = tuple(None if t is None else t.dtype for t in (x, mask_token, positions))


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs = [ctx.needs_input_grad[i] for i in (0, 3, 4)]
    dtypes = [dtype if need else None for dtype, need in zip(ctx.dtypes, needs, strict=True)]
    results = torch.ops.sslkit.scatter_tokens_backward(grad, ctx.saved_tensors[0], ctx.tokens, ctx.prefix, *dtypes, ctx.backend)
    to_x, to_token, to_positions = (result if need else None for result, need in zip(results, needs, strict=True))
    return to_x, None, None, to_token, to_positions, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad, ids_keep, ctx.tokens, ctx.prefix, *ctx.dtypes, ctx.backend = inputs
    ctx.save_for_backward(ids_keep)
    ctx.shape, ctx.dtype = grad.shape, grad.dtype


def _gradient_backward(ctx: Any, x: Tensor, mask_token: Tensor, positions: Tensor) -> tuple[Tensor | None, ...]:
    """The backward pass is the transpose of the forward pass, so its own gradient is the forward pass."""
    (ids_keep,) = ctx.saved_tensors
    has_x, has_token, has_positions = (dtype is not None for dtype in ctx.dtypes)
    batch, _, dim = ctx.shape
    out = torch.ops.sslkit.scatter_tokens(
        x if has_x else x.new_zeros(batch, ctx.prefix + ids_keep.shape[1], dim, dtype=ctx.dtype), ids_keep, ctx.tokens,
        mask_token if has_token else x.new_zeros(dim, dtype=ctx.dtype), positions if has_positions else None, ctx.prefix,
        ctx.dtype, ctx.backend)  # fmt: skip
    return out, *[None] * 7


_forward.register_autograd(_gradient, setup_context=_save)
_backward.register_autograd(_gradient_backward, setup_context=_save_backward)
