"""A large context block and several target blocks (I-JEPA, V-JEPA)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sslkit._checks import need_whole, wrong
from sslkit.counter import bits, mix, uniforms
from sslkit.maskers._base import OFFSET, batch_uniforms, index_uniforms, moved, row_keys
from sslkit.maskers._boxes import uniform_places
from sslkit.maskers._places import eager, places, smallest
from sslkit.maskers.mask import TokenMask, at_all_times, check_grid, known

Size = tuple[int, int]
_ATTEMPTS = 4


@dataclass(frozen=True)
class MultiBlockMasker:
    """Draws target blocks, and a context block from which they are cut out.

        c c c c c c .      c = context, visible to the encoder        1, 2 = targets, to be predicted one by one; they may overlap
        c 1 1 c c c .      height = round(h * sqrt(scale * aspect)),  width = round(scale * h * w / height)
        c 1 1 2 2 c .      scale ~ U(target_scale), aspect ~ U(target_aspect), in units of the grid's own; the context has aspect 1
        c c c 2 2 c .      places are uniform, of every block by itself

    A batch needs equal counts, so all rows of a call share the two sizes; with `for_indices` they are a function of (seed, epoch). Pass
    the number of the step as epoch to have other sizes at every step.

    The context is cut to one count, by random tokens: the one that all but 1 of 128 rows reach with these sizes, which is what
    cutting to the smallest of a batch of 128 comes to, and does not depend on the batch. A row below it is drawn again, at most 4 times;
    then all its targets lie on the first one, and tokens beside the context block fill up. A target never holds a context token, and
    is smaller than the grid.

    On a clip's grid the blocks are those of one frame, at all times.

    Args:
        targets: number of target blocks.
        target_scale: least and largest fraction of the grid, above 0 and at most 1.
        target_aspect: least and largest height / width.
        context_scale: least and largest fraction of the grid; (1, 1) makes the context all that is no target, as in V-JEPA.

    Raises:
        ValueError: an option outside its range; when called, a frame of one token, which leaves no context.

    Source: Assran et al. 2023, "Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture", sec. 3 and app. A;
    Bardes et al. 2024, "Revisiting Feature Prediction for Learning Visual Representations from Video", sec. 3.2. Unlike in the authors'
    code scale and aspect are independent, a block may span the grid and reach its last row and column, the aspect is the grid's on
    grids that are not square, and the cut takes random tokens, not the last.
    """

    targets: int = 4
    target_scale: tuple[float, float] = (0.15, 0.2)
    target_aspect: tuple[float, float] = (0.75, 1.5)
    context_scale: tuple[float, float] = (0.85, 1.0)

    def __post_init__(self) -> None:
        need_whole("MultiBlockMasker", targets=self.targets)
        for name, most in (("target_scale", 1.0), ("target_aspect", math.inf), ("context_scale", 1.0)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= most or math.isinf(high):
                raise wrong("MultiBlockMasker", given=f"{name}={(low, high)}", expected=f"(least, largest), above 0 and up to {most}",
                            mend="pass the smaller one first, and the same one twice for a fixed value")  # fmt: skip

    def __call__(
        self, batch: int, grid: tuple[int, ...], *, generator: torch.Generator | None = None, device: torch.device | str | None = None
    ) -> tuple[TokenMask, tuple[TokenMask, ...]]:
        """Draws (context, targets) of a batch: the context's visible tokens, and of each target the hidden ones.

        Args:
            batch: rows, 0 or more.
            grid: tokens along each axis: (h, w) or (t, h, w).
            generator: torch's source of numbers; None is torch's global one. An accelerator's is not read back: the sizes follow from
                its state.
            device: of the masks; default: the generator's, or torch's default device.

        Raises:
            ValueError: batch is negative, the grid is not made of two or three positive whole numbers, or its frames have one token.
        """
        grid = check_grid("MultiBlockMasker", grid)
        if generator is None or generator.device.type == "cpu":
            numbers = torch.rand(3, generator=generator, device="cpu").tolist()
        else:
            numbers = _numbers_of_state(generator.get_state())
        key = row_keys(batch_uniforms("MultiBlockMasker", batch, 2, generator, device))
        return self._blocks(key, grid, numbers, device)

    def for_indices(
        self, indices: Tensor, grid: tuple[int, ...], *, seed: int, epoch: int = 0, device: torch.device | str | None = None
    ) -> tuple[TokenMask, tuple[TokenMask, ...]]:
        """(context, targets) of these samples: sizes are a function of (seed, epoch), places of (seed, epoch, index).

        Args:
            indices: [batch] integers, the samples' places in the data set.
            grid: tokens along each axis: (h, w) or (t, h, w).
            seed: of the run.
            epoch: another epoch, other masks.
            device: of the masks; default: that of indices.

        Raises:
            ValueError: indices have more than one axis, the grid is not made of two or three positive whole numbers, or its frames
                have one token.
            TypeError: indices are not integers.
        """
        grid = check_grid("MultiBlockMasker", grid)
        nobody = torch.tensor([-1], device="cpu")  # the index of no sample: what belongs to the epoch
        numbers = uniforms(1, 3, indices=nobody, seed=seed, epoch=epoch, offset=OFFSET)[0].tolist()
        return self._blocks(row_keys(index_uniforms("MultiBlockMasker", indices, 2, seed, epoch)), grid, numbers, device)

    def _blocks(
        self, key: Tensor, grid: tuple[int, ...], numbers: Sequence[float], device: torch.device | str | None
    ) -> tuple[TokenMask, tuple[TokenMask, ...]]:
        frame: Size = grid[-2:]  # type: ignore[assignment]
        scale, aspect, context_scale = (
            low + (high - low) * u
            for (low, high), u in zip((self.target_scale, self.target_aspect, self.context_scale), numbers, strict=True)
        )
        target, context = block_size(frame, scale, aspect), block_size(frame, context_scale, 1)
        if target == frame:
            target = (frame[0] - 1, frame[1]) if frame[0] >= frame[1] else (frame[0], frame[1] - 1)
        if 0 in target:
            raise wrong("MultiBlockMasker", given=f"grid {grid}", expected="two tokens or more in a frame", mend="use smaller patches")
        blocks = Blocks(frame, self.targets, target, context)
        visible, hidden = blocks.drawn(key)
        kept = [context_count(blocks), *[math.prod(frame) - math.prod(target)] * self.targets]
        masks = [known(~flags, places(flags, n), frame) for flags, n in zip((visible, *(~hidden).unbind(1)), kept, strict=True)]
        first, *others = (moved(at_all_times(mask, grid) if len(grid) == 3 else mask, device) for mask in masks)
        return first, tuple(others)


def block_size(frame: Size, scale: float, aspect: float) -> Size:
    """Height and width of a block of `scale` times the frame's area and `aspect` times its height / width; both from 1 to the side."""
    height = min(max(round(frame[0] * math.sqrt(scale * aspect)), 1), frame[0])
    return height, min(max(round(scale * math.prod(frame) / height), 1), frame[1])


@dataclass(frozen=True)
class Blocks:
    """The blocks of a batch: all of these sizes, height and width."""

    frame: Size
    targets: int
    target: Size
    context: Size

    def drawn(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """Visible tokens of the context [batch, tokens]; hidden tokens of the targets [batch, targets, tokens]."""
        if eager(key):  # the attempts after the first are for few rows
            free, hidden = (x[:, 0] for x in self.placed(key, 1))
            short = (free.sum(dim=1) < context_count(self)).nonzero()[:, 0]
            free[short], hidden[short] = self._first_with_enough(key[short])
        else:
            free, hidden = self._first_with_enough(key)
        # of the context block first, then beside it, random within each; no token of a target is reached: see `placed`
        place = torch.arange(math.prod(self.frame), device=key.device)
        number = bits(key[:, None], (_ATTEMPTS + 1) * (self.targets + 1) + place)
        order = ((hidden.any(dim=1).long() * 2 + (~free).long()) << 52) + (number << 20) + place
        visible: Tensor = smallest(order, context_count(self))
        return visible, hidden

    def placed(self, key: Tensor, attempts: int) -> tuple[Tensor, Tensor]:
        """Context tokens without targets [batch, attempts, tokens], targets [batch, attempts, targets, tokens].

        After 4 attempts one has all its targets in one place. The grid without a target is as large as any context less its targets.
        """
        slot = torch.arange(attempts * (self.targets + 1), device=key.device).view(attempts, self.targets + 1)
        number = bits(key[:, None, None], slot)  # [batch, attempts, targets + 1]
        if attempts > _ATTEMPTS:
            number[:, -1, 1:-1] = number[:, -1, :1]
        hidden = _rectangles(number[..., :-1], self.frame, self.target)
        block = _rectangles(number[..., -1], self.frame, self.context)
        return block & ~hidden.any(dim=2), hidden

    def _first_with_enough(self, key: Tensor) -> tuple[Tensor, Tensor]:
        free, hidden = self.placed(key, _ATTEMPTS + 1)
        enough = free.sum(dim=2) >= context_count(self)  # [batch, attempts]
        enough[:, -1] = True
        row, first = torch.arange(len(key), device=key.device), enough.int().argmax(dim=1)
        return free[row, first], hidden[row, first]


@lru_cache(maxsize=4096)
def context_count(blocks: Blocks) -> int:
    """The context tokens that all but 8 of 1024 rows have at the first attempt; at least 1."""
    free, _ = blocks.placed(torch.arange(1024, device="cpu"), 1)
    return max(int(free.sum(dim=2).flatten().sort().values[8]), 1)


def _rectangles(number: Tensor, frame: Size, size: Size) -> Tensor:
    """bool [..., tokens], True inside a rectangle of this size, placed by a number of 32 bits."""
    lows = uniform_places(torch, number, [side + 1 - extent for side, extent in zip(frame, size, strict=True)])
    inside: list[Tensor] = []
    for low, extent, side in zip(lows, size, frame, strict=True):
        index = torch.arange(side, device=number.device)
        inside.append((low[..., None] <= index) & (index < low[..., None] + extent))
    rows, columns = inside
    return (rows[..., :, None] & columns[..., None, :]).flatten(-2)


def _numbers_of_state(state: Tensor) -> list[float]:
    """Three numbers in [0, 1) from a generator's state, which lies on the host, so that nothing waits for the device."""
    key = 0
    for value in state.tolist():
        key = mix(key * 256 + value)
    return [mix(key + slot) / 2**32 for slot in range(3)]
