"""What a training step of DINO's ViT costs: per crop setting (the paper's table 8), patch size and batch.

A step: student and teacher forward, loss, backward, clipping, optimiser, centre, teacher. Views are made before the clock starts.
"""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.harness import Call, Report, command, compare
from sslkit.backbones import ViT
from sslkit.losses import DINOCenter, dino_loss
from sslkit.modules import DINOHead, MomentumEncoder, encode_views
from sslkit.optim import clip_each, dino_groups

SIZE, LOCAL, DIM, DEPTH, HEADS, PROTOTYPES = 96, 48, 192, 6, 3, 4096
# name -> local views, patch, batch; each of the tables varies one of them
TABLES = {
    "throughput_crops": {f"2 + {n} views" if n else "2 views": (n, 16, 8) for n in (0, 2, 6, 10)},
    "throughput_patch": {f"patches of {patch}": (0, patch, 4) for patch in (16, 8, 6)},
    "throughput_batch": {f"batch {batch}": (0, 16, batch) for batch in (4, 16, 64)},
}
WHAT = {"throughput_crops": "patches of 16, batch 8", "throughput_patch": "2 views, batch 4", "throughput_batch": "2 views, patches of 16"}


class Network(nn.Module):
    def __init__(self, patch: int) -> None:
        super().__init__()
        self.vit, self.head = ViT(SIZE, patch, DIM, DEPTH, HEADS, init="dino"), DINOHead(DIM, PROTOTYPES, hidden=512, bottleneck=128)

    def forward(self, views: list[Tensor]) -> Tensor:
        return self.head(encode_views(lambda images: self.vit(images).pooled("cls"), views))  # type: ignore[no-any-return]


def setup(locals_: int, patch: int, batch: int) -> Call:
    """Networks and views made, the step ready."""
    torch.manual_seed(0)
    student = Network(patch)
    teacher, center = MomentumEncoder(student), DINOCenter(PROTOTYPES)
    optimizer = torch.optim.AdamW(dino_groups(student, weight_decay=0.04), lr=1e-4)
    views = [torch.rand(batch, 3, SIZE, SIZE) for _ in range(2)] + [torch.rand(batch, 3, LOCAL, LOCAL) for _ in range(locals_)]

    def step() -> None:
        logits, targets = student(views), teacher(views[:2])
        loss = dino_loss(logits, center(targets, 0.04))
        optimizer.zero_grad()
        loss.backward()
        clip_each(student.parameters(), 3.0)
        optimizer.step()
        center.update(targets)
        teacher.update(0.996)

    return step


def run(table: str, rounds: int = 5, memory: bool = True) -> Report:
    """Jobs differ on purpose: the ratios tell how cost grows from the first of them."""
    settings = TABLES[table]
    jobs = {name: setup(*setting) for name, setting in settings.items()}
    peaks = {name: partial(setup, *setting) for name, setting in settings.items()} if memory else None
    title = f"A training step of DINO, ViT of {DEPTH} blocks {DIM} wide, views of {SIZE} and {LOCAL} pixels; {WHAT[table]}"
    report = compare(table, jobs, rounds=rounds, reference=next(iter(jobs)), agree=None, peaks=peaks, title=title)
    rates = tuple(f"{row.job}: {1000 * settings[row.job][2] / row.cpu_ms.median:.1f} pictures per CPU second" for row in report.rows)
    return replace(report, notes=(*rates, "memory is what a step needs above weights, optimiser and views",
                                  "jobs differ on purpose, so no agreement is checked"))  # fmt: skip


main = command(__doc__, run, list(TABLES), rounds=5)

if __name__ == "__main__":
    main()
