"""Bytes that a call moves, counted without a GPU: on fake tensors, every operation reads its inputs and writes its results once.

    with FakeTensorMode():
        call = ...                       # inputs made inside
        moved, operations = traffic(call)

Caches are not known here: what stays in one between two operations is counted, as it is on a GPU for tensors beyond tens of megabytes.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NOTHING = {"empty", "new_empty", "empty_strided", "new_empty_strided", "_unsafe_view", "lift_fresh"}
FILLED = {"fill_", "zero_", "ones", "zeros", "full", "new_zeros", "new_full", "new_ones", "arange"}  # written, not read
READ_AT = {"index_select", "gather", "index"}  # as much of the table as comes out
WRITTEN_AT = {"index_copy_", "scatter_", "index_fill_", "scatter_add_"}  # as much as comes in


class _Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.operations = 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        name = function._schema.name.removeprefix("aten::")
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in function._schema.returns)
        if not view and name not in NOTHING and not name.startswith("prim::"):
            self.operations += 1
            read = [] if name in FILLED else tree_leaves((args, kwargs))
            written = tree_leaves(out)
            if name in READ_AT:
                read = [out, *tree_leaves(args[1:])]
            elif name in WRITTEN_AT:
                read, written = tree_leaves(args[1:]), [x for x in args[2:] if isinstance(x, Tensor)][-1:]
            self.bytes += sum(map(_bytes, [*read, *written]))
        return out


def _bytes(x: Any) -> int:
    """An expanded tensor is as large as what lies behind it."""
    if not isinstance(x, Tensor):
        return 0
    kept = [size for size, stride in zip(x.shape, x.stride(), strict=True) if stride or size == 0]
    return torch.Size(kept).numel() * x.itemsize


def traffic(call: Callable[[], Any]) -> tuple[int, int]:
    """(bytes, operations) of a call; views count as nothing."""
    with _Count() as count:
        call()
    return count.bytes, count.operations
