"""Self-distillation (DINO): a student's views of a picture say what a teacher's global views say."""

import torch
from torch import Tensor, nn

from sslkit._checks import bind_axes, need_between, need_floating, need_positive, wrong
from sslkit._unit import unit
from sslkit.distributed import Group, global_mean, mean_rows, row_count, world_size
from sslkit.kernels import soft_cross_entropy


def dino_loss(student_logits: Tensor, teacher_probs: Tensor, *, student_temperature: float = 0.1, group: Group | None = None) -> Tensor:
    """Cross-entropy between the views of a teacher and all other views of a student.

        loss = mean over b, and over all pairs (t, v) with v != t, of  - sum over k of teacher_probs[t, b, k] log p[v, b, k]
        p[v, b] = softmax(student_logits[v, b] / student_temperature)

    Views are counted alike: student view t and teacher view t are one crop, so that pair is left out. The pairs of one student view share
    its log-sum-exp, and their targets are added before: what is as large as all pairs is never made.

    Args:
        student_logits: [views, batch, dim], floating; global views first.
        teacher_probs: [global views, batch, dim], rows that sum to 1: `DINOCenter(...)` or `sinkhorn_knopp`. No gradient flows back.
        student_temperature: above 0.
        group: the mean is over the rows of all these processes (see `sslkit.distributed`); None: over this one's, as the official code.

    Returns:
        Scalar, float32 or wider; at least the mean entropy of the targets. 0 for an empty batch.

    Raises:
        ValueError: the axes disagree, more teacher than student views, no pair at all, or a temperature that is not positive.
        TypeError: not floating.

    Source: Caron et al. 2021 (DINO), eq. 2 and algorithm 1.
    """
    sizes = bind_axes("dino_loss", student_logits=(student_logits, "views batch dim"), teacher_probs=(teacher_probs, "teachers batch dim"))
    need_floating("dino_loss", student_logits=student_logits, teacher_probs=teacher_probs)
    need_positive("dino_loss", student_temperature=student_temperature)
    views, teachers, batch, dim = (sizes[name] for name in ("views", "teachers", "batch", "dim"))
    pairs = teachers * views - teachers
    if teachers > views or pairs < 1:
        raise _no_pair("dino_loss", views, teachers)
    targets = _others(teacher_probs.detach())  # [teachers + 1, batch, dim]
    row = torch.arange(batch, device=targets.device)
    which = torch.arange(views, device=targets.device).clamp(max=teachers)  # a local view has all teachers
    index = (which[:, None] * batch + row).flatten()
    terms = pairs * row_count(batch, group)
    losses = soft_cross_entropy(student_logits.reshape(-1, dim), targets.flatten(0, 1), target_index=index,
                                temperature=student_temperature, expected_gradient=world_size(group) / max(terms, 1))  # fmt: skip
    return global_mean(losses.sum(), terms, group)


def _no_pair(where: str, views: int, teachers: int) -> Exception:
    return wrong(where, given=f"{views} student views and {teachers} teacher views",
                 expected="the teacher's views among the student's, and another view to compare with",
                 mend="pass every global view through both networks, two or more")  # fmt: skip


def _others(probs: Tensor) -> Tensor:
    """[teachers, batch, dim] -> sums over all teachers but one, for each; and, last, over all."""
    teachers = len(probs)
    kept = [[u for u in range(teachers) if u != t] for t in range(teachers)] + [list(range(teachers))]
    sums = probs.new_empty(teachers + 1, *probs.shape[1:])
    for out, others in zip(sums, kept, strict=True):
        if len(others) > 1:
            torch.add(probs[others[0]], probs[others[1]], out=out)
            for u in others[2:]:
                out += probs[u]
        else:
            out.copy_(probs[others[0]]) if others else out.zero_()
    return sums


class DINOCenter(nn.Module):
    """The teacher's targets: logits, centred and sharpened.

        probs = softmax((logits - value) / temperature)                            forward
        value <- momentum * value + (1 - momentum) * mean of all rows of logits     update, of all processes and views, raw logits

    The order of the official step: `probs = center(logits, ...)`, loss, then `center.update(logits)` once a step. Nothing else moves
    `value`, not even a forward pass in training mode.

    Args:
        dim: of the logits.
        momentum: in [0, 1].

    Buffers: `value` [dim], float32, saved.

    Raises:
        ValueError: a dim or momentum out of range; at `update`, a centre put into 16 bit, which stands still in small steps (and in float16
            overflows).

    Source: Caron et al. 2021 (DINO), eq. 4 and sec. 3.1, "Avoiding collapse".
    """

    value: Tensor

    def __init__(self, dim: int, momentum: float = 0.9) -> None:
        super().__init__()
        need_positive("DINOCenter", dim=dim)
        need_between("DINOCenter", 0, 1, momentum=momentum)
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(dim))

    @torch.no_grad()
    def forward(self, teacher_logits: Tensor, temperature: float) -> Tensor:
        """[..., dim] -> probabilities of the same shape, float32 or wider, no gradient. temperature above 0: 0.04 to 0.07."""
        bind_axes("DINOCenter", teacher_logits=(teacher_logits, f"... {len(self.value)}"))
        need_positive("DINOCenter", temperature=temperature)
        wide = torch.promote_types(teacher_logits.dtype, torch.float32)
        with torch.autocast(teacher_logits.device.type, enabled=False):
            return (teacher_logits.to(wide) - self.value.to(wide)).div_(temperature).softmax(dim=-1)

    @torch.no_grad()
    def update(self, teacher_logits: Tensor, group: Group | None = None) -> None:
        """Moves `value`, in place, by the rows [..., dim] of all processes of the group; a row weighs the same on every rank."""
        bind_axes("DINOCenter.update", teacher_logits=(teacher_logits, f"... {len(self.value)}"))
        if self.value.dtype.itemsize < 4:
            raise wrong("DINOCenter.update", given=f"a centre in {self.value.dtype}", expected="float32 or wider",
                        mend="cast the networks alone; 16-bit logits may be given to a float32 centre")  # fmt: skip
        rows = teacher_logits.reshape(-1, len(self.value))
        if row_count(len(rows), group):
            self.value.lerp_(mean_rows(rows, group).to(self.value.dtype), 1 - self.momentum)


def dino_mse_loss(student: Tensor, teacher: Tensor, *, normalize: bool = True, group: Group | None = None) -> Tensor:
    """Squared distance between the outputs of a teacher's views and all other views of a student: DINO's ablation without softmax.

        loss = mean over b, and over all pairs (t, v) with v != t, of  |n(student[v, b]) - n(teacher[t, b])|^2,   n(x) = x / |x|

    which is 2 - 2 cos. The reference code of that row was never published; without `normalize` a user reports collapse.

    Args:
        student: [views, batch, dim], floating, from the head (or a predictor); global views first.
        teacher: [global views, batch, dim]; no gradient flows back.
        normalize: False: n(x) = x.
        group: as in `dino_loss`.

    Returns:
        Scalar, float32 or wider, in [0, 4] if normalised.

    Raises:
        ValueError: as in `dino_loss`.
        TypeError: not floating.

    Source: Caron et al. 2021 (DINO), table 7, row 5; Grill et al. 2020 (BYOL), eq. 2, for the normalised form.
    """
    sizes = bind_axes("dino_mse_loss", student=(student, "views batch dim"), teacher=(teacher, "teachers batch dim"))
    need_floating("dino_mse_loss", student=student, teacher=teacher)
    views, teachers = sizes["views"], sizes["teachers"]
    if teachers > views or teachers * views - teachers < 1:
        raise _no_pair("dino_mse_loss", views, teachers)
    wide = torch.promote_types(student.dtype, torch.float32)
    s, t = (unit(x) if normalize else x.to(wide) for x in (student, teacher.detach()))
    error = (s[None] - t[:, None].to(s.dtype)).square().sum(dim=-1)  # [teachers, views, batch]
    same = torch.eye(teachers, views, dtype=torch.bool, device=s.device)
    total = error.masked_fill(same[..., None], 0).sum()
    return global_mean(total, (teachers * views - teachers) * row_count(sizes["batch"], group), group)
