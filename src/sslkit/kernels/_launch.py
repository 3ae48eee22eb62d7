"""What all launches of Triton kernels share. The kernels themselves are in the `fused.py` files, the only ones that import Triton.

Launch sizes are closed formulas of shapes and dtypes: nothing is tuned at the first call, which would stall one step, differ between
processes and make runs differ.
"""

from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

from sslkit.kernels._rows import table

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LIMIT = 2**31  # program and row numbers are int32; what is multiplied by a row's length is int64


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, warps: int = 4, **constants: Any) -> None:
    """Runs a kernel on the device of its first argument, which need not be the current one.

    Whether products and sums are fused is said here, because Triton's default for it changes with 3.10.
    """
    device = arguments[0].device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[grid](*arguments, **constants, num_warps=warps, enable_fp_fusion=True)


def empty(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """The one place where kernels get memory for what they write, all of it: tests hand out NaN here."""
    return like.new_empty(shape, dtype=dtype)


def blocks(extent: int, size: int) -> int:
    """How many blocks of `size` cover an extent."""
    return -(-extent // size)


def tile(dim: int) -> tuple[int, int]:
    """(rows, columns) of a block on a table of rows of `dim` numbers: 2048 numbers, 16 bytes or 32 a thread at 128 threads."""
    columns = min(256, 1 << max(dim - 1, 0).bit_length())
    return 2048 // columns, columns


def wave() -> int:
    """Lanes that run together: 32 on NVIDIA's GPUs, 64 on AMD's. Four times as many are a program of four warps."""
    return 64 if torch.version.hip else 32


def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; 1 elsewhere."""
    return _processors(device.index) if device.type == "cuda" else 1


@cache
def _processors(index: int) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)


def rows_of(x: Tensor) -> tuple[Tensor, int]:
    """As `table`, every row side by side in memory: what autograd hands over is often a number expanded, with strides of 0."""
    rows, pitch = table(x)
    return unit_rows(rows), pitch


def unit_rows(x: Tensor) -> Tensor:
    """x with its last axis side by side in memory; a copy only where it is not."""
    return x if x.stride(-1) == 1 or x.shape[-1] <= 1 else x.contiguous()


def beyond(rows: int, *dtypes: torch.dtype | None) -> str | None:
    """Why kernels cannot take tables of so many rows, or one of these dtypes; None if they can."""
    if rows >= LIMIT:
        return f"{rows} rows"
    return next((str(dtype) for dtype in dtypes if dtype is not None and dtype not in DTYPES), None)
