"""What the kernels' machine code takes on GPUs that are not here: compiled ahead of time, at the sizes of real training.

Bounds are those of a design that was measured; registers decide how many blocks share a processor, and a kernel that needs more than
about eight instructions per byte of memory waits for arithmetic, however good its loads are.
"""

from dataclasses import dataclass, field

import pytest
import torch
from tests.kernels.aot import TARGETS, compiled, recorded

pytest.importorskip("triton", reason="Triton is not made for this system")
from sslkit.kernels import _choose

if _choose.interpreted():
    pytest.skip("kernels that are interpreted cannot be compiled in the same process", allow_module_level=True)

BF16, U8, I64 = torch.bfloat16, torch.uint8, torch.int64


def on_meta(*shape, dtype=BF16):
    return torch.empty(shape, dtype=dtype, device="meta")


@dataclass(frozen=True)
class Case:
    """A call, and the most that its one kernel may take: registers by target (sm80, sm90, sm100, gfx942), instructions on sm90."""

    name: str
    call: object
    registers: tuple[int, int, int, int]
    instructions: int
    loads: dict = field(default_factory=dict)
    stores: dict = field(default_factory=dict)

    def launch(self):
        with recorded() as seen:
            self.call()
        (launch,) = seen
        return launch


def gather():
    from sslkit.kernels._gather_tokens import fused

    fused.forward(on_meta(256, 196, 768), on_meta(256, 49, dtype=I64), on_meta(196, 768), on_meta(1, 768), BF16)


def gather_backward():
    from sslkit.kernels._gather_tokens import fused

    fused.backward(on_meta(256, 50, 768), on_meta(256, 49, dtype=I64), 196, 1, BF16, None, None)


def scatter():
    from sslkit.kernels._scatter_tokens import fused

    fused.forward(on_meta(256, 50, 512), on_meta(256, 49, dtype=I64), 196, on_meta(512), on_meta(197, 512), 1, BF16)


def scatter_backward():
    from sslkit.kernels._scatter_tokens import fused

    fused.backward(on_meta(256, 197, 512), on_meta(256, 49, dtype=I64), 196, 1, BF16, BF16, BF16)


CASES = [
    Case("gather_tokens", gather, (32, 32, 32, 26), 219, loads={8: 2, 16: 6}, stores={16: 2}),
    Case("gather_tokens backward", gather_backward, (22, 22, 22, 10), 130, loads={4: 2, 16: 2}, stores={16: 2}),
    Case("scatter_tokens", scatter, (30, 32, 32, 24), 157, loads={4: 2, 16: 4}, stores={16: 2}),
    Case("scatter_tokens backward", scatter_backward, (40, 40, 40, 22), 295, loads={4: 1, 16: 1}, stores={16: 1, 8: 2}),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_machine_code(case, target):
    code = compiled(case.launch(), target)
    assert (code.spills, code.stack, code.atomics) == (0, 0, 0)
    assert code.shared <= TARGETS[target]
    assert code.registers <= case.registers[list(TARGETS).index(target)]
    if target == "cuda:90":
        assert code.instructions <= case.instructions
        assert code.accesses("LDG") == case.loads
        assert code.accesses("STG") == case.stores
