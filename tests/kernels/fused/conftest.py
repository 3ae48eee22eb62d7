"""The Triton kernels themselves, where they can run: on a GPU, or on a CPU under Triton's interpreter (TRITON_INTERPRET=1).

Elsewhere nothing here is collected; tests/kernels/test_interpreter.py runs this folder in processes of its own.
"""

import math

import pytest
import torch

from sslkit.kernels import _choose, _launch

INTERPRETED = _choose.interpreted()
if INTERPRETED:
    collect_ignore = ["test_gpu.py"]
elif not torch.cuda.is_available():
    collect_ignore_glob = ["test_*.py"]
PAD = 64


def pytest_collection_modifyitems(items):
    """Triton 3.6's interpreter counts loops by a conversion that NumPy warns of, and from 2.4 on refuses."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0 to a scalar:DeprecationWarning"))


@pytest.fixture
def device():
    return "cpu" if INTERPRETED else "cuda"


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Kernels write into NaN (floats) between two borders; what nobody wrote is found, and what was written too far as well."""
    borders = []

    def empty(like, *shape, dtype=None):
        numel = math.prod(shape)
        memory = torch.full((numel + 2 * PAD,), float("nan"), dtype=dtype or like.dtype, device=like.device)
        borders.append((memory[:PAD], memory[PAD + numel :]))
        return memory[PAD : PAD + numel].view(shape)

    monkeypatch.setattr(_launch, "empty", empty)
    yield
    assert all(border.isnan().all() for pair in borders for border in pair), "a kernel wrote beyond its output"


@pytest.fixture(autouse=True)
def plain_numbers():
    if not INTERPRETED:
        torch.backends.cuda.matmul.allow_tf32 = False
