"""Boxes of space and time hidden (MaskFeat on video)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sslkit._checks import need_whole
from sslkit.maskers._base import Masker, check_aspect, check_axes, check_count, check_ratio, hidden_count, row_keys
from sslkit.maskers._boxes import Array, Law, Spans, hide_boxes, log_uniform_sides, uniform_places
from sslkit.maskers._recorded import Recorded, recorded_sides, replayed
from sslkit.maskers.mask import TokenMask, check_grid


@dataclass(frozen=True)
class CubeMasker(Masker):
    """Hides boxes of a clip until `count`, or round(ratio * tokens), tokens are hidden.

        while hidden < count:
            up to 100 times:
                area ~ U(min_patches, max_patches)                       of a frame, whatever room is left
                log(aspect) ~ U(log min_aspect, -log min_aspect)
                height, width = round(sqrt(area * aspect)), round(sqrt(area / aspect))
                duration ~ 1..t
                if height < h and width < w:
                    place it in space and time, uniformly
                    if it hides 1..count - hidden more tokens: keep it, next box
            none kept: stop

    `exact` (default): a row that stopped below its count is completed around a random hidden token, nearest tokens in space and time
    first (see BlockwiseMasker). `exact=False`: the public sampler: rows hide different numbers, at most `count`; a row in which no box
    fitted is completed all the same.

    Masks of a coarse window, as in the authors' recipe, are `CubeMasker(0.4)(batch, (8, 7, 7), ...).resize((8, 14, 14))`.

    Args:
        ratio: fraction hidden, in [0, 1).
        exact: the same count in every row.
        count: tokens hidden, in the place of ratio.
        min_patches: least area of a box in its frame; None: a fifth of the frame, rounded down.
        max_patches: largest area drawn; None: the frame.
        min_aspect: least height / width; the largest is its inverse.

    Raises:
        ValueError: an option outside its range; when called, a grid that is not (t, h, w), a count above its tokens.

    Source: Wei et al. 2022, "Masked Feature Prediction for Self-Supervised Visual Pre-Training", sec. 4.2, table 6; the sampler is that
    of facebookresearch/SlowFast, slowfast/datasets/transform.py.
    """

    ratio: float = 0.4
    exact: bool = True
    count: int | None = None
    min_patches: int | None = None
    max_patches: int | None = None
    min_aspect: float = 0.3

    def __post_init__(self) -> None:
        check_ratio("CubeMasker", self.ratio)
        check_count("CubeMasker", self.count)
        need_whole("CubeMasker", **{k: v for k in ("min_patches", "max_patches") if (v := getattr(self, k)) is not None})
        check_aspect("CubeMasker", self.min_aspect)

    def slots(self, grid: tuple[int, ...]) -> int:
        self._law(grid)
        return 2

    def from_uniforms(self, u: Tensor, grid: tuple[int, ...]) -> TokenMask:
        return hide_boxes(row_keys(u), self._law(grid), exact=self.exact)

    def replay(self, draws: Any, grid: tuple[int, ...]) -> TokenMask:
        """The public sampler's mask from its recorded draws, bit for bit and never completed; all draws must be used.

        Args:
            draws: as in `BlockwiseMasker.replay`. Per attempt area, log-aspect, duration and, if the box fits, top, left and front.
            grid: (t, h, w).

        Returns:
            A mask of batch 1.

        Raises:
            ValueError: draws are missing, left over, or not such as these options ask for.
        """
        law = self._law(check_grid("CubeMasker.replay", grid))
        return replayed(Recorded("CubeMasker.replay", draws), law.grid, law.target, law.tries, law.room, law.recorded)

    def _law(self, grid: tuple[int, ...]) -> "_Cubes":
        check_axes("CubeMasker", grid, 3, "use BlockwiseMasker for images")
        count, frame = hidden_count("CubeMasker", self.ratio, self.count, grid), math.prod(grid[1:])
        return _Cubes(grid, count, 100, 50, self.min_patches or max(frame // 5, 1), self.max_patches or frame, self.min_aspect)


@dataclass(frozen=True)
class _Cubes(Law):
    least: int
    most: int
    min_aspect: float
    numbers = 3

    def room(self, hidden: Array) -> Array:
        return self.target - hidden

    def boxes(self, xp: Any, numbers: Array, hidden: Array) -> Spans:
        t, h, w = self.grid
        height, width = log_uniform_sides(xp, numbers[0], self.least, self.most, self.min_aspect)
        fits = (height < h) & (width < w)
        height, width = height * fits, width * fits
        duration = 1 + uniform_places(xp, numbers[2], (t,))[0]
        front, top, left = uniform_places(xp, numbers[1], (t + 1 - duration, h + 1 - height, w + 1 - width))
        return (front, front + duration), (top, top + height), (left, left + width)

    def recorded(self, draws: Recorded, hidden: int) -> Sequence[slice] | None:
        t, h, w = self.grid
        height, width = recorded_sides(draws, self.least, self.most, self.min_aspect)
        duration = draws.integer(1, t)
        if height >= h or width >= w:
            return None
        top, left, front = draws.integer(0, h - height), draws.integer(0, w - width), draws.integer(0, t - duration)
        return slice(front, front + duration), slice(top, top + height), slice(left, left + width)
