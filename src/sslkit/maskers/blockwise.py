"""Rectangles of tokens hidden (BEiT)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from sslkit._checks import need_whole, wrong
from sslkit.maskers._base import Masker, check_aspect, check_axes, check_count, check_ratio, hidden_count, row_keys
from sslkit.maskers._boxes import Array, Law, Spans, hide_boxes, log_uniform_sides, uniform_places
from sslkit.maskers._recorded import Recorded, recorded_sides, replayed
from sslkit.maskers.mask import TokenMask, check_grid


@dataclass(frozen=True)
class BlockwiseMasker(Masker):
    """Hides rectangles until `count`, or round(ratio * tokens), tokens are hidden.

        while hidden < count:                                            . . . . . . .      # = hidden
            room = min(count - hidden, max_patches)                      . # # # . . .
            up to 10 times:                                              . # # # # # .
                area ~ U(min_patches, room)                              . # # # # # .
                log(aspect) ~ U(log min_aspect, -log min_aspect)         . . . # # # .
                height, width = round(sqrt(area * aspect)), round(sqrt(area / aspect))
                if height < h and width < w:
                    place it, uniformly
                    if it hides 1..room more tokens: keep it, next rectangle
            none kept: stop

    `exact` (default): a row that stopped below its count is completed around a random hidden token, nearest tokens first, a line of a
    growing square at a time; a row with nothing hidden around any token. So the masks stay made of blocks, and a mask is as likely as
    its mirror image. Rows that reach the count by themselves, two of three at BEiT's 75 of 196, are the public sampler's. On a grid on
    which no rectangle fits, 1 x n for one, that square is the whole mask.

    `exact=False`: the public sampler: rows hide different numbers, at most `count`, and `ids_keep` cannot be had. A row in which no
    rectangle at all fitted, which the public code leaves empty, is completed as above.

    `variant="paper"`: the paper's Algorithm 1 to the letter: aspect ~ U(min_aspect, 1 / min_aspect), real sides and places, the tokens
    (i, j) with top <= i <= top + height and left <= j <= left + width, until more than ratio * tokens (or count) are hidden. It goes
    beyond the ratio, and hardly ever hides the first row and column. What the rectangles cannot reach is completed as above.

    Args:
        ratio: fraction hidden, in [0, 1).
        count: tokens hidden, in the place of ratio. BEiT's recipe has 75 of 196.
        min_patches: least area drawn. It may exceed the room; the area then lies between the two.
        max_patches: most tokens that one rectangle may add; None: no limit but the count.
        min_aspect: least height / width; the largest is its inverse.
        exact: the same count in every row.
        variant: "beit", the public code's sampler, or "paper".

    Raises:
        ValueError: an option outside its range, variant="paper" with exact=True or max_patches; when called, a grid that is not (h, w),
            a count above its tokens.

    Source: Bao et al. 2022, "BEiT: BERT Pre-Training of Image Transformers", sec. 2.3, Algorithm 1; the order of draws and the tests
    are those of microsoft/unilm, beit/masking_generator.py. Peng et al. 2022, "BEiT v2", completes to the count by random tokens.
    """

    ratio: float = 0.4
    count: int | None = None
    min_patches: int = 16
    max_patches: int | None = None
    min_aspect: float = 0.3
    exact: bool = True
    variant: Literal["beit", "paper"] = "beit"

    def __post_init__(self) -> None:
        check_ratio("BlockwiseMasker", self.ratio)
        check_count("BlockwiseMasker", self.count)
        need_whole("BlockwiseMasker", min_patches=self.min_patches)
        if self.max_patches is not None:
            need_whole("BlockwiseMasker", max_patches=self.max_patches)
        check_aspect("BlockwiseMasker", self.min_aspect)
        paper = self.variant == "paper"
        if self.variant not in ("beit", "paper") or (paper and (self.exact or self.max_patches is not None)):
            raise wrong("BlockwiseMasker", given=f"variant={self.variant!r}, exact={self.exact}, max_patches={self.max_patches}",
                        expected='"beit", or "paper" with exact=False and no max_patches', mend="pass exact=False")  # fmt: skip

    def slots(self, grid: tuple[int, ...]) -> int:
        self._law(grid)
        return 2

    def from_uniforms(self, u: Tensor, grid: tuple[int, ...]) -> TokenMask:
        return hide_boxes(row_keys(u), self._law(grid), exact=self.exact)

    def replay(self, draws: Any, grid: tuple[int, ...]) -> TokenMask:
        """The public sampler's mask from its recorded draws, bit for bit and never completed; all draws must be used.

        Args:
            draws: [draws, 4] rows (kind, low, high, value) in the order of the calls, kind 0 = floating, 1 = integer, ends included;
                or [draws] values alone. Per attempt area, log-aspect and, if the rectangle fits, top and left.
            grid: (h, w).

        Returns:
            A mask of batch 1.

        Raises:
            ValueError: draws are missing, left over, or not such as these options ask for; variant="paper", of which none are recorded.
        """
        law = self._law(check_grid("BlockwiseMasker.replay", grid))
        if not isinstance(law, _BEiT):
            raise wrong("BlockwiseMasker.replay", given='variant="paper"', expected='"beit"', mend="use a masker with variant='beit'")
        return replayed(Recorded("BlockwiseMasker.replay", draws), law.grid, law.target, law.tries, law.room, law.recorded)

    def _law(self, grid: tuple[int, ...]) -> Law:
        check_axes("BlockwiseMasker", grid, 2, "use TubeMasker(ratio, BlockwiseMasker(...)) for one mask at all times, or CubeMasker")
        count = hidden_count("BlockwiseMasker", self.ratio, self.count, grid)
        if self.variant == "beit":
            return _BEiT(grid, count, 10, 10, self.min_patches, self.max_patches or count, self.min_aspect)
        goal = self.ratio * math.prod(grid) if self.count is None else count
        target = min(math.floor(goal) + 1, math.prod(grid))
        return _Paper(grid, target, 64, 2, self.min_patches, goal, self.min_aspect)


@dataclass(frozen=True)
class _BEiT(Law):
    least: int
    most: int
    min_aspect: float
    numbers = 2

    def room(self, hidden: Array) -> Array:
        left = self.target - hidden
        if self.most >= self.target:
            return left
        return min(left, self.most) if isinstance(left, int) else left.clip(max=self.most)

    def boxes(self, xp: Any, numbers: Array, hidden: Array) -> Spans:
        room = xp.asarray(self.room(hidden), dtype=xp.float32)
        height, width = log_uniform_sides(xp, numbers[0], self.least, room, self.min_aspect)
        fits = (height < self.grid[0]) & (width < self.grid[1])
        height, width = height * fits, width * fits
        top, left = uniform_places(xp, numbers[1], (self.grid[0] + 1 - height, self.grid[1] + 1 - width))
        return (top, top + height), (left, left + width)

    def recorded(self, draws: Recorded, hidden: int) -> Sequence[slice] | None:
        height, width = recorded_sides(draws, self.least, self.room(hidden), self.min_aspect)
        if height >= self.grid[0] or width >= self.grid[1]:
            return None
        top, left = (draws.integer(0, side - size) for side, size in zip(self.grid, (height, width), strict=True))
        return slice(top, top + height), slice(left, left + width)


@dataclass(frozen=True)
class _Paper(Law):
    least: int
    goal: float
    min_aspect: float
    numbers, overshoots = 4, True

    def room(self, hidden: Array) -> Array:
        return math.prod(self.grid)

    def boxes(self, xp: Any, numbers: Array, hidden: Array) -> Spans:
        u = xp.asarray(numbers >> 8, dtype=xp.float32) * 2**-24
        area = abs(self.least + (self.goal - xp.asarray(hidden, dtype=xp.float32) - self.least) * u[0])  # -0.0 or so is possible
        aspect = self.min_aspect + (1 / self.min_aspect - self.min_aspect) * u[1]
        spans = []
        for side, size, v in zip(self.grid, (xp.sqrt(area * aspect), xp.sqrt(area / aspect)), u[2:], strict=True):
            low = (side - size) * v  # below 0 for a rectangle larger than the grid
            first, behind = xp.ceil(low).clip(min=0, max=side), (xp.floor(low + size) + 1).clip(min=0, max=side)
            spans.append((xp.asarray(first, dtype=xp.int64), xp.asarray(behind, dtype=xp.int64)))
        return spans
