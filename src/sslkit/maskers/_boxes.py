"""Boxes hidden one after another until a row is full: what the block and cube maskers share.

    b = 0
    while hidden < target and b < blocks:
        for a in 0 .. tries - 1:
            box = of random size and place, from bits(key, numbers * (b * tries + a) + 0, 1, ...)
            new = tokens of the box that are still visible
            if 0 < new <= room(hidden): hide it; b = b + 1; go on with the next block
        stop here if none was hidden
    then rows below `target`, or only those with nothing hidden, are completed to it: see `grown`

A row's key addresses its numbers; none is used up by another row, or by an attempt that is not looked at. So it changes nothing how
many attempts are looked at together. On the CPU rows are sets of bits, 64 tokens a word, and leave when they are done; elsewhere they
are bool planes, all rows make `blocks` steps, and nothing looks at a value. Both give the same masks, as they use integers, and float32
operations that IEEE 754 fixes to the last bit. `blocks` is so large that no row is expected to reach it.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial, reduce
from typing import Any, ClassVar

import torch
from torch import Tensor

from sslkit.counter import bits
from sslkit.maskers._places import eager, places, smallest
from sslkit.maskers.mask import TokenMask, known

_ASPECTS = 1 << 12
Array = Any  # of `xp`, which is numpy or torch
Spans = Sequence[tuple[Array, Array]]  # first index, and the one behind the last, along every axis


@dataclass(frozen=True)
class Law(ABC):
    """How the boxes of a row are drawn.

    Args:
        grid: (h, w) or (t, h, w).
        target: hidden tokens at which a row is full.
        tries: attempts for a block.
        ahead: the most attempts that the CPU form looks at together, from 1 on.
    """

    grid: tuple[int, ...]
    target: int
    tries: int
    ahead: int
    numbers: ClassVar[int]  # of 32 bits, for an attempt
    overshoots: ClassVar[bool] = False  # whether a row may hide more than its target

    @property
    def blocks(self) -> int:
        """Most blocks in a row: above 1.5 times the most of thousands of rows, at ratios from 0.1 to 0.99, on grids up to 32 x 32."""
        tokens = math.prod(self.grid)
        return 24 + math.ceil(24 * math.log(tokens / (tokens - self.target + 1))) if self.target else 0

    @abstractmethod
    def room(self, hidden: Array) -> Array:
        """How many tokens the next block may add."""

    @abstractmethod
    def boxes(self, xp: Any, numbers: Array, hidden: Array) -> Spans:
        """Boxes [rows, attempts] from numbers [self.numbers, rows, attempts] of 32 bits; empty where what was drawn does not fit."""


def hide_boxes(key: Tensor, law: Law, *, exact: bool) -> TokenMask:
    """The masks of rows with these keys, int64 [batch] in 0..2**32-1; `exact`: law.target tokens hidden in every row."""
    least = law.target if exact or law.overshoots else min(law.target, 1)
    if eager(key) and _can_count_bits():
        mask = _by_words(key.numpy(), law, least)
    else:
        mask, hidden = _by_planes(key, law)
        mask = torch.where((hidden < least)[:, None], grown(torch, mask, key, law), mask)
    return known(mask, places(~mask, mask.shape[1] - law.target), law.grid) if exact else TokenMask(mask, law.grid)


def grown(xp: Any, mask: Array, key: Array, law: Law) -> Array:
    """Hides more tokens, `law.target` in all, around a random point of a random hidden token; of any token, if none is hidden.

        order: larger distance along an axis; then the sum of the distances; then the place

    so that a square grows line by line, each line from its middle. Its law is that of its mirror images.
    """
    arange = partial(torch.arange, device=key.device) if xp is torch else xp.arange
    tokens, after = mask.shape[1], law.numbers * law.blocks * law.tries
    number, *offsets = bits(key, xp.asarray(after + arange(1 + len(law.grid))[:, None], dtype=key.dtype))  # each [batch]
    rank = (mask | ~mask.any(axis=1, keepdims=True)).cumsum(axis=1, dtype=xp.int32)
    token = (rank <= (number * rank[:, -1] >> 32)[:, None]).sum(axis=1)  # [batch]
    farthest = 64 * sum(law.grid)  # in 64ths of a token: above any sum of distances
    dtype = xp.int32 if farthest**2 * tokens < 2**31 else xp.int64
    distances: list[Any] = []
    behind = tokens
    for axis, (side, offset) in enumerate(zip(law.grid, offsets, strict=True)):
        behind //= side
        point = 64 * (token // behind % side) + xp.asarray(offset >> 27, dtype=xp.int64) * 2 - 31  # odd: no two tokens of a line are as far
        distance = xp.asarray(abs(64 * arange(side) - point[:, None]), dtype=dtype)
        distances.append(distance.reshape(-1, *(side if a == axis else 1 for a in range(len(law.grid)))))
    order = reduce(xp.maximum, distances) * farthest  # [batch, *grid]
    for distance in distances:
        order += distance
    order = order.reshape(-1, tokens) * tokens + xp.asarray(arange(tokens), dtype=dtype)
    return smallest(xp.where(mask, -1, order), law.target)


def log_uniform_sides(xp: Any, number: Array, low: Array, high: Array, min_aspect: float) -> tuple[Array, Array]:
    """Height and width, int64, of rectangles with area ~ U(low, high) and log(height / width) ~ U(log min_aspect, -log min_aspect).

        height = round(sqrt(area) * sqrt(aspect)),  width = round(sqrt(area) / sqrt(aspect)),  half to even

    The lower 12 bits of the number tell the aspect, the upper 20 the area.
    """
    index = number & (_ASPECTS - 1)
    slant = _slant(xp, index, min_aspect) if xp is torch else _slants(min_aspect).take(index)
    root = xp.sqrt(low + xp.asarray(number >> 12, dtype=xp.float32) * ((high - low) * 2**-20))
    return xp.asarray((root * slant).round(), dtype=xp.int64), xp.asarray((root / slant).round(), dtype=xp.int64)


def _slant(xp: Any, index: Array, min_aspect: float) -> Array:
    """sqrt(aspect) of the index, 0.._ASPECTS - 1."""
    # exp(x) as ((1 + x/128) / (1 - x/128))**64, to 2e-5 * x**3: a library's exp has other last bits on every device.
    x = (xp.asarray(index, dtype=xp.float32) * 2 + (1 - _ASPECTS)) * (-math.log(min_aspect) / _ASPECTS / 128)
    aspect = (1 + x) / (1 - x)
    for _ in range(6):
        aspect = aspect * aspect
    return xp.sqrt(aspect)


@lru_cache(maxsize=64)
def _slants(min_aspect: float) -> Any:
    import numpy as np

    return _slant(np, np.arange(_ASPECTS), min_aspect)


def uniform_places(xp: Any, number: Array, free: Sequence[Array]) -> list[Array]:
    """One of the product of free[0] * free[1] * ... places, uniformly: an index in 0..free[axis] - 1 along each axis, int64."""
    place = (xp.asarray(number, dtype=xp.int64) * math.prod(free)) >> 32
    found = []
    for n in free[:0:-1]:
        found.append(place - place // n * n)
        place = place // n
    return [place, *found[::-1]]


def _by_planes(key: Tensor, law: Law) -> tuple[Tensor, Tensor]:
    """Rows in lock-step as bool planes: mask [batch, tokens], hidden tokens [batch]. Nothing looks at a value."""
    batch, axes = key.shape[0], range(1, 1 + len(law.grid))
    mask = torch.zeros(batch, *law.grid, dtype=torch.bool, device=key.device)
    hidden = torch.zeros(batch, 1, dtype=torch.int64, device=key.device)
    going = torch.ones(batch, 1, dtype=torch.bool, device=key.device)
    attempts, each = torch.arange(law.tries, device=key.device), torch.arange(law.numbers, device=key.device)
    for block in range(law.blocks):
        spans = law.boxes(torch, bits(key[:, None], (block * law.tries + attempts) * law.numbers + each[:, None, None]), hidden)
        volume = reduce(torch.mul, ((high - low).clamp(min=0) for low, high in spans))  # [batch, tries]
        new = volume - _covered(mask, spans) * (volume > 0)
        good = (new > 0) & (new <= law.room(hidden)) & going & (hidden < law.target)
        first = good.int().argmax(dim=1, keepdim=True)  # of equals, the first
        going = good.gather(1, first)  # [batch, 1]
        hidden = hidden + new.gather(1, first) * going
        inside = going.view(batch, *(1 for _ in axes))
        for axis, side, span in zip(axes, law.grid, spans, strict=True):
            low, high = (edge.gather(1, first) for edge in span)
            index = torch.arange(side, device=key.device)
            inside = inside & ((low <= index) & (index < high)).view(batch, *(side if a == axis else 1 for a in axes))
        mask = mask | inside
    return mask.flatten(1), hidden[:, 0]


def _covered(mask: Tensor, spans: Spans) -> Tensor:
    """Hidden tokens in each box, [batch, tries], of mask [batch, *grid]: sums over the corners of a table of sums."""
    table = torch.nn.functional.pad(mask.long(), (1, 0) * len(spans))
    for axis in range(1, table.ndim):
        table = table.cumsum(dim=axis)
    sides, flat = table.shape[1:], table.flatten(1)
    total = torch.zeros_like(spans[0][0])
    for corner in itertools.product((0, 1), repeat=len(spans)):
        place = torch.zeros_like(total)
        for side, span, end in zip(sides, spans, corner, strict=True):
            place = place * side + span[end]
        total = total + flat.gather(1, place) * (-1) ** (len(spans) - sum(corner))
    return total


def _by_words(key: Array, law: Law, least: int) -> Tensor:
    """The masks with numpy, 64 tokens a word: token n is bit n % 64 of word n // 64. Rows that are done drop out; those of fewer hidden
    tokens than `least` are completed."""
    import numpy as np

    tokens, batch, slabs = math.prod(law.grid), key.shape[0], _slabs(law.grid)
    words, hidden = np.zeros((-(-tokens // 64), batch), dtype=np.uint64), np.zeros(batch, dtype=np.int64)
    key = key.astype(np.uint32)
    rows, keys, mine, count = np.arange(batch if law.blocks else 0), key, words, hidden  # of those that go on
    # as many attempts together as the cache holds, if it is a part of a block's
    many = max(n for n in range(1, law.ahead + 1) if law.tries % n == 0 and (n == 1 or n * words.size <= 40_000))
    ahead: Any = np.arange(many * law.numbers, dtype=np.uint32).reshape(many, law.numbers).T[:, None]  # [numbers, 1, many]
    attempt: Any = np.zeros(batch, dtype=np.uint32)
    last = np.uint32(law.blocks * law.tries)
    while rows.size:
        spans = law.boxes(np, bits(keys[:, None], (attempt * law.numbers)[:, None] + ahead), count[:, None])
        columns = (slab.take(low * side + high, axis=1) for (slab, side), (low, high) in zip(slabs, spans, strict=True))
        inside = reduce(np.bitwise_and, columns)  # [words, rows, many]
        new = np.bitwise_count(inside & ~mine[:, :, None]).sum(axis=0, dtype=np.int64)  # [rows, many]
        good = (new > 0) & (new <= law.room(count[:, None]))
        first, each = good.argmax(axis=1), np.arange(rows.size)
        hit = good[each, first]
        mine = mine | inside[:, each, first] * hit
        count = count + new[each, first] * hit
        attempt = attempt + np.uint32(many)
        going = hit & (count < law.target)
        if many < law.tries:  # others are inside a block: on to the next one after a hit, else to what is left of it
            behind = attempt % law.tries
            going |= ~hit & (behind > 0)
            attempt = attempt + (law.tries - behind) * (hit & (behind > 0))
        going &= attempt < last
        if not going.all():
            words[:, rows], hidden[rows] = mine, count
            rows, keys, attempt, mine, count = rows[going], keys[going], attempt[going], mine[:, going], count[going]
    flags = np.unpackbits(np.ascontiguousarray(words.T).view(np.uint8), axis=1, count=tokens, bitorder="little")
    mask = flags.view(np.bool_)
    short = np.flatnonzero(hidden < least)
    mask[short] = grown(np, mask[short], key[short], law)
    return torch.from_numpy(mask)


@lru_cache(maxsize=16)
def _slabs(grid: tuple[int, ...]) -> list[tuple[Any, int]]:
    """For each axis numpy uint64 [words, n * n] and n = side + 1: column low * n + high has the tokens from low to below high."""
    import numpy as np

    tokens = math.prod(grid)
    result = []
    for index, side in zip(np.indices(grid), grid, strict=True):
        below = np.zeros((side + 1, -(-tokens // 64) * 64), dtype=np.bool_)
        below[:, :tokens] = index.reshape(-1) < np.arange(side + 1)[:, None]
        packed = np.packbits(below, axis=1, bitorder="little").view(np.uint64).T
        result.append((np.ascontiguousarray(packed[:, :, None] ^ packed[:, None, :]).reshape(len(packed), -1), side + 1))
    return result


def _can_count_bits() -> bool:
    try:
        import numpy as np
    except ImportError:
        return False
    return hasattr(np, "bitwise_count")  # numpy 2
