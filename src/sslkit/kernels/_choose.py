"""Which version of an operation runs, and why.

"auto" takes the fused version where one exists for the device and dtype, else the reference. The answer depends on nothing else:
no environment variable, no tensor value. An explicit "fused" or "compiled" that cannot run raises; it never falls back in silence.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

from torch import Tensor

from sslkit._checks import wrong

Backend = Literal["auto", "reference", "fused"]
HogBackend = Literal["auto", "reference", "fused", "compiled"]
Version = Literal["reference", "fused", "compiled"]
Named = TypeVar("Named", bound=str)

OPERATIONS = ("gather_tokens", "hog", "replace_tokens", "scatter_tokens")
_BACKENDS = ("auto", "reference", "fused")
_MORE = {"hog": ("compiled",)}
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
        name: of the operation: "gather_tokens", "hog", "replace_tokens" or "scatter_tokens".
        x: its first argument; the device and dtype are looked at.
        backend: as in the call.

    Raises:
        ValueError: an unknown operation or backend, or an explicit "fused" or "compiled" that cannot run.
    """
    if name not in OPERATIONS:
        raise wrong("explain", given=repr(name), expected=f"one of {', '.join(OPERATIONS)}", mend="pass the name of the operation")
    return choose(name, x, requested(name, backend))


def requested(name: str, backend: Named) -> Named | Backend:
    """The backend of a call, "auto" replaced by what the surrounding `use_backend` says."""
    _known(name, backend)
    return _auto if backend == "auto" else backend


def choose(name: str, x: Tensor, backend: HogBackend) -> Choice:
    """The rule. Called when the operation runs, so that a compiled program chooses by the tensor it gets."""
    if backend == "reference":
        return Choice("reference", "asked for by name")
    if backend == "compiled":
        if x.device.type == "cpu":
            return Choice("compiled", "asked for by name")
        raise wrong(name, given=f'backend="compiled" for {x.device.type}', expected='"auto" or "reference"; compiled is for the CPU',
                    mend="leave backend out")  # fmt: skip
    reason = f"{name} has no fused version for {x.device.type} and {x.dtype}"
    if backend == "fused":
        raise wrong(name, given=f'backend="fused", but {reason}', expected='"auto" or "reference"', mend="leave backend out")
    return Choice("reference", reason)


def _known(where: str, backend: str) -> None:
    known = _BACKENDS + _MORE.get(where, ())
    if backend not in known:
        raise wrong(where, given=f"backend={backend!r}", expected=" or ".join(map(repr, known)), mend='leave it at "auto"')
