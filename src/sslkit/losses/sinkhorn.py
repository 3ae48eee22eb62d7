"""Assignments with equal shares: Sinkhorn-Knopp."""

import math

import torch
import torch.distributed as dist
from torch import Tensor

from sslkit._checks import bind_axes, need_floating, need_positive, wrong
from sslkit.distributed import Group, row_count
from sslkit.kernels._softmax import softmax_into

_LEAST = 1e-37  # a column's smallest share of the largest one's
_SMALL, _LARGE = 2**17, 2**19  # numbers of a block on a CPU, half a MiB where it is copied, 2 MiB where it is not


@torch.no_grad()
def sinkhorn_knopp(logits: Tensor, temperature: float, *, iterations: int = 3, log_domain: bool = False,
                   group: Group | None = None) -> Tensor:  # fmt: skip
    """Soft assignments of rows to columns, in which every column gets about the same share of all rows.

        Q = exp(logits / temperature);  then, `iterations` times:
            Q[:, k] /= columns * sum over all rows of Q[:, k]
            Q[b, :] /= rows * sum over columns of Q[b, :]
        out = rows * Q                                             rows of all processes

    Q is never rewritten: it stays diag(v) M diag(u) for two vectors, M[b] = exp(logits[b] / temperature - c[b]), c[b] the row's
    log-sum-exp or maximum, and v starts as exp(c - max c), which is what the subtraction took out. So no exponential overflows, and an
    iteration reads M once.

    Args:
        logits: [batch, dim], floating, finite, as are logits / temperature; a teacher's, no gradient flows back.
        temperature: above 0; 0.05 in SwAV, 0.04 to 0.07 in DINOv2.
        iterations: 0 or more. 0: exponentials, divided by their mean over columns and rows.
        log_domain: exact where all logits of a column lie more than about 87 temperatures below their rows' largest, and 5 to 17 times as
            slow on a CPU. Without it such a column, of which float32 keeps nothing, gets nothing.
        group: rows are those of all these processes; batch may differ between ranks.

    Returns:
        [batch, dim], float32 or wider; rows sum to 1 (after one iteration or more), columns over all processes about rows / dim. Finite.

    Raises:
        ValueError: the axes, no column, a temperature that is not positive, or iterations that are no whole number from 0 on.
        TypeError: logits are not floating.

    Source: Cuturi 2013; Caron et al. 2020 (SwAV), eq. 5; Oquab et al. 2024 (DINOv2), sec. 4.
    """
    columns = bind_axes("sinkhorn_knopp", logits=(logits, "batch dim"))["dim"]
    need_floating("sinkhorn_knopp", logits=logits)
    need_positive("sinkhorn_knopp", temperature=temperature)
    if columns == 0:
        raise wrong("sinkhorn_knopp", given=f"logits {list(logits.shape)}", expected="at least one column", mend="check the last axis")
    if not isinstance(iterations, int) or iterations < 0:
        raise wrong("sinkhorn_knopp", given=f"iterations={iterations}", expected="a whole number from 0 on", mend="pass 3")
    wide = torch.promote_types(logits.dtype, torch.float32)
    with torch.autocast(logits.device.type, enabled=False):
        rows = row_count(len(logits), group)
        if log_domain:
            return _logarithms(logits.to(wide) / temperature, rows, columns, iterations, group)
        return _vectors(logits.detach(), temperature, rows, iterations, group)


def _vectors(logits: Tensor, temperature: float, rows: int, iterations: int, group: Group | None) -> Tensor:
    m, scale = _exponentials(logits, temperature)
    v = torch.exp(scale - _all_max(scale, group))  # [batch]
    if iterations == 0:
        total = _all_sum(v @ m, group).sum()
        return m.mul_((v * (rows / total))[:, None])
    shares, size = v @ m, _block_rows(m, _LARGE)  # [dim]
    for left in reversed(range(iterations)):  # up to a factor of all of u, which v takes out again
        shares = _all_sum(shares, group)
        shares = shares.clamp(min=_LEAST * shares.max())
        u = (shares.min().sqrt() * shares.max().sqrt()) / shares  # from 1e-19 to 1e19; rows of m sum to 1 or more, so m @ u is no less
        shares = torch.zeros_like(u)
        for m_, v_ in zip(torch.split(m, size), torch.split(v, size), strict=True):  # views, written in place
            v_.copy_(1 / (m_ @ u))
            if left:
                shares.addmv_(m_.t(), v_)
            else:
                m_.mul_(u).mul_(v_[:, None])
    return m


def _exponentials(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """m [batch, dim] and scale [batch]:  exp(logits / temperature) = exp(scale)[:, None] * m,  m at most 1, its rows' sums at least 1."""
    return (_softmax if logits.device.type == "cpu" else _below_the_largest)(logits, temperature)


def _below_the_largest(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    m = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    largest = m.amax(dim=1)
    return m.sub_(largest[:, None]).exp_(), largest


def _softmax(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """A CPU's softmax has the faster exponential; the scale is its log-sum-exp."""
    m = logits.new_empty(logits.shape, dtype=torch.promote_types(logits.dtype, torch.float32))
    size = _block_rows(m, _SMALL)
    top, share = m.new_empty(2, len(m))
    buffer = m.new_empty(min(size, len(m)), m.shape[1])
    for x, m_, top_, share_ in zip(*(torch.split(y, size) for y in (logits, m, top, share)), strict=True):
        softmax_into(x, temperature, z=buffer[: len(x)], p=m_, top=top_, share=share_)
    return m, top - share.log()


def _block_rows(m: Tensor, numbers: int) -> int:
    """Rows that are taken together: on a CPU those that stay in the cache, else all."""
    return max(numbers // m.shape[1] if m.device.type == "cpu" else len(m), 1)


def _logarithms(x: Tensor, rows: int, columns: int, iterations: int, group: Group | None) -> Tensor:
    v = x.new_zeros(len(x))  # logarithms of the vectors
    u = x.new_zeros(columns)
    for _ in range(iterations):
        u = -(_all_logsumexp(x + v[:, None], group) + math.log(columns))
        v = -((x + u).logsumexp(dim=1) + math.log(max(rows, 1)))
    if iterations == 0:
        return (x - _all_logsumexp(x, group).logsumexp(dim=0) + math.log(max(rows, 1))).exp()
    return (x + u).softmax(dim=1)  # the last half step, without the rounding of large logarithms


def _all_sum(x: Tensor, group: Group | None) -> Tensor:
    if group is not None:
        dist.all_reduce(x, group=group)
    return x


def _all_max(x: Tensor, group: Group | None) -> Tensor:
    largest = x.amax() if x.numel() else x.new_full((), -torch.inf)
    if group is not None:
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    return largest if x.numel() else largest.nan_to_num()


def _all_logsumexp(x: Tensor, group: Group | None) -> Tensor:
    """Over the rows of all processes: [dim]."""
    largest = x.amax(dim=0) if len(x) else x.new_full((x.shape[1],), -torch.inf)
    if group is not None:
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    return _all_sum((x - largest).exp().sum(dim=0), group).log() + largest
