"""Whole time steps hidden (MaskFeat's ablation)."""

from dataclasses import dataclass

from torch import Tensor

from sslkit.maskers._base import Masker, check_axes, check_ratio
from sslkit.maskers.mask import TokenMask
from sslkit.maskers.random import RandomMasker


@dataclass(frozen=True)
class FrameMasker(Masker):
    """Hides whole time steps of a clip, chosen uniformly: round(ratio * t) of them, h * w tokens each.

        t=4, ratio 0.5      # #   . .   # #   . .      # = hidden
                            # #   . .   # #   . .

    Python's round: 8 steps at 0.4 are 3.

    Args:
        ratio: fraction hidden, in [0, 1).

    Raises:
        ValueError: ratio outside [0, 1); when called, a grid that is not (t, h, w).

    Source: Wei et al. 2022, "Masked Feature Prediction for Self-Supervised Visual Pre-Training", table 6.
    """

    ratio: float = 0.4

    def __post_init__(self) -> None:
        check_ratio("FrameMasker", self.ratio)

    def slots(self, grid: tuple[int, ...]) -> int:
        check_axes("FrameMasker", grid, 3, "an image has one frame only; use RandomMasker")
        return grid[0]

    def from_uniforms(self, u: Tensor, grid: tuple[int, ...]) -> TokenMask:
        return RandomMasker(self.ratio).from_uniforms(u, (grid[0], 1, 1)).resize(grid)
