"""Boxes from recorded draws: the public samplers, sample by sample, for whoever has to reproduce their masks bit for bit."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from sslkit._checks import wrong
from sslkit.maskers.mask import TokenMask

UNIFORM, INTEGER = 0, 1  # kinds of a draw


class Recorded:
    """The draws of one mask in the order of the calls; they must be those that the options ask for, all of them.

    Args:
        where: the caller's name, for errors.
        draws: [draws, 4] rows (kind, low, high, value), kind 0 = floating in [low, high], 1 = integer in low..high; or [draws] values.
    """

    def __init__(self, where: str, draws: Any) -> None:
        rows = torch.as_tensor(draws, dtype=torch.float64)
        if rows.ndim not in (1, 2) or (rows.ndim == 2 and rows.shape[1] != 4):
            raise wrong(where, given=f"draws {list(rows.shape)}", expected="[draws, 4], rows (kind, low, high, value), or [draws] values",
                        mend="pass the draws of one mask")  # fmt: skip
        self.where, self.rows, self.used = where, rows.tolist(), 0

    def uniform(self, low: float, high: float) -> float:
        return self._next(UNIFORM, low, high)

    def integer(self, low: int, high: int) -> int:
        return int(self._next(INTEGER, low, high))

    def finish(self) -> None:
        if self.used < len(self.rows):
            raise wrong(self.where, given=f"{len(self.rows)} draws, {self.used} of them used", expected="draws of one mask",
                        mend="pass the options that they were recorded with, and one mask's draws at a time")  # fmt: skip

    def _next(self, kind: int, low: float, high: float) -> float:
        asked = f"{('a float in', 'an integer in')[kind]} [{low:g}, {high:g}]"
        if self.used == len(self.rows):
            raise wrong(self.where, given=f"{self.used} draws", expected=f"one more, {asked}", mend="pass all draws of the mask")
        row = self.rows[self.used]
        value = row[-1] if isinstance(row, list) else row
        right = min(low, high) <= value <= max(low, high) and (kind == UNIFORM or value == int(value))
        if isinstance(row, list):
            right &= row[0] == kind and math.isclose(row[1], low, abs_tol=1e-6) and math.isclose(row[2], high, abs_tol=1e-6)
        if not right:
            raise wrong(self.where, given=f"draw {self.used} as {row}", expected=asked, mend="pass the options it was recorded with")
        self.used += 1
        return float(value)


def replayed(
    draws: Recorded, grid: tuple[int, ...], target: int, tries: int, room: Callable[[int], int],
    box: Callable[[Recorded, int], Sequence[slice] | None],
) -> TokenMask:  # fmt: skip
    """The mask [1, tokens] that these draws give. box(draws, hidden): the next box, or None if it does not fit."""
    mask = torch.zeros(grid, dtype=torch.bool)
    hidden, placed = 0, True
    while hidden < target and placed:
        placed = False
        for _ in range(tries):
            found = box(draws, hidden)
            if found is None:
                continue
            new = int((~mask[tuple(found)]).sum())
            if 0 < new <= room(hidden):
                mask[tuple(found)] = True
                hidden, placed = hidden + new, True
                break
    draws.finish()
    return TokenMask(mask.view(1, -1), grid)


def recorded_sides(draws: Recorded, low: int, high: int, min_aspect: float) -> tuple[int, int]:
    """Height and width of a rectangle: area, then log-aspect are drawn; Python's round, half to even, as in the public code."""
    area = draws.uniform(low, high)
    aspect = math.exp(draws.uniform(math.log(min_aspect), -math.log(min_aspect)))
    return round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
