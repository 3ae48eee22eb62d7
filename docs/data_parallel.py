"""What each loss gives on two and three processes: `python docs/data_parallel.py` writes data_parallel.md beside this file.

Error of the gradient: |g - g1| / |g1|, where g1 is the gradient of one process that holds the whole batch, and g what W processes that
average their gradients get. Once with `group=`, the batch cut unevenly, and once as if each process were alone, the batch cut evenly.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from sslkit.losses import (
    DINOCenter,
    barlow_twins_loss,
    byol_loss,
    dcl_loss,
    deepcluster_loss,
    dino_loss,
    ibot_loss,
    info_nce,
    looc_loss,
    moco_v3_loss,
    nce_loss,
    nce_normalizer,
    nnclr_loss,
    nt_xent,
    simsiam_loss,
    sinkhorn_knopp,
    swav_codes,
    swav_loss,
    vicreg_loss,
)
from sslkit.testing import run_in_processes

BATCH, DIM = 12, 16
CUTS = {2: [8, 4], 3: [6, 4, 2]}
PAGE = Path(__file__).with_suffix(".md")
TEXT = """# On several processes

Made by `python docs/data_parallel.py`; not to be edited by hand. A test holds every loss to one process within 1e-4 or less, on other data:
`tests/losses`, the tests that prove `worlds`.

{formula}

The last two columns are what a loss gives that is not told of the others: a mean over all rows is right without a word; one over some
of them, statistics of the batch and negatives are not.

| loss | 2 processes, `group=` | 3 processes, `group=` | 2, each alone | 3, each alone |
|---|---|---|---|---|
"""


def random(*shape: int, seed: int = 9) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def views(x: Tensor) -> Tensor:
    """[rows, 2 * DIM] -> [2, rows, DIM]."""
    return x.unflatten(1, (2, DIM)).transpose(0, 1)


def swav(x: Tensor, *, group: dist.ProcessGroup | None) -> Tensor:
    return swav_loss(views(x), swav_codes(views(x).detach(), group=group), group=group)


def dino(x: Tensor, *, sinkhorn: bool, group: dist.ProcessGroup | None) -> Tensor:
    """The teacher is a fixed map of the student's numbers; its centre is that of the batch before."""
    teacher = views(x).detach().flip(-1)
    if sinkhorn:
        probs = sinkhorn_knopp(teacher.transpose(0, 1).flatten(0, 1), 0.5, group=group).unflatten(0, (-1, 2)).transpose(0, 1)
    else:
        center = DINOCenter(DIM, momentum=0.0)
        center.update(teacher, group)
        probs = center(teacher, 0.5)
    return dino_loss(views(x), probs, group=group)


def ibot(x: Tensor, *, group: dist.ProcessGroup | None) -> Tensor:
    """Of two tokens a row hides one or both."""
    tokens = x.unflatten(1, (2, DIM))
    mask = torch.stack([torch.ones(len(x), dtype=torch.bool), x[:, 0] > 0], dim=1)
    return ibot_loss(tokens, tokens.detach().flip(-1).softmax(-1), mask, group=group)


def deepcluster(x: Tensor, *, group: dist.ProcessGroup | None) -> Tensor:
    """A third of the rows have no cluster."""
    assignments = torch.where(x[:, 0] > 0.5, -1, x[:, :DIM].argmax(dim=1))
    return deepcluster_loss(views(x)[None], assignments[None], group=group)


def looc(x: Tensor, *, group: dist.ProcessGroup | None) -> Tensor:
    queries, keys = x.unflatten(1, (2, 2, DIM // 2)).unbind(1)  # [rows, 2 heads, dim]
    keys = torch.stack([keys, keys.flip(-1)], dim=1).detach()  # [rows, 2 views, heads, dim]
    return looc_loss(queries.transpose(0, 1), keys.permute(1, 2, 0, 3), random(2, 20, DIM // 2), others="batch", group=group)


def nce(x: Tensor, *, group: dist.ProcessGroup | None) -> Tensor:
    """Row 0 of those looked up is the picture's own; the normaliser is that of the first step."""
    return nce_loss(x, nce_normalizer(x.detach(), 100, group=group), 100, group=group)


def pair(loss: Callable[..., Tensor], x: Tensor, *, group: dist.ProcessGroup | None) -> Tensor:
    return loss(*views(x), group=group)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "`nt_xent`": partial(pair, nt_xent),
    "`dcl_loss`": partial(pair, dcl_loss),
    "`info_nce`, keys of the batch": partial(pair, partial(info_nce, temperature=0.2)),
    "`info_nce`, a queue": partial(pair, partial(info_nce, negatives=random(20, DIM), temperature=0.2)),
    "`moco_v3_loss`": partial(pair, moco_v3_loss),
    "`nnclr_loss`": partial(pair, nnclr_loss),
    "`looc_loss`": looc,
    "`nce_normalizer`, `nce_loss`": nce,
    "`byol_loss`": partial(pair, byol_loss),
    "`simsiam_loss`": partial(pair, simsiam_loss),
    "`swav_codes`, `swav_loss`": swav,
    "`deepcluster_loss`": deepcluster,
    "`barlow_twins_loss`": partial(pair, barlow_twins_loss),
    "`vicreg_loss`": partial(pair, vicreg_loss),
    "`DINOCenter`, `dino_loss`": partial(dino, sinkhorn=False),
    "`sinkhorn_knopp`, `dino_loss`": partial(dino, sinkhorn=True),
    "`ibot_loss`": ibot,
}


def gradient(name: str, x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    x = x.clone().requires_grad_()
    LOSSES[name](x, group=group).backward()
    return x.grad


def of_rank(name: str, blocks: list[Tensor], together: bool, *, group: dist.ProcessGroup) -> Tensor:
    return gradient(name, blocks[dist.get_rank(group)], group if together else None)


def error(name: str, world: int, together: bool) -> float:
    x = random(BATCH, 2 * DIM, seed=0)
    whole, cut = gradient(name, x), CUTS[world] if together else BATCH // world
    got = torch.cat(run_in_processes(of_rank, world, name, list(x.split(cut)), together)) / world
    return ((got - whole).norm() / whole.norm()).item()


def written(value: float) -> str:
    return f"{value:.2f}" if value >= 5e-3 else "0" if value == 0 else f"{value:.0e}"


if __name__ == "__main__":
    rows = [[name, *(written(error(name, world, together)) for together in (True, False) for world in CUTS)] for name in LOSSES]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    PAGE.write_text(TEXT.format(formula=__doc__.split("\n\n")[1].strip()) + table + "\n")
    print(PAGE.read_text())
