"""Exact nearest rows by cosine similarity, in bounded memory."""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from sslkit._checks import bind_axes, need_floating, need_whole
from sslkit.evaluation._accuracy import need_finite


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest rows of every query, by falling similarity."""

    ids: Tensor  # [queries, k], int64, rows of the database
    similarity: Tensor  # [queries, k], cosine in [-1, 1] up to rounding

    def __str__(self) -> str:
        return f"{self.ids.shape[1]} nearest rows of {self.ids.shape[0]} queries, by cosine"


@torch.no_grad()
def nearest_neighbours(queries: Tensor, database: Tensor, k: int = 20, *, chunk: int = 1024, shard: int = 16384) -> Neighbours:
    """The k rows of `database` with the largest cosine to every query.

        ids[q] = the k ids d with the largest  sum over i of queries[q, i] database[d, i] / (|queries[q]| |database[d]|)

    The search is exact. No [queries, database] matrix is made: rows pass by in shards, and a running list holds the best.
    Working memory beyond inputs and result: chunk * shard similarities, and one normalised copy of `shard` rows. Neither size
    changes the answer, but rows that tie at the k-th place may be taken either way.

    Args:
        queries: [queries, dim], floating.
        database: [database, dim], floating; may include the queries, which then find themselves first.
        k: neighbours asked for; of a smaller database all rows are returned.
        chunk: queries compared at once.
        shard: rows compared at once; with the default chunk, 64 MiB of similarities in float32.

    Returns:
        Neighbours with min(k, database) columns. The similarity is float32, float64 if an input is. A zero row has similarity
        0 to all.

    Raises:
        TypeError: an input is not floating.
        ValueError: the dims or devices differ, k, chunk or shard is no whole number from 1 on, or a row holds nan or inf.
    """
    where = "nearest_neighbours"
    sizes = bind_axes(where, queries=(queries, "queries dim"), database=(database, "database dim"))
    need_floating(where, queries=queries, database=database)
    need_whole(where, k=k, chunk=chunk, shard=shard)
    need_finite(where, queries=queries, database=database)
    k = min(k, sizes["database"])
    wide = torch.promote_types(torch.promote_types(queries.dtype, database.dtype), torch.float32)
    best = queries.new_empty(sizes["queries"], k, dtype=wide)
    ids = queries.new_empty(sizes["queries"], k, dtype=torch.int64)
    # one buffer for all products: a fresh one of this size costs as much in page faults as a pass over it.
    buffer = queries.new_empty(min(chunk, sizes["queries"]) * min(shard, sizes["database"]), dtype=wide)
    with torch.autocast(queries.device.type, enabled=False):
        for start in range(0, sizes["database"], shard):
            rows = unit_rows(database[start : start + shard], wide)
            seen = min(start, k)  # columns of the running list that are filled
            for first in range(0, sizes["queries"], chunk):
                here = slice(first, min(first + chunk, sizes["queries"]))
                count = here.stop - here.start
                view = buffer[: count * len(rows)].view(count, len(rows))
                torch.mm(unit_rows(queries[here], wide), rows.T, out=view)
                values, columns = _largest(view, min(k, len(rows)))
                if seen:
                    values, columns = torch.cat([best[here, :seen], values], 1), torch.cat([ids[here, :seen], columns + start], 1)
                filled = min(k, values.shape[1])
                values, order = values.topk(filled, dim=1)
                best[here, :filled], ids[here, :filled] = values, columns.gather(1, order)
    return Neighbours(ids, best)


def unit_rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of length 1 in `dtype`; a zero row stays zero."""
    out = torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)
    tiny = torch.finfo(dtype).tiny
    # some rows at a time: each of the passes over a whole bank would go to memory and back.
    block = max(1, 2**17 // max(x.shape[1], 1)) if x.device.type == "cpu" else max(len(x), 1)
    for part, target in zip(torch.split(x, block), torch.split(out, block), strict=True):
        # by the largest entry first: the squares of 1e-30 or 1e30 leave float32.
        largest = part.abs().amax(dim=1, keepdim=True).to(dtype)
        torch.div(part, largest.clamp_(min=tiny), out=target)
        target.div_(torch.linalg.vector_norm(target, dim=1, keepdim=True).clamp_(min=tiny))
    return out


def _largest(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and columns of the k largest entries per row, in any order.

    An entry among the k largest lies in one of the k groups with the largest maxima: were it in another, k maxima would be
    above it. So one pass for the maxima of groups, then a search among groups, then one inside the k groups found: exact, and
    about columns / size + k * size entries are ranked instead of all; size = sqrt(columns / k) makes that least.
    """
    columns = x.shape[1]
    size = min(32, math.isqrt(columns // max(k, 1)))
    if size < 4 or columns < 1024:
        return x.topk(k, dim=1, sorted=False)
    groups = columns // size
    # a group is every `groups`-th column, so that the maximum runs over whole rows of memory.
    maxima = rearrange(x[:, : groups * size], "row (size group) -> row size group", size=size).amax(dim=1)  # [rows, groups]
    chosen = maxima.topk(k, dim=1, sorted=False).indices
    offsets = torch.arange(size, device=x.device)[:, None] * groups
    candidates = (chosen[:, None, :] + offsets).flatten(1)  # [rows, size * k]
    rest = torch.arange(groups * size, columns, device=x.device).expand(len(x), -1)  # columns that fill no group
    candidates = torch.cat([candidates, rest], dim=1)
    values, order = x.gather(1, candidates).topk(k, dim=1, sorted=False)
    return values, candidates.gather(1, order)
