"""First in, first out: NNCLR's support set of positives, MoCo's queue of negatives."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils._pytree import register_pytree_node

from sslkit._bank import nearest_rows, softmax_mean
from sslkit._checks import bind_axes, need_floating, need_positive, need_whole, wrong
from sslkit._unit import unit
from sslkit.distributed import Group, gather


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest rows of a `SupportSet`, by falling similarity. A pytree. The axis k is there for k > 1 alone.

    Args:
        rows: [batch, dim] or [batch, k, dim], copies; soft neighbours are [batch, dim].
        similarity: [batch] or [batch, k], cosine in [-1, 1] up to rounding, float32 or wider.
        ids: [batch] or [batch, k], int64: slots of the support set, which the next `enqueue` may overwrite.
        labels: [batch] or [batch, k], int64, -1 = unknown.
    """

    rows: Tensor
    similarity: Tensor
    ids: Tensor
    labels: Tensor


def _flatten(near: Neighbours) -> tuple[list[Any], None]:
    return [near.rows, near.similarity, near.ids, near.labels], None


register_pytree_node(Neighbours, _flatten, lambda children, _: Neighbours(*children), serialized_type_name="sslkit.modules.Neighbours")


class SupportSet(nn.Module):
    """The last `size` embeddings, of length 1. `enqueue` moves it, and nothing else.

        slot of the i-th row that ever came = i mod size: the newest rows replace the oldest, whatever the sizes of the batches; of a batch
        larger than `size` the last rows stay

    NNCLR searches before it enqueues, so that a sample never meets itself; MoCo computes its loss before it enqueues:

        near1, near2 = support.nearest(z1), support.nearest(z2)                 loss = info_nce(q, k, negatives=queue.rows, ...)
        loss = (nnclr_loss(near1.rows, p2) + nnclr_loss(near2.rows, p1)) / 2    loss.backward()
        loss.backward()                                                         queue.enqueue(k, group=group)
        support.enqueue(z1, group=group)

    `enqueue` may also stand before backward(): what `nearest` returns are copies, and `info_nce` keeps no row. In a formula of your own
    over `rows`, torch refuses a backward pass after the enqueue; take rows.clone() there. One call a step, however many backward passes.

    It starts with random rows, which are negatives from the first step on, as in MoCo; the search sees those that came, once any has.

    More than one process: with `group` the rows of all ranks come in, in the order of the ranks, and every rank holds the same. Give every
    rank the same `generator` for the start, or keep the support set in a module that DistributedDataParallel wraps, whose first
    synchronisation does it; later ones change nothing.

    Args:
        size: rows. 98304 in NNCLR, 65536 in MoCo.
        dim: of the embeddings.
        dtype: of the rows; bfloat16 halves memory and reading, and is compared in float32.
        generator: of the random rows; None: torch's global one.

    Buffers, all saved: rows [size, dim]; labels [size] int64, -1 = unknown; filled, how many rows have come, at most size; pointer, the
    next slot; steps, the calls of `enqueue`; came [size], the call that brought each row, -1 = none. The last four are int64.

    Raises:
        ValueError: size or dim is no whole number from 1 on, or dtype is not floating.

    Source: Dwibedi et al. 2021 (NNCLR), sec. 3.2; He et al. 2020 (MoCo), sec. 3.2.
    """

    rows: Tensor
    labels: Tensor
    filled: Tensor
    pointer: Tensor
    steps: Tensor
    came: Tensor

    def __init__(self, size: int, dim: int, *, dtype: torch.dtype = torch.float32, generator: torch.Generator | None = None) -> None:
        super().__init__()
        need_whole("SupportSet", size=size, dim=dim)
        if not dtype.is_floating_point:
            raise wrong("SupportSet", given=f"dtype={dtype}", expected="a floating dtype", mend="pass torch.float32 or torch.bfloat16")
        self.size, self.dim = size, dim
        rows = torch.randn(size, dim, generator=generator, device=None if generator is None else generator.device)
        self.register_buffer("rows", normalize(rows, dim=1).to(dtype))
        self.register_buffer("labels", torch.full((size,), -1, device=rows.device))
        self.register_buffer("came", torch.full((size,), -1, device=rows.device))
        for name in ("filled", "pointer", "steps"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64, device=rows.device))

    @property
    def age(self) -> Tensor:
        """[size] int64: calls of `enqueue` since the row came, 1 = with the last one; 0 = a random row of the start."""
        return torch.where(self.came < 0, 0, self.steps - self.came)

    @torch.no_grad()
    def nearest(self, z: Tensor, k: int = 1, soft_temperature: float | None = None) -> Neighbours:
        """The rows with the largest cosine to each z, without gradient. No [batch, size] matrix is made.

            rows[b] = the row q of those that came (of all, before any came) with the largest <unit(z[b]), q>
            soft:  rows[b] = unit(sum over them of softmax(<unit(z[b]), q> / soft_temperature) q)

        Args:
            z: [batch, dim], not necessarily normalised; floating.
            k: neighbours asked for. NNCLR's top-k draws one of them:  near.rows[torch.arange(batch), torch.randint(k, (batch,))]
            soft_temperature: above 0: soft neighbours, for k = 1; similarity, ids and labels are still those of the nearest row.

        Returns:
            Neighbours. Of equal similarities, as they are after rounding, the one in the lowest slot is nearer, for every k. While fewer
            than k rows have come, the nearest stands again in the places that are left.

        Raises:
            ValueError: z has another dim or device, k is above `size`, or soft neighbours are asked for with k > 1.
            TypeError: z is not floating.
        """
        where = "SupportSet.nearest"
        bind_axes(where, rows=(self.rows, "size dim"), z=(z, "batch dim"))
        need_floating(where, z=z)
        need_whole(where, k=k)
        if k > self.size or (soft_temperature is not None and k > 1):
            raise wrong(where, given=f"k={k}{'' if soft_temperature is None else ' with a soft_temperature'}",
                        expected=f"k up to {self.size}" if soft_temperature is None else "k=1, as a soft neighbour is made of all rows",
                        mend="ask for fewer" if soft_temperature is None else "leave one of them out")  # fmt: skip
        query = unit(z)
        similarity, ids = nearest_rows(query, self.rows, k, self.filled)
        if k == 1:
            similarity, ids = similarity[:, 0], ids[:, 0]
        if soft_temperature is None:
            rows = self.rows[ids]
        else:
            need_positive(where, soft_temperature=soft_temperature)
            rows = normalize(softmax_mean(query / soft_temperature, self.rows, self.filled)[1], dim=1)
        return Neighbours(rows, similarity, ids, self.labels[ids])

    @torch.no_grad()
    def enqueue(self, z: Tensor, labels: Tensor | None = None, group: Group | None = None) -> None:
        """Takes in a batch, normalised, in place of the oldest rows. Nothing waits for the device.

        Args:
            z: [batch, dim], floating; batch may differ between steps and ranks.
            labels: [batch] integers, -1 = unknown; None: all unknown. On all ranks or on none.
            group: the rows of all these processes come in.

        Raises:
            ValueError: the axes or devices disagree.
            TypeError: z is not floating, or labels are.
        """
        where = "SupportSet.enqueue"
        more = {} if labels is None else {"labels": (labels, "batch")}
        bind_axes(where, rows=(self.rows, "size dim"), z=(z, "batch dim"), **more)
        need_floating(where, z=z)
        if labels is not None and (labels.is_floating_point() or labels.dtype == torch.bool):
            raise wrong(where, given=f"labels of dtype {labels.dtype}", expected="integers", mend="pass labels.long()", kind=TypeError)
        new = gather(unit(z).to(self.rows.dtype), group).rows
        given = new.new_full(new.shape[:1], -1, dtype=torch.int64) if labels is None else gather(labels.long(), group).rows
        count, kept = len(new), min(len(new), self.size)
        slots = (self.pointer + torch.arange(count - kept, count, device=self.rows.device)) % self.size
        self.rows.index_copy_(0, slots, new[count - kept :])
        self.labels.index_copy_(0, slots, given[count - kept :])
        self.came.index_copy_(0, slots, self.steps.expand(kept))
        self.pointer.add_(count).remainder_(self.size)
        self.filled.add_(count).clamp_(max=self.size)
        self.steps.add_(1)

    def extra_repr(self) -> str:
        return f"{self.size}, {self.dim}"
