"""What a bank of rows is asked without a [queries, rows] matrix: the mean under a softmax, and the nearest rows.

Both go through the bank in slabs that stay in the cache, and are registered operators, so that a compiled graph has one node for each.
"""

import math
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from sslkit._checks import wrong

_GROUP = 32  # rows whose largest coarse similarity is kept
# What bf16 adds to the error of a coarse similarity below 1, beside that of its two vectors: half a unit in its last place; and some
# for sums in float32 and lengths that are 1 up to rounding.
_ROUNDING = 2.0**-9 + 2.0**-12


def softmax_mean(queries: Tensor, rows: Tensor, filled: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """s[b, j] = <queries[b], unit(rows[j])>  ->  log sum over j of exp s[b, j],  and  sum over j of softmax(s[b])[j] unit(rows[j])

    [batch] and [batch, dim]. The second is the gradient of the first; it is kept for the backward pass, and the rows are not: they may
    be overwritten.

    Args:
        queries: [batch, dim], divided by the temperature, float32 or float64.
        rows: [rows, dim], floating; no gradient flows back.
        filled: no dimension, int64: the rows from this number on do not count; 0 or None: all count.

    No row at all: -inf, and a mean of 0.
    """
    lse, mean = torch.ops.sslkit.softmax_mean(queries, rows.detach(), filled)
    return lse, mean


def nearest_rows(queries: Tensor, rows: Tensor, k: int = 1, filled: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k rows with the largest inner product: (similarity, ids), both [batch, k], by falling similarity.

    Args:
        queries: [batch, dim] of length 1, float32 or float64.
        rows: [rows, dim] of length 1.
        k: at most the number of rows.
        filled: as above. Places for which no row is left hold the nearest once more.

    Of equal similarities the first wins. A CPU whose matrix units multiply bfloat16 looks there first, for k = 1, and again in
    float32 wherever the bound of the rounding leaves a doubt: the answer is the same.
    """
    similarity, ids = torch.ops.sslkit.nearest_rows(queries, rows.detach(), k, filled)
    return similarity, ids


def _counted(rows: Tensor, filled: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The rows that count, and what is added to the similarity of each, or None."""
    if filled is None:
        return rows, None
    if rows.device.type == "cpu":  # where looking costs nothing
        count = int(filled)
        return rows[: count or len(rows)], None
    hidden = (torch.arange(len(rows), device=rows.device) >= filled) & (filled > 0)
    return rows, torch.zeros(len(rows), device=rows.device).masked_fill(hidden, -torch.inf)


def _slabs(batch: int, rows: Tensor, numbers: int) -> Iterator[tuple[int, Tensor]]:
    """(first row, slab), about `numbers` similarities each."""
    size = max(_GROUP, numbers // max(batch, 1) // _GROUP * _GROUP)
    for start in range(0, len(rows), size):
        yield start, rows[start : start + size]


def _numbers(x: Tensor) -> int:
    return 2**18 if x.device.type == "cpu" else 2**24  # 1 MiB, a cache's; 64 MiB


@torch.library.custom_op(
    "sslkit::softmax_mean", mutates_args=(), schema="(Tensor queries, Tensor rows, Tensor? filled) -> (Tensor, Tensor)"
)
def _softmax_mean(queries: Tensor, rows: Tensor, filled: Tensor | None) -> tuple[Tensor, Tensor]:
    rows, bias = _counted(rows, filled)
    batch, dim = queries.shape
    queries = queries * math.log2(math.e)  # exp x = 2^(x log2 e), and powers of two are the faster ones
    # |s| <= |query|: small enough, no power overflows, nor do their sums, and no largest one need be looked for. A CPU may ask.
    bounded = queries.device.type == "cpu" and bool((torch.linalg.vector_norm(queries, dim=1) < 80).all())
    top = queries.new_zeros(batch) if bounded else queries.new_full((batch,), torch.finfo(queries.dtype).min)
    total, mean = torch.zeros_like(top), torch.zeros_like(queries)
    buffer, unit = queries.new_empty(0), queries.new_empty(0, dim)
    with torch.autocast(queries.device.type, enabled=False):
        for start, slab in _slabs(batch, rows, _numbers(queries)):
            size = len(slab)
            if start == 0:
                buffer, unit = queries.new_empty(batch * size), queries.new_empty(size, dim)
            slab = slab.to(queries.dtype)
            slab = torch.div(slab, torch.linalg.vector_norm(slab, dim=1, keepdim=True).clamp_(min=1e-6), out=unit[:size])
            s = torch.mm(queries, slab.T, out=buffer[: batch * size].view(batch, size))
            if bias is not None:
                s += bias[start : start + size]
            if not bounded:
                higher = torch.maximum(top, s.amax(dim=1))
                s, shrunk, top = s.sub_(higher[:, None]), top.sub_(higher).exp2_(), higher
                total, mean = total.mul_(shrunk), mean.mul_(shrunk[:, None])
            total.add_(s.exp2_().sum(dim=1))
            mean.addmm_(s, slab)
    tiny = torch.finfo(total.dtype).tiny
    return total.log2().add_(top).mul_(math.log(2)), mean.div_(total.clamp(min=tiny)[:, None])


@_softmax_mean.register_fake
def _(queries: Tensor, rows: Tensor, filled: Tensor | None) -> tuple[Tensor, Tensor]:
    return queries.new_empty(queries.shape[0]), torch.empty_like(queries, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1])


def _gradient(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, None, None]:
    (mean,) = ctx.saved_tensors
    if type(grad) is Tensor and not torch.compiler.is_compiling() and torch.is_grad_enabled():
        raise wrong("negatives", given="a gradient of the loss's gradient (create_graph=True)", expected="one derivative",
                    mend="write the loss over queries @ negatives.T there", kind=RuntimeError)  # fmt: skip
    return None if grad is None else grad[:, None] * mean, None, None


_softmax_mean.register_autograd(_gradient, setup_context=_save)


@torch.library.custom_op(
    "sslkit::nearest_rows", mutates_args=(), schema="(Tensor queries, Tensor rows, int k, Tensor? filled) -> (Tensor, Tensor)"
)
def _nearest_rows(queries: Tensor, rows: Tensor, k: int, filled: Tensor | None) -> tuple[Tensor, Tensor]:
    rows, bias = _counted(rows, filled)
    with torch.autocast(queries.device.type, enabled=False):
        if k > 1:
            return _several(queries, rows, k, bias)
        if queries.dtype == torch.float32 and len(queries) >= 16 and len(rows) >= 4096 and rows.device.type == "cpu" and _fast_bf16():
            similarity, ids = _certified(queries, rows)
        else:
            similarity, ids = _plain(queries, rows, bias)
        return similarity[:, None], ids[:, None]


@_nearest_rows.register_fake
def _(queries: Tensor, rows: Tensor, k: int, filled: Tensor | None) -> tuple[Tensor, Tensor]:
    shape = queries.shape[0], k
    return queries.new_empty(shape), queries.new_empty(shape, dtype=torch.int64)


@cache
def _fast_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 so much faster that looking twice pays: with AMX, not with AVX-512's instructions for it.

    A torch without `get_capabilities` does not say: then the plain search, whose answer is the same.
    """
    named: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(named.get("amx_bf16", False))


def _plain(queries: Tensor, rows: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    best, ids = queries.new_full((len(queries),), -torch.inf), queries.new_zeros(len(queries), dtype=torch.int64)
    buffer = queries.new_empty(0)
    for start, slab in _slabs(len(queries), rows, _numbers(queries)):
        count = len(queries) * len(slab)
        buffer = buffer if len(buffer) >= count else queries.new_empty(count)
        s = torch.mm(queries, slab.to(queries.dtype).T, out=buffer[:count].view(len(queries), len(slab)))
        if bias is not None:
            s += bias[start : start + len(slab)]
        if start == 0:
            best, ids = s.max(dim=1)  # like argmax, and unlike topk, torch's max promises the first of equals
        elif s.device.type == "cpu":  # where the largest is found ten times faster than its place: that only for the few that rise
            values = s.amax(dim=1)
            better = (values > best).nonzero()[:, 0]  # not >=: of equals the first stays, whatever the size of a slab
            best[better], ids[better] = values[better], s[better].argmax(dim=1) + start
        else:
            values, places = s.max(dim=1)
            better = values > best
            best, ids = torch.where(better, values, best), torch.where(better, places + start, ids)
    return best, ids


def _several(queries: Tensor, rows: Tensor, k: int, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    best, ids = queries.new_full((len(queries), k), -torch.inf), queries.new_zeros(len(queries), k, dtype=torch.int64)
    for start, slab in _slabs(len(queries), rows, _numbers(queries)):
        s = queries @ slab.to(queries.dtype).T
        if bias is not None:
            s += bias[start : start + len(slab)]
        # a CPU may look: then only at the queries for which something rises
        rising = (~(s.amax(dim=1) <= best[:, -1])).nonzero()[:, 0] if s.device.type == "cpu" else slice(None)
        values, places = _largest(s[rising], min(k, len(slab)))
        # stable: of equals those of the slabs before stay in front
        values, order = torch.cat([best[rising], values], dim=1).sort(dim=1, descending=True, stable=True)
        best[rising], ids[rising] = values[:, :k], torch.cat([ids[rising], places + start], dim=1).gather(1, order[:, :k])
    found = best > -torch.inf
    return best.where(found, best[:, :1]), ids.where(found, ids[:, :1])


def _largest(s: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row and their places, by falling value; of equals the first, which topk leaves open."""
    values, places = s.topk(min(k + 1, s.shape[1]), dim=1)
    least, beyond, places = values[:, k - 1 : k], values[:, k:], places[:, :k]
    if s.device.type != "cpu" or bool((beyond == least).any()):  # more equals than places; only a CPU may look
        above, equal = ~(s <= least), s == least  # a nan is above all, as for topk
        first = equal.cumsum(dim=1, dtype=torch.int32) <= k - above.sum(dim=1, keepdim=True)
        falling = torch.arange(s.shape[1], 0, -1, dtype=torch.int32, device=s.device)
        places = ((above | equal & first) * falling).topk(k, dim=1).indices  # no two alike
    places = places.sort(dim=1).values
    values, order = s.gather(1, places).sort(dim=1, descending=True, stable=True)
    return values, places.gather(1, order)


def _certified(queries: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """`_plain`, on a CPU: bf16 says which groups of rows may hold the nearest one, float32 looks into these.

    |<z, q> - min(coarse, 1)| <= |z - bf16(z)| + |q - bf16(q)| + _ROUNDING, by Cauchy and Schwarz. So the coarse similarity of the nearest
    row is at least the largest coarse one minus twice that, and every group below is left out.
    """
    batch, dim = queries.shape
    whole = len(rows) // _GROUP * _GROUP
    coarse = queries.bfloat16()
    own = torch.linalg.vector_norm(queries - coarse, dim=1)  # [batch]
    theirs = own.new_zeros(())
    tops = torch.empty(batch, whole // _GROUP, dtype=torch.int16)
    first, step = torch.empty(2, whole // _GROUP, dtype=torch.int64)  # a group is the rows first + i * step
    slabs = list(_slabs(batch, rows[:whole], 2**19))
    size = len(slabs[0][1])
    buffer, narrow, lost = coarse.new_empty(batch * size), coarse.new_empty(size, dim), rows.new_empty(size, dim)
    for start, slab in slabs:
        size, groups = len(slab), len(slab) // _GROUP
        s = torch.mm(coarse, narrow[:size].copy_(slab).T, out=buffer[: batch * size].view(batch, size))
        if rows.dtype != torch.bfloat16:
            torch.sub(slab, narrow[:size], out=lost[:size])
            theirs = torch.maximum(theirs, torch.linalg.vector_norm(lost[:size], dim=1).amax())
        here = slice(start // _GROUP, start // _GROUP + groups)
        # positive bf16 numbers are ordered as the integers of their bits, whose maximum a CPU finds faster.
        torch.amax(s.view(torch.int16).view(batch, _GROUP, groups), dim=1, out=tops[:, here])
        first[here], step[here] = torch.arange(start, start + groups), groups
    top = tops.amax(dim=1).view(torch.bfloat16).float().clamp(max=1)
    doubt = 2 * (own + theirs + _ROUNDING)  # [batch]
    least = ((top - doubt).view(torch.int32) >> 16).to(torch.int16)  # the bits of bf16, rounded down
    candidates = tops >= least[:, None]
    # no certificate: not positive, not finite, or so many equals that looking into them costs more than all of it.
    unsure = ~(top > doubt) | ~top.isfinite() | (candidates.sum(dim=1) > 16)
    query, group = (candidates & ~unsure[:, None]).nonzero(as_tuple=True)
    inside = torch.arange(_GROUP)
    best, ids = queries.new_full((batch,), -torch.inf), torch.full((batch,), len(rows))
    found: list[tuple[Tensor, Tensor]] = []
    for q, g in zip(torch.split(query, 32), torch.split(group, 32), strict=True):
        members = first[g, None] + inside * step[g, None]  # [32, group]
        block = rows.index_select(0, members.flatten()).view(len(g), _GROUP, dim).to(queries.dtype)
        values, places = torch.bmm(block, queries[q, :, None])[:, :, 0].max(dim=1)
        found.append((values, members.gather(1, places[:, None])[:, 0]))
    values, members = (torch.cat(part) for part in zip(*found, strict=True)) if found else (best[:0], ids[:0])
    best.scatter_reduce_(0, query, values, "amax")
    ids.scatter_reduce_(0, query, members.where(values == best[query], len(rows)), "amin")  # of equals the first
    if whole < len(rows):
        values, places = _plain(queries, rows[whole:], None)
        better = values > best
        best, ids = values.where(better, best), (places + whole).where(better, ids)
    if bool(unsure.any()):
        best[unsure], ids[unsure] = _plain(queries[unsure], rows, None)
    return best, ids
