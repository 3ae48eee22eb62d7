"""More than one process. Nothing here, and nothing in sslkit, talks to another process unless a `group` is passed.

The contract of every loss with `group=`. Rank r holds n_r rows, l_i is the loss of row i against candidates of all ranks, N = sum_r n_r:

    value:          1/N * sum over all ranks of sum_i l_i                        the same on every rank, equal to one process
    autograd path:  W/N * sum over this rank's rows of l_i                       W processes; candidates gathered by `gather`, whose
                                                                                 backward sums the gradients of all ranks
Averaging parameter gradients over ranks, as DistributedDataParallel does, then gives the gradient of one process, whatever the n_r.
Raw gradients of a rank's inputs are W times those of one process.
"""

from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from sslkit._checks import wrong

__all__ = ["Gathered", "all_sum", "gather", "global_mean", "mean_rows", "row_count", "shuffle", "unshuffle", "world_size"]

Group = dist.ProcessGroup


@dataclass(frozen=True)
class Gathered:
    """Rows of all ranks, in rank order; this rank's own are rows[start : start + counts[rank]]."""

    rows: Tensor
    start: int
    counts: tuple[int, ...]


def world_size(group: Group | None) -> int:
    """Processes of the group; 1 without one."""
    return 1 if group is None else dist.get_world_size(group)


def gather(x: Tensor, group: Group | None = None) -> Gathered:
    """Rows of all ranks, with gradient: the backward sums, over ranks, the gradients of this rank's block.

    Args:
        x: [rows, ...]; rows may differ between ranks, the other axes may not.
        group: the processes; None: x alone, untouched.

    Rows are counted over a CPU channel, so that the device is never waited for.
    """
    if group is None:
        return Gathered(x, 0, (x.shape[0],))
    counts = _row_counts(x.shape[0], group)
    rank = dist.get_rank(group)
    return Gathered(_Gather.apply(x, group, counts, rank), sum(counts[:rank]), counts)


def all_sum(x: Tensor, group: Group | None = None) -> Tensor:
    """The sum of x over all ranks, with gradient, which is summed over ranks, too.

    A loss that every rank computes from such sums has the contract's value, and its autograd path: W times the gradient of one process.
    """
    if group is None:
        return x
    _need_group(group)
    out: Tensor = _AllSum.apply(x, group)
    return out


def global_mean(loss_sum: Tensor, total: int, group: Group | None = None) -> Tensor:
    """The contract above: this rank's summed loss and the rows of all ranks -> the scalar to call backward on. No rows anywhere: 0."""
    total = max(total, 1)
    if group is None:
        return loss_sum / total
    _need_group(group)
    path = loss_sum * (dist.get_world_size(group) / total)
    value = loss_sum.detach().clone()
    dist.all_reduce(value, group=group)
    return path + (value / total - path).detach()


def mean_rows(x: Tensor, group: Group | None = None) -> Tensor:
    """Mean over the rows of all ranks, no gradient: [rows, dim] -> [dim], float32 or wider. A row weighs the same on every rank."""
    wide = torch.promote_types(x.dtype, torch.float32)
    total = x.detach().to(wide).sum(dim=0)
    count = x.shape[0]
    if group is not None:
        _need_group(group)
        dist.all_reduce(total, group=group)
        count = sum(_row_counts(count, group))
    return total / max(count, 1)


def row_count(rows: int, group: Group | None = None) -> int:
    """Rows of all ranks together; counted over a CPU channel."""
    return rows if group is None else sum(_row_counts(rows, group))


@torch.no_grad()
def shuffle(x: Tensor, order: Tensor, group: Group | None = None) -> Tensor:
    """MoCo's shuffled BatchNorm: the rows of all ranks in another order, of which this rank gets as many as it gave. No gradient.

        all = x of all ranks, in rank order;   shuffle(x)[i] = all[order[start + i]]

        order = counter.permutation(rows of all ranks, seed=seed, epoch=step)
        keys = unshuffle(teacher(shuffle(x2, order, group)), order, group)

    A teacher whose BatchNorms see one process's rows alone would tell, by their statistics, which query belongs to which key.

    Args:
        x: [rows, ...]; rows may differ between ranks, the other axes may not.
        order: [rows of all ranks], int64, a permutation, the same on every rank.
        group: the processes; None: x alone.

    Raises:
        ValueError: `order` has another length.

    Source: He et al. 2020 (MoCo), sec. 3.3, "Shuffling BN".
    """
    return _ordered("shuffle", x, order, group)


@torch.no_grad()
def unshuffle(x: Tensor, order: Tensor, group: Group | None = None) -> Tensor:
    """Undoes `shuffle`: what this rank's rows became, wherever that was. No gradient. Arguments and errors are those of `shuffle`."""
    return _ordered("unshuffle", x, order.argsort(), group)


def _ordered(where: str, x: Tensor, order: Tensor, group: Group | None) -> Tensor:
    gathered = gather(x, group)
    if order.shape != gathered.rows.shape[:1]:
        raise wrong(where, given=f"order {list(order.shape)}", expected=f"[{len(gathered.rows)}], the rows of all ranks",
                    mend="pass counter.permutation(row_count(len(x), group), seed=seed, epoch=step)")  # fmt: skip
    return gathered.rows[order[gathered.start : gathered.start + len(x)].to(x.device)]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, counts: tuple[int, ...], rank: int) -> Tensor:
        ctx.group, ctx.start, ctx.rows = group, sum(counts[:rank]), counts[rank]
        # all_gather wants equal shapes: shorter blocks are padded to the longest, and cut again.
        block = x.new_zeros(max(counts), *x.shape[1:])
        block[: x.shape[0]] = x
        blocks = [torch.empty_like(block) for _ in counts]
        dist.all_gather(blocks, block, group=group)
        return torch.cat([b[:n] for b, n in zip(blocks, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total[ctx.start : ctx.start + ctx.rows], None, None, None


class _AllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None


def _row_counts(rows: int, group: Group) -> tuple[int, ...]:
    host = _host_group(group)
    counts = [torch.empty(1, dtype=torch.int64) for _ in range(dist.get_world_size(host))]
    dist.all_gather(counts, torch.tensor([rows]), group=host)
    return tuple(int(count) for count in counts)


_host_groups: "WeakKeyDictionary[Group, Group]" = WeakKeyDictionary()


def _host_group(group: Group) -> Group:
    """The group itself if it can send CPU tensors, else a gloo group of the same ranks, made once."""
    _need_group(group)
    if torch.device("cpu") in group._device_types:
        return group
    if group not in _host_groups:
        ranks = dist.get_process_group_ranks(group)
        made = dist.new_group(ranks, backend="gloo", use_local_synchronization=True)
        _host_groups[group] = cast(Group, made)
    return _host_groups[group]


def _need_group(group: Any) -> None:
    if not isinstance(group, dist.ProcessGroup):
        raise wrong("group", given=f"{type(group).__name__}", expected="a torch.distributed process group that this process belongs to",
                    mend="pass torch.distributed.group.WORLD after init_process_group, or None", kind=TypeError)  # fmt: skip
