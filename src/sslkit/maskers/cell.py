"""Squares of tokens hidden at random."""

from dataclasses import dataclass

from torch import Tensor

from sslkit._checks import need_whole, wrong
from sslkit.maskers._base import Masker, check_ratio
from sslkit.maskers.mask import TokenMask
from sslkit.maskers.random import RandomMasker


@dataclass(frozen=True)
class CellMasker(Masker):
    """Hides whole cell x cell squares, chosen uniformly: round(ratio * cells) of them, cell**2 tokens each.

        cell 2, ratio 0.5      # # . .
                               # # . .        # = hidden
                               . . # #
                               . . # #

    What RandomMasker does on the tokens, on tokens of `cell` times the side. The squares of a clip's frames are drawn one by one;
    `TubeMasker(ratio, CellMasker(cell=...))` has the same ones at all times.

    Args:
        ratio: fraction hidden, in [0, 1).
        cell: side of the squares.

    Raises:
        ValueError: ratio outside [0, 1), a cell below 1; when called, a grid whose height and width are no multiples of it.

    Source: Xie et al. 2022, "SimMIM: A Simple Framework for Masked Image Modeling", sec. 3.2, "Patch-aligned random masking".
    """

    ratio: float = 0.6
    cell: int = 2

    def __post_init__(self) -> None:
        check_ratio("CellMasker", self.ratio)
        need_whole("CellMasker", cell=self.cell)

    def slots(self, grid: tuple[int, ...]) -> int:
        if any(side % self.cell for side in grid[-2:]):
            raise wrong("CellMasker", given=f"grid {grid} with cell={self.cell}", expected=f"height and width in multiples of {self.cell}",
                        mend="pass a cell that divides them, or use BlockwiseMasker, which takes any grid")  # fmt: skip
        return RandomMasker(self.ratio).slots(self._cells(grid))

    def from_uniforms(self, u: Tensor, grid: tuple[int, ...]) -> TokenMask:
        return RandomMasker(self.ratio).from_uniforms(u, self._cells(grid)).resize(grid)

    def _cells(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        return (*grid[:-2], grid[-2] // self.cell, grid[-1] // self.cell)
