"""The definition on a CPU through `torch.compile`, a few images a call, for data loaders.

The border is mirrored before: an index that turns round would keep the compiler from reading pixels side by side. Groups are all of one
size, the last one overlapping, so that one program serves a batch of any length.
"""

from collections.abc import Callable
from functools import cache
from types import FunctionType

import torch
from torch import Tensor

from sslkit.kernels._hog.cpu import mirrored_block
from sslkit.kernels._hog.reference import gaussian, histograms, planes, tokens
from sslkit.kernels._rows import wide

IMAGES = 4  # of a call: more of them leave the cache


def forward(images: Tensor, ids: Tensor | None, cell: int, bins: int, window: int | None, patch: int, step: int) -> Tensor:
    """[batch, tokens, values], float32 or wider."""
    v = planes(images, step)
    dtype = wide(images.dtype)
    rows, columns = (size // patch * patch for size in v.shape[-2:])
    hist = torch.empty(*v.shape[:3], bins, rows // cell, columns // cell, dtype=dtype)
    weight = None if window is None else gaussian(window, rows, columns, hist)
    with torch.no_grad():
        for samples, frames in groups(v.shape[0], v.shape[2]):
            group = mirrored_block(v[samples, :, frames], 0, rows, columns, dtype)
            run = program(tuple(group.shape), dtype, cell, bins, weight is not None)
            hist[samples, :, frames] = run(group.flatten(0, 2), weight).view_as(hist[samples, :, frames])
    return tokens(hist, ids, patch // cell)


def groups(batch: int, time: int) -> list[tuple[slice, slice]]:
    """(samples, frames) of each call: several samples of one frame, or several frames of one sample."""
    count = batch if time == 1 else time
    together = min(IMAGES, count)
    pieces = [slice(start, start + together) for start in (min(s, count - together) for s in range(0, count, IMAGES))]
    if time == 1:
        return [(piece, slice(0, 1)) for piece in pieces]
    return [(slice(b, b + 1), piece) for b in range(batch) for piece in pieces]


@cache
def program(shape: tuple[int, ...], dtype: torch.dtype, cell: int, bins: int, weighted: bool) -> Callable[[Tensor, Tensor | None], Tensor]:
    """What is compiled at its first call, for pictures of one size: sizes left open would take three times as long."""

    def histograms_of(v: Tensor, weight: Tensor | None) -> Tensor:
        return histograms(v, weight, cell, bins)

    # torch.compile counts the programs of a code object, and has a limit: each size gets a code object of its own.
    code = histograms_of.__code__.replace(co_name=f"histograms_of_{'x'.join(map(str, shape))}")
    own = FunctionType(code, globals(), closure=histograms_of.__closure__)
    return torch.compile(own, fullgraph=True, dynamic=False, options={"compile_threads": 1})
