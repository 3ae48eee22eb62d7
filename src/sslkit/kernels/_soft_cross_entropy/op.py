"""Cross-entropy against weighted classes: the public function, its registration and its gradient."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sslkit._checks import bind_axes, need_floating, need_positive, wrong
from sslkit.kernels import _choose, _launch
from sslkit.kernels._rows import need_ids, wide
from sslkit.kernels._soft_cross_entropy import blocks, cpu, reference

CLASSES = 2**24  # the fused version's most


def soft_cross_entropy(logits: Tensor, targets: Tensor, *, target_index: Tensor | None = None, temperature: float = 1.0,
                       expected_gradient: float = 1.0, backend: _choose.Backend = "auto") -> Tensor:  # fmt: skip
    """Cross-entropy of every row of logits against a row of non-negative weights of classes, which need not sum to 1.

        z = logits[r] / temperature,   q = targets[target_index[r]]
        loss[r] = sum(q) * logsumexp(z) - <q, z>            = - <q, log softmax(z)>

    Linear in the targets: cross-entropies of one row against several targets are one against their sum, as in DINO's pairs of views.

    Args:
        logits: [rows, classes], floating.
        targets: [target rows, classes], floating, no gradient flows back.
        target_index: [rows], int64 or int32: which row of targets; None: targets have as many rows as logits.
        temperature: above 0.
        expected_gradient: what the loss of every row will be multiplied by, 1 / rows for their mean: where the gradient is formed with the
            loss, a pass over it is saved if it comes true, nothing else changes. Any number may stand here.
        backend: "auto", "reference" or "fused"; see `explain`.

    Returns:
        [rows], float32 or wider. Nothing as large as the logits is made but their gradient: on a CPU with the loss; elsewhere, and in
        float16, which a factor that comes later would lift out of nothing, the softmax is computed again. Differentiable once. A gradient
        that was formed with the loss is given out as it is: who changes it in place cannot go back through a retained graph again.

    Raises:
        ValueError: the axes or devices disagree, no classes, a temperature that is not positive, or an explicit backend cannot run.
        TypeError: logits or targets are not floating, or target_index not int64 or int32.
        IndexError: on a CPU, target_index is outside the targets (on a GPU: NaN, or a device-side assertion of the reference).
        RuntimeError: a backward pass with create_graph=True; autograd's, a second one after the gradient was changed in place.

    Source: Caron et al. 2021 (DINO), eq. 2; Hinton et al. 2015 for soft targets.
    """
    axes = {} if target_index is None else {"target_index": (target_index, "rows")}
    sizes = bind_axes("soft_cross_entropy", logits=(logits, "rows classes"),
                      targets=(targets, "rows classes" if target_index is None else "target_rows classes"), **axes)  # fmt: skip
    need_floating("soft_cross_entropy", logits=logits, targets=targets)
    need_positive("soft_cross_entropy", temperature=temperature)
    if target_index is not None:
        need_ids("soft_cross_entropy", "target_index", target_index)
    if sizes["classes"] == 0:
        raise wrong("soft_cross_entropy", given=f"logits {list(logits.shape)}", expected="at least one class", mend="check the last axis")
    chosen = _choose.requested("soft_cross_entropy", backend)
    # By a hint that is 0, not finite or far from 1 the gradient could not be divided again.
    hint = float(expected_gradient) if 2**-32 < abs(expected_gradient) < 2**32 else 1.0
    expected = hint if torch.is_grad_enabled() and logits.requires_grad else None
    return torch.ops.sslkit.soft_cross_entropy(logits, targets.detach(), target_index, temperature, expected, chosen)[0]  # type: ignore[no-any-return]


def _at_once(x: Tensor, backend: str) -> bool:
    """Whether the gradient is formed with the loss."""
    return x.device.type == "cpu" and backend == "auto" and x.dtype != torch.float16


def _version(logits: Tensor, targets: Tensor, backend: _choose.Backend) -> ModuleType:
    """The same for both passes."""
    limit = _launch.beyond(len(logits), targets.dtype)
    if logits.shape[1] > CLASSES:
        limit = f"{logits.shape[1]} classes"
    if _choose.choose("soft_cross_entropy", logits, backend, limit).version == "fused":
        from sslkit.kernels._soft_cross_entropy import fused

        return fused
    return blocks if logits.device.type == "cpu" and backend == "auto" else reference


@torch.library.custom_op(
    "sslkit::soft_cross_entropy",
    mutates_args=(),
    schema="(Tensor logits, Tensor targets, Tensor? index, float temperature, float? expected, str backend) -> (Tensor, Tensor)",
)
def _forward(logits: Tensor, targets: Tensor, index: Tensor | None, temperature: float, expected: float | None,
             backend: _choose.Backend) -> tuple[Tensor, Tensor]:  # fmt: skip
    version = _version(logits, targets, backend)
    with torch.autocast(logits.device.type, enabled=False):
        if _at_once(logits, backend):
            return cpu.forward(logits, targets, index, temperature, expected)
        results: tuple[Tensor, Tensor] = version.forward(logits, targets, index, temperature)
        return results


@_forward.register_fake
def _(logits: Tensor, targets: Tensor, index: Tensor | None, temperature: float, expected: float | None,
      backend: str) -> tuple[Tensor, Tensor]:  # fmt: skip
    loss = logits.new_empty(logits.shape[0], dtype=wide(logits.dtype))
    if _at_once(logits, backend):
        return loss, logits.new_empty(logits.shape if expected is not None else (0,))
    return loss, logits.new_empty(2, logits.shape[0], dtype=wide(logits.dtype))


@torch.library.custom_op(
    "sslkit::soft_cross_entropy_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor logits, Tensor targets, Tensor? index, Tensor saved, float temperature, str backend) -> Tensor",
)
def _backward(grad: Tensor, logits: Tensor, targets: Tensor, index: Tensor | None, saved: Tensor, temperature: float,
              backend: _choose.Backend) -> Tensor:  # fmt: skip
    version = _version(logits, targets, backend)
    with torch.autocast(logits.device.type, enabled=False):
        to_logits: Tensor = version.backward(grad, logits, targets, index, saved, temperature)
        return to_logits


@_backward.register_fake
def _(grad: Tensor, logits: Tensor, targets: Tensor, index: Tensor | None, saved: Tensor, temperature: float, backend: str) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, targets, index, ctx.temperature, ctx.expected, ctx.backend = inputs
    ctx.at_once = _at_once(logits, ctx.backend)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*((None, None, None, output[1]) if ctx.at_once else (logits, targets, index, output[1])))


def _gradient(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    logits, targets, index, saved = ctx.saved_tensors
    eager = type(grad) is Tensor and not torch.compiler.is_compiling()  # else a program is being written, and there is nothing to look at
    if eager and torch.is_grad_enabled():  # create_graph=True: what was formed before is a constant to autograd
        raise wrong("soft_cross_entropy", given="a gradient of its gradient (create_graph=True)", expected="one derivative",
                    mend="write -(targets * log_softmax(logits / temperature)).sum(-1) there", kind=RuntimeError)  # fmt: skip
    if grad is None:
        to_logits = None
    elif not ctx.at_once:
        to_logits = torch.ops.sslkit.soft_cross_entropy_backward(grad, logits, targets, index, saved, ctx.temperature, ctx.backend)
    elif eager and bool((grad == ctx.expected).all()):
        to_logits = saved  # on a CPU, where looking costs nothing
    else:
        to_logits = (saved * (grad / ctx.expected)[:, None]).to(saved.dtype)
    return to_logits, None, None, None, None, None


_forward.register_autograd(_gradient, setup_context=_save)
