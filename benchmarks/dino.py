"""DINO's loss, forward and backward, and Sinkhorn-Knopp: ours against the published chains.

The peers are written here from their descriptions. DINO: a log-softmax and a product for every pair of views, the teacher's softmax once.
DINOv2: the log-softmax of a view once, all pairs after. Sinkhorn: the matrix, divided by its row and column sums in turn (SwAV, DINOv2).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import Call, Report, command, compare
from sslkit.losses import DINOCenter, dino_loss, sinkhorn_knopp

DIM, VIEWS, TEMPERATURE, TEACHER = 65536, 10, 0.1, 0.04
BATCH = {"dino_8": 8, "dino_16": 16}
ROWS = {"sinkhorn_3000": (512, 3000), "sinkhorn_65536": (128, 65536)}
TITLES = {
    **{name: f"DINO's loss, forward and backward, batch {batch}, 2 + 8 views, {DIM} classes" for name, batch in BATCH.items()},
    **{name: f"Sinkhorn-Knopp, {rows} x {columns}, 3 iterations" for name, (rows, columns) in ROWS.items()},
}


def views(job: str) -> tuple[Tensor, Tensor, DINOCenter]:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(VIEWS, BATCH[job], DIM, generator=generator) * 0.1
    return student.requires_grad_(), torch.randn(2, BATCH[job], DIM, generator=generator) * 0.1, DINOCenter(DIM)


def ours(student: Tensor, teacher: Tensor, center: DINOCenter) -> Tensor:
    return dino_loss(student, center(teacher, TEACHER), student_temperature=TEMPERATURE)


def pair_by_pair(student: Tensor, teacher: Tensor, center: DINOCenter) -> Tensor:
    """DINO's."""
    scaled, total, terms = (student / TEMPERATURE).unbind(), student.new_zeros(()), 0
    targets = functional.softmax((teacher - center.value) / TEACHER, dim=-1).unbind()
    for t, q in enumerate(targets):
        for v, s in enumerate(scaled):
            if v != t:
                total = total + torch.sum(-q * functional.log_softmax(s, dim=-1), dim=-1).mean()
                terms += 1
    return total / terms


def view_by_view(student: Tensor, teacher: Tensor, center: DINOCenter) -> Tensor:
    """DINOv2's, on DINO's pairs."""
    total, terms = student.new_zeros(()), 0
    targets = functional.softmax((teacher - center.value) / TEACHER, dim=-1).unbind()
    for v, s in enumerate(student.unbind()):
        lsm = functional.log_softmax(s / TEMPERATURE, dim=-1)
        for t, q in enumerate(targets):
            if v != t:
                total = total - torch.sum(q * lsm, dim=-1).mean()
                terms += 1
    return total / terms


def step(form: Callable[..., Tensor], student: Tensor, teacher: Tensor, center: DINOCenter) -> tuple[Tensor, Tensor]:
    loss = form(student, teacher, center)
    return loss.detach(), torch.autograd.grad(loss, student)[0]


def matrix(logits: Tensor, temperature: float) -> Tensor:
    """SwAV's and DINOv2's: the matrix is written twice an iteration."""
    q = torch.exp(logits / temperature).t()
    columns, rows = q.shape
    q /= torch.sum(q)
    for _ in range(3):
        q /= torch.sum(q, dim=1, keepdim=True)
        q /= columns
        q /= torch.sum(q, dim=0, keepdim=True)
        q /= rows
    q *= rows
    return q.t()


def softmaxes(*logits: Tensor) -> None:
    """One pass of exponentials over what is given, which no form can do without. No answer."""
    for x in logits:
        x.softmax(dim=-1)


FLOOR = "a softmax of the logits, no answer"
DINO = {"sslkit": ours, "DINOv2, view by view": view_by_view, "DINO, pair by pair": pair_by_pair}
SINKHORN = {"sslkit": sinkhorn_knopp, "sslkit, log domain": partial(sinkhorn_knopp, log_domain=True), "SwAV, the matrix": matrix}


def setup(job: str, form: str) -> Call:
    """Inputs made, the call ready."""
    if job in BATCH:
        student, teacher, center = views(job)
        return partial(softmaxes, student.detach(), teacher) if form == FLOOR else partial(step, DINO[form], student, teacher, center)
    logits = torch.randn(ROWS[job], generator=torch.Generator().manual_seed(0)) * 0.1
    return partial(softmaxes, logits) if form == FLOOR else partial(SINKHORN[form], logits, 0.05)


def agree(mine: Any, reference: Any) -> None:
    if mine is None:
        return
    for a, b in zip(mine, reference, strict=True) if isinstance(mine, tuple) else [(mine, reference)]:
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def run(job: str, rounds: int = 7, memory: bool = True) -> Report:
    forms = [FLOOR, *(DINO if job in BATCH else SINKHORN)]
    jobs = {form: setup(job, form) for form in forms}
    peaks = {form: partial(setup, job, form) for form in forms} if memory else None
    return compare(job, jobs, rounds=rounds, reference=forms[-1], agree=agree, peaks=peaks, title=TITLES[job],
                   notes=("shared machine; ratios are formed inside a round", "memory includes the result"))  # fmt: skip


main = command(__doc__, run, list(TITLES), rounds=7)

if __name__ == "__main__":
    main()
