"""Tensors out of a file that torch wrote, without importing or running anything that the file names.

A pickled module names its classes. Here every class that is not a part of a tensor is replaced by an empty one, which only keeps what the
file sets on it; the parameters are then read off, by the names of the modules that hold them.
"""

import collections
import hashlib
import os
import pickle
import types
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslkit._checks import wrong

# Functions and types that build tensors from bytes, and nothing else.
_TENSORS = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "device"): torch.device,
    ("torch", "Size"): torch.Size,
    **{("torch", name): getattr(torch, name) for name in ("FloatStorage", "HalfStorage", "BFloat16Storage", "LongStorage")},
}


class _Empty:
    """In the place of any other class or function of the file: called, it keeps nothing; set, it keeps its attributes."""

    dump_patches = False  # torch asks a module's class whether to write down how its source differs from the file's

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {})


class _Unpickler(pickle._Unpickler):  # the one in Python: torch subclasses it in turn
    def find_class(self, module: str, name: str) -> Any:
        return _TENSORS.get((module, name), _Empty)


_MODULE = types.SimpleNamespace(
    Unpickler=_Unpickler, load=lambda file, **options: _Unpickler(file, **options).load(), __name__="tensors only"
)


def read_weights(source: "str | os.PathLike[str] | Mapping[str, Tensor]", sha256: str | None) -> dict[str, Tensor]:
    """Name -> tensor, from a state dict, a file of one, or a file of a whole module."""
    if isinstance(source, Mapping):
        if sha256 is not None:
            raise wrong("DVAE.from_openai", given="sha256 with a state dict", expected="files, whose bytes have a digest",
                        mend="pass the paths of both files, or leave sha256 out")  # fmt: skip
        return dict(source)
    path = Path(source)
    if sha256 is not None:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != sha256.lower():
            raise wrong("DVAE.from_openai", given=f"{path} with sha256 {digest}", expected=sha256, mend="fetch the file again")
    try:
        with warnings.catch_warnings():
            # Files in the format of before torch 1.6 hold the source of their classes, with which torch compares that of `_Empty`.
            warnings.filterwarnings("ignore", "source code of class|Couldn't retrieve source code")
            found: Any = torch.load(path, map_location="cpu", pickle_module=_MODULE, weights_only=False)
    except Exception as error:
        raise wrong("DVAE.from_openai", given=f"{path}: {type(error).__name__}: {error}", expected="a whole file of torch",
                    mend="fetch it again; or, where it can be opened, save model.state_dict() and pass that") from error  # fmt: skip
    weights = {k: v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, dict) else dict(_parameters(found, ""))
    if not weights:
        raise wrong("DVAE.from_openai", given=f"{path}, without tensors", expected="a pickled module, or a state dict",
                    mend="save model.state_dict() and pass that")  # fmt: skip
    return weights


def _parameters(module: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """As named_parameters would give them, detached."""
    held = vars(module) if isinstance(module, _Empty) else {}
    for name, tensor in held.get("_parameters", {}).items():
        if isinstance(tensor, Tensor):
            yield prefix + name, tensor.detach()
    for name, child in held.get("_modules", {}).items():
        yield from _parameters(child, f"{prefix}{name}.")
