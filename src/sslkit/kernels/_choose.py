"""Which version of an operation runs, and why.

"auto" takes the fused version on a GPU where Triton is installed and the operation has one for the dtypes and sizes, else the reference.
No environment variable and no tensor value decides. An explicit "fused" or "compiled" that cannot run raises; it never falls back in
silence. On a CPU "fused" runs only where Triton interprets its kernels (TRITON_INTERPRET=1), which is for tests.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Literal, TypeVar

import torch
from torch import Tensor

from sslkit._checks import wrong

Backend = Literal["auto", "reference", "fused"]
HogBackend = Literal["auto", "reference", "fused", "compiled"]
Version = Literal["reference", "fused", "compiled"]
Named = TypeVar("Named", bound=str)

OPERATIONS = ("gather_patches", "gather_tokens", "hog", "masked_pixel_loss", "replace_tokens", "scatter_tokens", "soft_cross_entropy")
_BACKENDS = ("auto", "reference", "fused")
_MORE = {"hog": ("compiled",)}
_FLOATS = frozenset({torch.float32, torch.float16, torch.bfloat16})
_FUSED = {  # what x may be there
    "gather_patches": _FLOATS | {torch.uint8},
    "gather_tokens": _FLOATS,
    "hog": _FLOATS | {torch.uint8},
    "masked_pixel_loss": _FLOATS,
    "scatter_tokens": _FLOATS,
    "soft_cross_entropy": _FLOATS,
}
_TRITON = (3, 6)
# What "auto" means at the moment. A plain global, not a ContextVar: torch.compile of torch 2.11 can guard on it.
_auto: Backend = "auto"


@dataclass(frozen=True)
class Choice:
    """The version that runs, and the reason in words."""

    version: Version
    reason: str


@contextmanager
def use_backend(backend: Backend) -> Iterator[None]:
    """What "auto" means inside a block: `with use_backend("reference"): ...`. A backend named in a call stands above it.

    A backward pass takes the version of its forward pass, wherever it runs. The block counts for all threads of the process.

    Raises:
        ValueError: an unknown backend.
    """
    global _auto
    _known("use_backend", backend)
    before, _auto = _auto, backend
    try:
        yield
    finally:
        _auto = before


def explain(name: str, x: Tensor, backend: HogBackend = "auto") -> Choice:
    """The version of an operation that a tensor would be given to, and why.

    Args:
        name: of the operation: "gather_patches", "gather_tokens", "hog", "masked_pixel_loss", "replace_tokens",
            "scatter_tokens" or "soft_cross_entropy".
        x: its first argument; the device and dtype are looked at, and whether images require grad.
        backend: as in the call.

    Raises:
        ValueError: an unknown operation or backend, or an explicit "fused" or "compiled" that cannot run.
    """
    if name not in OPERATIONS:
        raise wrong("explain", given=repr(name), expected=f"one of {', '.join(OPERATIONS)}", mend="pass the name of the operation")
    limit = "images that require grad" if name == "gather_patches" and x.requires_grad else None
    return choose(name, x, requested(name, backend), limit)


def requested(name: str, backend: Named) -> Named | Backend:
    """The backend of a call, "auto" replaced by what the surrounding `use_backend` says."""
    _known(name, backend)
    return _auto if backend == "auto" else backend


def choose(name: str, x: Tensor, backend: HogBackend, limit: str | None = None) -> Choice:
    """The rule. Called when the operation runs, so that a compiled program chooses by the tensor it gets.

    `limit` says what else the fused version cannot take of this call, None if nothing.
    """
    if backend == "reference":
        return Choice("reference", "asked for by name")
    if backend == "compiled":
        if x.device.type == "cpu":
            return Choice("compiled", "asked for by name")
        raise wrong(name, given=f'backend="compiled" for {x.device.type}', expected='"auto" or "reference"; compiled is for the CPU',
                    mend="leave backend out")  # fmt: skip
    obstacle = _obstacle(name, x, limit, by_name=backend == "fused")
    if obstacle is None:
        return Choice("fused", "asked for by name" if backend == "fused" else f"{name} has a fused version for {x.device.type}")
    if backend == "fused":
        raise wrong(name, given=f'backend="fused", but {obstacle}', expected='"auto" or "reference"', mend="leave backend out")
    return Choice("reference", obstacle)


def _obstacle(name: str, x: Tensor, limit: str | None, *, by_name: bool) -> str | None:
    """Why the fused version cannot run."""
    on = x.device.type
    if x.dtype not in _FUSED.get(name, ()) or not (on == "cuda" or (on == "cpu" and by_name and interpreted())):
        return f"{name} has no fused version for {on} and {x.dtype}"
    if limit is not None:
        return f"{name} has no fused version for {limit}"
    return None if _triton() is not None else f"Triton {'.'.join(map(str, _TRITON))} or newer is not installed"


@cache
def _triton() -> ModuleType | None:
    try:
        import triton
    except ImportError:
        return None
    version = tuple(map(int, re.findall(r"\d+", triton.__version__)[:2]))
    return triton if version >= _TRITON else None


def interpreted() -> bool:
    """Whether Triton runs its kernels as Python, on CPU tensors."""
    triton = _triton()
    return triton is not None and bool(triton.knobs.runtime.interpret)


def _known(where: str, backend: str) -> None:
    known = _BACKENDS + _MORE.get(where, ())
    if backend not in known:
        raise wrong(where, given=f"backend={backend!r}", expected=" or ".join(map(repr, known)), mend='leave it at "auto"')
