"""Self-supervised-learning parts for images and video.

Subpackages load on first use; importing sslkit does nothing else: no environment variable, seed, log handler or CUDA context is touched.
"""

from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

_MODULES = (
    "augmentations",
    "backbones",
    "counter",
    "datasets",
    "distributed",
    "evaluation",
    "kernels",
    "losses",
    "maskers",
    "modules",
    "optim",
    "patches",
    "plots",
    "saliency",
    "schedules",
    "targets",
    "testing",
)
__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> ModuleType:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module 'sslkit' has no attribute {name!r}; it has {', '.join(_MODULES)}")


def __dir__() -> list[str]:
    return sorted(__all__)
