"""Self-distillation of hidden patches (iBOT)."""

import torch
from torch import Tensor

from sslkit._checks import bind_axes, need_floating, need_positive, wrong
from sslkit.distributed import Group, global_mean, row_count
from sslkit.kernels import soft_cross_entropy


def ibot_loss(student_logits: Tensor, teacher_probs: Tensor, mask: Tensor | None = None, *, student_temperature: float = 0.1,
              group: Group | None = None) -> Tensor:  # fmt: skip
    """At hidden patches the student, which does not see them, says what the teacher, which does, says.

        loss = mean over b of  1 / max(1, |M_b|) * sum over n in M_b of  - sum over k of teacher_probs[b, n, k] log p[b, n, k]
        p[b, n] = softmax(student_logits[b, n] / student_temperature),   M_b: tokens with mask[b, n]

    Pictures without hidden tokens count as 0.

    Args:
        student_logits: [batch, tokens, dim], floating; or, without a mask, the hidden tokens alone, `mask.hidden(tokens)`.
        teacher_probs: as student_logits, rows that sum to 1; no gradient flows back.
        mask: bool [batch, tokens], True = hidden; None: all are.
        student_temperature: above 0.
        group: the mean is over the pictures of all these processes (see `sslkit.distributed`).

    Returns:
        Scalar, float32 or wider. 0 for an empty batch.

    Raises:
        ValueError: the axes disagree, the mask is not bool, or a temperature that is not positive.
        TypeError: not floating.

    Source: Zhou et al. 2022 (iBOT), eq. 2; Oquab et al. 2024 (DINOv2), sec. 4, whose weights are these.
    """
    given = {} if mask is None else {"mask": (mask, "batch tokens")}
    sizes = bind_axes("ibot_loss", student_logits=(student_logits, "batch tokens dim"), teacher_probs=(teacher_probs, "batch tokens dim"),
                      **given)  # fmt: skip
    need_floating("ibot_loss", student_logits=student_logits, teacher_probs=teacher_probs)
    need_positive("ibot_loss", student_temperature=student_temperature)
    if mask is not None and mask.dtype != torch.bool:
        raise wrong("ibot_loss", given=f"mask of dtype {mask.dtype}", expected="torch.bool, True = hidden", mend="write mask.bool()")
    # filled before: an inf at a visible token must reach neither the loss nor, as 0 * inf, the gradient.
    logits = student_logits if mask is None else student_logits.masked_fill(~mask[..., None], 0)
    rows = soft_cross_entropy(logits.flatten(0, 1), teacher_probs.detach().flatten(0, 1), temperature=student_temperature)
    losses = rows.view(sizes["batch"], sizes["tokens"])
    if mask is None:
        picture = losses.sum(dim=1) / max(sizes["tokens"], 1)
    else:
        picture = losses.masked_fill(~mask, 0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    return global_mean(picture.sum(), row_count(sizes["batch"], group), group)
