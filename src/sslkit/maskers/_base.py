"""What every masker shares: the two ways to draw, and the checks of grids, ratios and counts.

mask = masker(batch, grid, generator=...)               drawn from torch's generator
mask = masker.for_indices(indices, grid, seed=..., epoch=...)   each row a function of (seed, epoch, its index)
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sslkit._checks import wrong
from sslkit.counter import uniforms
from sslkit.maskers.mask import TokenMask, check_grid

# The slots of a sample's draws that belong to its mask: an augmentation of the same sample, seed and epoch takes its own from slot 0 on.
OFFSET = 1 << 20


class Masker(ABC):
    """Base of the frozen dataclasses here. A subclass gives `slots` and `from_uniforms`: a mask is a pure function of uniform numbers."""

    @abstractmethod
    def slots(self, grid: tuple[int, ...]) -> int:
        """How many uniform numbers a row uses. Raises a ValueError for a grid on which the masker cannot hold what it states."""

    @abstractmethod
    def from_uniforms(self, u: Tensor, grid: tuple[int, ...]) -> TokenMask:
        """u: [batch, slots(grid)] in [0, 1), float32. Row b of the mask depends on row b of u alone."""

    def __call__(
        self, batch: int, grid: tuple[int, ...], *, generator: torch.Generator | None = None, device: torch.device | str | None = None
    ) -> TokenMask:
        """Draws the masks of a batch.

        Args:
            batch: rows, 0 or more.
            grid: tokens along each axis: (h, w) or (t, h, w).
            generator: torch's source of numbers; None is torch's global one.
            device: of the mask; default: the generator's, or torch's default device. A generator draws where it lives.

        Raises:
            ValueError: batch is negative, or the grid is not made of two or three positive whole numbers.
        """
        grid = check_grid(type(self).__name__, grid)
        u = batch_uniforms(type(self).__name__, batch, self.slots(grid), generator, device)
        return moved(self.from_uniforms(u, grid), device)

    def for_indices(
        self, indices: Tensor, grid: tuple[int, ...], *, seed: int, epoch: int = 0, device: torch.device | str | None = None
    ) -> TokenMask:
        """The masks of these samples: a row is a function of (seed, epoch, index) and of nothing else, on any number of processes.

        Args:
            indices: [batch] integers, the samples' places in the data set.
            grid: tokens along each axis: (h, w) or (t, h, w).
            seed: of the run.
            epoch: another epoch, another mask.
            device: of the mask; default: that of indices.

        Raises:
            ValueError: indices have more than one axis, or the grid is not made of two or three positive whole numbers.
            TypeError: indices are not integers.
        """
        grid = check_grid(type(self).__name__, grid)
        u = index_uniforms(type(self).__name__, indices, self.slots(grid), seed, epoch)
        return moved(self.from_uniforms(u, grid), device)


def batch_uniforms(where: str, batch: int, slots: int, generator: torch.Generator | None, device: torch.device | str | None) -> Tensor:
    """The numbers of a batch, [batch, slots]: drawn where the generator lives, without one on `device`."""
    if batch < 0:
        raise wrong(where, given=f"batch={batch}", expected="0 or more", mend="pass the number of samples")
    return uniforms(batch, slots, generator=generator, device=device if generator is None else None)


def index_uniforms(where: str, indices: Tensor, slots: int, seed: int, epoch: int) -> Tensor:
    """The numbers of these samples, [len(indices), slots], on their device."""
    if indices.ndim != 1:
        raise wrong(f"{where}.for_indices", given=f"indices {list(indices.shape)}", expected="[batch]", mend="pass one index per sample")
    return uniforms(len(indices), slots, indices=indices, seed=seed, epoch=epoch, offset=OFFSET)


def moved(mask: TokenMask, device: torch.device | str | None) -> TokenMask:
    """The mask on `device`; None: where it is."""
    return mask if device is None or mask.mask.device == torch.device(device) else mask.to(device)


def row_keys(u: Tensor) -> Tensor:
    """[batch, 2] uniform numbers -> int64 [batch] in 0..2**32-1: the key of a row that takes its numbers from `counter.bits`."""
    return ((u[:, 0] * 2**24).long() << 8) | (u[:, 1] * 2**8).long()


def check_axes(where: str, grid: tuple[int, ...], axes: int, mend: str) -> None:
    """Raises a ValueError unless the grid has that many axes."""
    if len(grid) != axes:
        raise wrong(where, given=f"grid {grid}", expected="(h, w)" if axes == 2 else "(t, h, w)", mend=mend)


def check_ratio(where: str, ratio: float) -> None:
    """Raises a ValueError unless ratio lies in [0, 1)."""
    if not 0 <= ratio < 1:
        raise wrong(where, given=f"ratio={ratio}", expected="a ratio in [0, 1), the fraction hidden",
                    mend="divide percentages by 100; pass count= to hide every token")  # fmt: skip


def check_aspect(where: str, min_aspect: float) -> None:
    """Raises a ValueError unless min_aspect lies in (0, 1]."""
    if not 0 < min_aspect <= 1:
        raise wrong(where, given=f"min_aspect={min_aspect}", expected="above 0 and at most 1", mend="pass the smaller of the two")


def check_count(where: str, count: int | None) -> None:
    """Raises a ValueError unless count is None or a whole number from 0 on."""
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
        raise wrong(
            where, given=f"count={count!r}", expected="a whole number from 0 on", mend="pass the number of hidden tokens, or ratio="
        )


def hidden_count(where: str, ratio: float, count: int | None, grid: tuple[int, ...]) -> int:
    """count if given, else round(ratio * tokens); never int(tokens * (1 - ratio)): 100 * (1 - 0.9) is a little below 10.

    Raises:
        ValueError: count is larger than the grid.
    """
    tokens = math.prod(grid)
    if count is None:
        return round(ratio * tokens)
    if count > tokens:
        raise wrong(where, given=f"count={count} on grid {grid}", expected=f"at most {tokens}, its tokens", mend="pass a smaller count")
    return count
