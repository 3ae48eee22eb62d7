"""Tokens of a batch as rows of one table: the addressing that the references share."""

import torch
from torch import Tensor

from sslkit._checks import wrong


def row_numbers(ids: Tensor, tokens: int, pitch: int) -> Tensor:
    """[batch, kept] ids -> [batch * kept] row numbers  b * pitch + ids[b, k], int64.

    An id outside 0..tokens-1 would be a row of another sample: it becomes -1, which torch's indexing refuses on every device.
    """
    rows = ids + torch.arange(ids.shape[0], device=ids.device)[:, None] * pitch
    return rows.masked_fill((ids < 0) | (ids >= tokens), -1).flatten()


def table(x: Tensor) -> tuple[Tensor, int]:
    """x [batch, tokens, dim] as (rows [-1, dim], pitch): token n of sample b is row b * pitch + n. x[:, 1:] is not copied."""
    batch, tokens, dim = x.shape
    along, down, across = x.stride()
    if x.numel() and down and across == 1 and along >= 0 and along % down == 0:
        pitch = along // down
        return x.as_strided(((batch - 1) * pitch + tokens, dim), (down, 1)), pitch
    return x.reshape(batch * tokens, dim), tokens


def with_prefix(ids: Tensor, prefix: int) -> Tensor:
    """The ids of a sequence with `prefix` further tokens in front, which are all kept: [batch, prefix + kept]."""
    if not prefix:
        return ids
    front = torch.arange(prefix, device=ids.device, dtype=ids.dtype).expand(ids.shape[0], -1)
    return torch.cat([front, (ids + prefix).masked_fill(ids < 0, -1)], dim=1)  # an id below 0 must not become a prefix token


def inverse(ids: Tensor, tokens: int) -> Tensor:
    """[batch, tokens], int32: where each token stands in ids [batch, kept], and `kept` for those that are not in it."""
    batch, kept = ids.shape
    places = torch.arange(kept, dtype=torch.int32, device=ids.device).expand(batch, -1)
    return torch.full((batch, tokens), kept, dtype=torch.int32, device=ids.device).scatter_(1, ids.long(), places)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums are formed in: float32, or float64 for itself."""
    return torch.promote_types(dtype, torch.float32)


def sum_where(mask: Tensor, x: Tensor) -> Tensor:
    """Sum over (b, n) with mask[b, n] of x[b, n]: [dim], float32 or wider. One pass over x.

    Each sample is a product of its mask with its tokens, and the batch is summed after: one long product over all rows would lose a digit.
    """
    if not x.numel():
        return x.new_zeros(x.shape[2], dtype=wide(x.dtype))
    with torch.autocast(x.device.type, enabled=False):
        return torch.bmm(mask[:, None].to(wide(x.dtype)), x.to(wide(x.dtype))).sum(dim=(0, 1))


def need_ids(where: str, name: str, ids: Tensor) -> None:
    """Raises a TypeError unless ids are int64 or int32."""
    if ids.dtype not in (torch.int64, torch.int32):
        raise wrong(where, given=f"{name} of dtype {ids.dtype}", expected="int64 or int32",
                    mend=f"pass {name}.long(), the places of tokens", kind=TypeError)  # fmt: skip


def as_table(where: str, name: str, rows: Tensor | None, like: Tensor, count: int | None = None) -> Tensor | None:
    """rows [count, dim] or [1, count, dim] -> [count, dim], checked against like [batch, tokens, dim]."""
    if rows is None:
        return None
    if not isinstance(rows, Tensor):
        raise wrong(where, given=f"{name} of type {type(rows).__name__}", expected="a tensor or None", mend="pass a tensor", kind=TypeError)
    flat = rows[0] if rows.ndim == 3 and rows.shape[0] == 1 else rows
    length = "any" if count is None else count
    if flat.ndim != 2 or flat.shape[1] != like.shape[2] or (count is not None and flat.shape[0] != count):
        raise wrong(where, given=f"{name} {list(rows.shape)}", expected=f"[{length}, {like.shape[2]}], the same for every sample",
                    mend="pass one row per token, of the tokens' dim")  # fmt: skip
    return _on_device(where, name, flat, like)


def as_row(where: str, name: str, row: Tensor, like: Tensor) -> Tensor:
    """row [dim], or with axes of length 1 before it, as parameters often have -> [dim], checked against like [batch, tokens, dim]."""
    if not isinstance(row, Tensor):
        raise wrong(where, given=f"{name} of type {type(row).__name__}", expected="a tensor [dim]", mend="pass a tensor", kind=TypeError)
    dim = like.shape[2]
    if not row.ndim or row.shape[-1] != dim or any(extent != 1 for extent in row.shape[:-1]):
        raise wrong(where, given=f"{name} {list(row.shape)}", expected=f"[{dim}] or [1, 1, {dim}], as the tokens have dim={dim}",
                    mend="pass one vector of the tokens' dim")  # fmt: skip
    return _on_device(where, name, row.reshape(dim), like)


def _on_device(where: str, name: str, tensor: Tensor, like: Tensor) -> Tensor:
    if tensor.device != like.device:
        raise wrong(where, given=f"{name} on {tensor.device}", expected=f"{like.device}, where the tokens are",
                    mend=f"move it: {name}.to({like.device.type!r})")  # fmt: skip
    return tensor


def fresh(like: Tensor, dtype: torch.dtype | None, *shape: int) -> Tensor:
    """What a fake gives for a gradient: an empty tensor of this shape, of no entries where the gradient is not asked for (dtype None)."""
    return like.new_empty(0) if dtype is None else like.new_empty(*shape, dtype=dtype)
