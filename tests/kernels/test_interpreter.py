"""Every kernel, run by Triton's interpreter on this CPU: one process per file of tests/kernels/fused.

A process of its own, because a kernel is compiled or interpreted from the moment it is defined.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not made for this system")
FUSED = Path(__file__).parent / "fused"


@pytest.mark.parametrize("file", sorted(path.name for path in FUSED.glob("test_*.py") if path.name != "test_gpu.py"))
def test_interpreted(file):
    run = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", FUSED / file], capture_output=True, text=True,
                         env={**os.environ, "TRITON_INTERPRET": "1"}, cwd=Path(__file__).parents[2])  # fmt: skip
    assert run.returncode == 0, run.stdout[-20000:] + run.stderr[-5000:]
    assert " passed" in run.stdout
