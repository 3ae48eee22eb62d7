"""Which tokens of each sample are hidden, and what is done with them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import GetAttrKey, register_pytree_node
from torch.utils.data._utils.collate import default_collate_fn_map

from sslkit._checks import bind_axes, wrong
from sslkit.kernels import gather_tokens, replace_tokens, scatter_tokens
from sslkit.maskers._places import places

Device = torch.device | str


@dataclass(frozen=True, eq=False, repr=False)
class TokenMask:
    """The hidden tokens of a batch: a bool mask, or the ids of the visible tokens, whichever one asks for.

        grid (2, 3)     tokens  0 1 2     mask[b]  . # #     ids_keep[b]   [0, 4]        # = hidden = True
                                3 4 5              # . #     ids_hidden[b] [1, 2, 3, 5]

    Maskers build it from the ids of visible tokens, so the count is known and nothing synchronises. Built from a bool mask by hand,
    it looks at the mask's values once, when ids are first asked for; under `torch.compile` build it by `from_ids_keep`.

    It is compared by identity, a registered pytree, and moves with `.to`, `pin_memory`, pickle and the DataLoader's collate
    (which joins batches of masks on one grid; see `collate`).

    Args:
        mask: [batch, tokens], bool, True = hidden; rows may hide different numbers of tokens, as long as no ids are asked for.
        grid: tokens along each axis, (h, w) or (t, h, w), row-major; class and register tokens are not counted.

    Raises:
        ValueError: mask is not bool or does not fill the grid.
    """

    mask: Tensor
    grid: tuple[int, ...]
    _ids_keep: Tensor | None = field(default=None, init=False)
    _ids_hidden: Tensor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", check_grid("TokenMask", self.grid))
        bind_axes("TokenMask", mask=(self.mask, f"batch {math.prod(self.grid)}"))
        if self.mask.dtype != torch.bool:
            raise wrong("TokenMask", given=f"mask of dtype {self.mask.dtype}", expected="torch.bool, True = hidden",
                        mend="write mask.bool(), or ~mask.bool() if yours marks the visible tokens")  # fmt: skip

    @staticmethod
    def from_ids_keep(ids: Tensor, grid: tuple[int, ...]) -> "TokenMask":
        """The mask that leaves these tokens visible: ids [batch, kept], int64 or int32, unique inside a row; they are sorted.

        Raises:
            ValueError: more ids than tokens.
            TypeError: ids are not int64 or int32.
        """
        grid = check_grid("TokenMask.from_ids_keep", grid)
        tokens = math.prod(grid)
        batch, kept = bind_axes("TokenMask.from_ids_keep", ids=(ids, "batch kept")).values()
        if ids.dtype not in (torch.int64, torch.int32):
            raise wrong("TokenMask.from_ids_keep", given=f"ids of dtype {ids.dtype}", expected="int64 or int32", mend="pass ids.long()",
                        kind=TypeError)  # fmt: skip
        if kept > tokens:
            raise wrong("TokenMask.from_ids_keep", given=f"{kept} ids a row", expected=f"at most {tokens}, the tokens of grid {grid}",
                        mend="pass the grid that the ids belong to")  # fmt: skip
        ids = ids.long().sort(dim=1).values
        return known(torch.ones(batch, tokens, dtype=torch.bool, device=ids.device).scatter_(1, ids, False), ids, grid)

    @property
    def ids_keep(self) -> Tensor:
        """The visible tokens: int64 [batch, kept], ascending. ValueError if rows differ in count."""
        if self._ids_keep is None:
            object.__setattr__(self, "_ids_keep", places(~self.mask, self.mask.shape[1] - self._hidden_count()))
        return self._ids_keep  # type: ignore[return-value]

    @property
    def ids_hidden(self) -> Tensor:
        """The hidden tokens: int64 [batch, hidden], ascending. ValueError if rows differ in count."""
        if self._ids_hidden is None:
            object.__setattr__(self, "_ids_hidden", places(self.mask, self._hidden_count()))
        return self._ids_hidden  # type: ignore[return-value]

    def keep(self, x: Tensor, prefix: int = 0) -> Tensor:
        """The visible tokens of x [batch, prefix + tokens, dim]: [batch, prefix + kept, dim]; `prefix` tokens in front pass through."""
        return gather_tokens(x, self._with_prefix(x, self.ids_keep, prefix))

    def hidden(self, x: Tensor, prefix: int = 0) -> Tensor:
        """The hidden tokens of x [batch, prefix + tokens, dim]: [batch, prefix + hidden, dim]; `prefix` tokens in front pass through."""
        return gather_tokens(x, self._with_prefix(x, self.ids_hidden, prefix))

    def restore(self, visible: Tensor, mask_token: Tensor, prefix: int = 0, *, positions: Tensor | None = None) -> Tensor:
        """visible [batch, prefix + kept, dim] in their places, mask_token [dim] in all others: [batch, prefix + tokens, dim].

        positions [prefix + tokens, dim], if given, are added in the same pass.
        """
        return scatter_tokens(visible, self.ids_keep, self.mask.shape[1], mask_token, positions=positions, prefix=prefix)

    def replace(self, x: Tensor, mask_token: Tensor, prefix: int = 0) -> Tensor:
        """x [batch, prefix + tokens, dim] with mask_token [dim] in the place of hidden tokens; works for rows of any counts."""
        self._check_length(x, prefix)
        mask = torch.nn.functional.pad(self.mask, (prefix, 0)) if prefix else self.mask  # pads with False: visible
        return replace_tokens(x, mask, mask_token)

    def resize(self, grid: tuple[int, ...], reduce: Literal["any", "all"] | None = None) -> "TokenMask":
        """The same mask on another grid of as many axes.

        An axis that grows takes the nearest old token, floor(i * old / new). An axis that shrinks does so by a whole factor; a new
        token then is hidden if any, or if all, of the old ones that it covers are: `reduce` says which.

        Returns:
            A mask of known count where every axis grows by a whole factor and this one's count is known; else one as built by hand.

        Raises:
            ValueError: another number of axes, a factor that is not whole, or a shrinking axis without `reduce`.
        """
        grid = check_grid("TokenMask.resize", grid)
        shrinks = any(new < old for new, old in zip(grid, self.grid, strict=False))
        if len(grid) != len(self.grid) or any(new < old and old % new for new, old in zip(grid, self.grid, strict=False)):
            raise wrong("TokenMask.resize", given=f"grid {grid} from {self.grid}", expected="as many axes, each larger or a whole fraction",
                        mend="go through a common multiple: resize up first, then down")  # fmt: skip
        if reduce not in (None, "any", "all") or (shrinks and reduce is None):
            raise wrong("TokenMask.resize", given=f"grid {grid} from {self.grid} with reduce={reduce!r}", expected='reduce="any" or "all"',
                        mend='pass "any" to hide a token if one of its parts is hidden, "all" if every part is')  # fmt: skip
        mask = self.mask.reshape(-1, *self.grid)
        for axis, (new, old) in enumerate(zip(grid, self.grid, strict=True), start=1):
            if new < old:
                parts = mask.reshape(*mask.shape[:axis], new, old // new, *mask.shape[axis + 1 :])
                mask = parts.any(dim=axis + 1) if reduce == "any" else parts.all(dim=axis + 1)
            elif new > old:
                mask = mask.index_select(axis, torch.arange(new, device=mask.device) * old // new)
        mask = mask.flatten(1)
        if self._ids_keep is None or any(new % old for new, old in zip(grid, self.grid, strict=True)):
            return TokenMask(mask, grid)
        kept = self._ids_keep.shape[1] * (math.prod(grid) // math.prod(self.grid))
        return known(mask, places(~mask, kept), grid)

    def to(self, device: Device, non_blocking: bool = False) -> "TokenMask":
        """The mask on another device."""
        return self._each(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self, device: Device | None = None) -> "TokenMask":
        """The mask in page-locked memory; the DataLoader calls this if told to pin."""
        return self._each(lambda t: t.pin_memory() if device is None else t.pin_memory(device))

    @staticmethod
    def collate(masks: Sequence["TokenMask"]) -> "TokenMask":
        """Joins the rows of several masks on one grid. torch's `default_collate` does this wherever it meets a TokenMask, so that a
        data set may return `masker.for_indices(torch.tensor([i]), grid, seed=...)` beside its image.

        The count of the result is known if that of each part is and all are equal.

        Raises:
            ValueError: no masks, or different grids.
        """
        grids = {m.grid for m in masks}
        if len(grids) != 1:
            raise wrong("TokenMask.collate", given=f"grids {sorted(grids)}", expected="masks on one grid", mend="resize them before")
        mask, ids = torch.cat([m.mask for m in masks]), [m._ids_keep for m in masks]
        if any(i is None for i in ids) or len({i.shape[1] for i in ids if i is not None}) != 1:
            return TokenMask(mask, *grids)
        return known(mask, torch.cat([i for i in ids if i is not None]), *grids)

    def __repr__(self) -> str:
        """Sizes alone: the values may be on a device."""
        count = "" if self._ids_keep is None else f", hidden={self.mask.shape[1] - self._ids_keep.shape[1]}"
        return f"TokenMask(batch={self.mask.shape[0]}, grid={self.grid}{count}, device={str(self.mask.device)!r})"

    def _hidden_count(self) -> int:
        tokens = self.mask.shape[1]
        if self._ids_keep is not None:
            return tokens - self._ids_keep.shape[1]
        if self._ids_hidden is not None:
            return self._ids_hidden.shape[1]
        counts = self.mask.sum(dim=1).tolist()  # the one look at the values
        if len(set(counts)) > 1:
            raise wrong("TokenMask", given=f"rows that hide from {min(counts)} to {max(counts)} tokens", expected="one count in every row",
                        mend="use a masker of exact count, or work with mask= and replace(), which take rows of any count")  # fmt: skip
        return int(counts[0]) if counts else 0

    def _with_prefix(self, x: Tensor, ids: Tensor, prefix: int) -> Tensor:
        self._check_length(x, prefix)
        if not prefix:
            return ids
        return torch.cat([torch.arange(prefix, device=ids.device).expand(ids.shape[0], -1), ids + prefix], dim=1)

    def _check_length(self, x: Tensor, prefix: int) -> None:
        batch, tokens = self.mask.shape
        if x.ndim != 3 or x.shape[0] != batch or prefix < 0 or x.shape[1] != prefix + tokens:
            raise wrong("TokenMask", given=f"x {list(x.shape)} with prefix={prefix}",
                        expected=f"[{batch}, {prefix} + {tokens}, dim] for this mask on grid {self.grid}",
                        mend="pass prefix= the number of class and register tokens in front")  # fmt: skip

    def _each(self, move: Any) -> "TokenMask":
        leaves, context = _flatten(self)
        return _unflatten([move(leaf) for leaf in leaves], context)


def known(mask: Tensor, ids_keep: Tensor, grid: tuple[int, ...]) -> TokenMask:
    """A TokenMask of a mask and its own ids, ascending int64; for maskers, which have both. Nothing is checked or computed."""
    return _unflatten((mask, ids_keep), grid)


def at_all_times(mask: TokenMask, grid: tuple[int, ...]) -> TokenMask:
    """A mask of one frame, (h, w), at all times of grid (t, h, w)."""
    leaves, frame = _flatten(mask)
    return _unflatten(leaves, (1, *frame)).resize(grid)


def check_grid(where: str, grid: tuple[int, ...]) -> tuple[int, ...]:
    """The grid as a tuple of ints.

    Raises:
        ValueError: not two or three positive whole numbers.
    """
    found = tuple(grid) if isinstance(grid, (tuple, list)) else ()
    if len(found) not in (2, 3) or any(int(n) != n or n < 1 for n in found):
        raise wrong(where, given=f"grid {grid}", expected="(h, w) or (t, h, w), positive whole numbers",
                    mend="pass the tokens along each axis, see sslkit.patches.grid_of")  # fmt: skip
    return tuple(int(n) for n in found)


def _flatten(mask: TokenMask) -> tuple[list[Tensor], tuple[int, ...]]:
    return [mask.mask] if mask._ids_keep is None else [mask.mask, mask._ids_keep], mask.grid


def _flatten_with_keys(mask: TokenMask) -> tuple[list[tuple[Any, Tensor]], tuple[int, ...]]:
    leaves, grid = _flatten(mask)
    return [(GetAttrKey(name), leaf) for name, leaf in zip(("mask", "ids_keep"), leaves, strict=False)], grid


def _unflatten(leaves: Iterable[Any], grid: Any) -> TokenMask:
    mask, ids_keep, *_ = (*leaves, None)  # no checks: torch passes leaves that are no tensors
    new = object.__new__(TokenMask)
    for name, value in (("mask", mask), ("grid", grid), ("_ids_keep", ids_keep), ("_ids_hidden", None)):
        object.__setattr__(new, name, value)
    return new


def _collate(masks: Sequence[TokenMask], *, collate_fn_map: Any = None) -> TokenMask:
    return TokenMask.collate(masks)


register_pytree_node(TokenMask, _flatten, _unflatten, flatten_with_keys_fn=_flatten_with_keys,
                     serialized_type_name="sslkit.maskers.TokenMask", to_dumpable_context=list, from_dumpable_context=tuple)  # fmt: skip
default_collate_fn_map[TokenMask] = _collate
