"""Distillation of a classifier (DeiT): the student's distillation token says what a teacher says."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from sslkit._checks import bind_axes, need_between, need_floating, need_positive, wrong


def soft_distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    reduction: Literal["batch", "element"] = "batch",
    base: Tensor | None = None,
    alpha: float | None = None,
) -> Tensor:
    """Divergence of the student's class probabilities from the teacher's.

        soft = temperature**2 * mean over b of  sum over c of p[b, c] (log p[b, c] - log q[b, c])
        p = softmax(teacher_logits / temperature),   q = softmax(student_logits / temperature)
        loss = (1 - alpha) * base + alpha * soft

    The factor keeps the size of the gradient: at a high temperature that of a row is (student - teacher) / classes, each less its mean.

    Args:
        student_logits: [batch, classes], floating, of the distillation token.
        teacher_logits: as student_logits, of the same augmented images; no gradient flows back.
        temperature: above 0; 1 in DeiT's code, 3 with alpha=0.1 in the paper.
        reduction: "batch", the mean over b above; "element" divides by the classes too, as DeiT's code does: with 1000 of them that
            is next to nothing.
        base: scalar, the loss of the class token and the labels; None: loss = soft.
        alpha: share of the distillation beside `base`, in [0, 1]; 0.5 if left out, as in DeiT. A term without share is not looked at.

    Returns:
        Scalar, float32 or wider. soft is 0 for equal distributions, positive else, and 0 for an empty batch.

    Raises:
        ValueError: the axes disagree, a temperature that is not positive, another word for reduction, alpha outside [0, 1] or without base.
        TypeError: not floating, or a pair of outputs where one is expected.

    Source: Touvron et al. 2021 (DeiT), eq. 2; Hinton et al. 2015 for the factor.
    """
    sizes = _bind("soft_distillation_loss", student_logits, teacher_logits)
    need_positive("soft_distillation_loss", temperature=temperature)
    if reduction not in ("batch", "element"):
        raise wrong("soft_distillation_loss", given=f"reduction={reduction!r}", expected='"batch" or "element"',
                    mend='take "element" only to repeat numbers of DeiT\'s code')  # fmt: skip
    wide = torch.promote_types(student_logits.dtype, torch.float32)
    log_q, log_p = ((x.to(wide) / temperature).log_softmax(dim=-1) for x in (student_logits, teacher_logits.detach()))
    divergence = functional.kl_div(log_q, log_p, log_target=True, reduction="sum") * temperature**2
    shares = max(sizes["batch"], 1) * (sizes["classes"] if reduction == "element" else 1)
    return _beside("soft_distillation_loss", base, divergence / shares, alpha)


def hard_distillation_loss(student_logits: Tensor, teacher_logits: Tensor, *, base: Tensor | None = None,
                           alpha: float | None = None) -> Tensor:  # fmt: skip
    """Cross-entropy with the class that the teacher would choose.

        hard = mean over b of  - log softmax(student_logits[b])[argmax over c of teacher_logits[b, c]]
        loss = (1 - alpha) * base + alpha * hard

    Args:
        student_logits: [batch, classes], floating, of the distillation token.
        teacher_logits: as student_logits, of the same augmented images; only the place of the largest counts.
        base: scalar, the loss of the class token and the labels; None: loss = hard.
        alpha: as in `soft_distillation_loss`.

    Returns:
        Scalar, float32 or wider. hard is 0 for an empty batch.

    Raises:
        ValueError: the axes disagree, alpha outside [0, 1] or without base.
        TypeError: not floating, or a pair of outputs where one is expected.

    Source: Touvron et al. 2021 (DeiT), eq. 3.
    """
    sizes = _bind("hard_distillation_loss", student_logits, teacher_logits)
    wide = torch.promote_types(student_logits.dtype, torch.float32)
    total = functional.cross_entropy(student_logits.to(wide), teacher_logits.detach().argmax(dim=-1), reduction="sum")
    return _beside("hard_distillation_loss", base, total / max(sizes["batch"], 1), alpha)


def _bind(where: str, student_logits: Tensor, teacher_logits: Tensor) -> dict[str, int]:
    sizes = bind_axes(where, student_logits=(student_logits, "batch classes"), teacher_logits=(teacher_logits, "batch classes"))
    need_floating(where, student_logits=student_logits, teacher_logits=teacher_logits)
    return sizes


def _beside(where: str, base: Tensor | None, distillation: Tensor, alpha: float | None) -> Tensor:
    """(1 - alpha) * base + alpha * distillation; a term of no share is left out, so that 0 * inf does not make it nan."""
    if base is None:
        if alpha is not None:
            raise wrong(where, given=f"alpha={alpha} without base", expected="both or neither", mend="pass base=, the loss of the labels")
        return distillation
    if base.ndim:
        raise wrong(where, given=f"base {list(base.shape)}", expected="a scalar", mend="reduce it: base.mean()")
    alpha = 0.5 if alpha is None else alpha
    need_between(where, 0, 1, alpha=alpha)
    if alpha in (0, 1):
        return distillation if alpha else base
    return (1 - alpha) * base + alpha * distillation
