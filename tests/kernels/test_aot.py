"""What the kernels' machine code takes on GPUs that are not here: compiled ahead of time, at the sizes of real training.

Bounds are those of a design that was measured; registers decide how many blocks share a processor, and a kernel that needs more than
about eight instructions per byte of memory waits for arithmetic, however good its loads are.
"""

from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from unittest.mock import patch

import pytest
import torch
from tests.kernels.aot import TARGETS, compiled, recorded

pytest.importorskip("triton", reason="Triton is not made for this system")
from sslkit.kernels import _choose, _launch

if _choose.interpreted():
    pytest.skip("kernels that are interpreted cannot be compiled in the same process", allow_module_level=True)

BF16, F32, U8, I64 = torch.bfloat16, torch.float32, torch.uint8, torch.int64


def on_meta(*shape, dtype=BF16):
    return torch.empty(shape, dtype=dtype, device="meta")


@dataclass(frozen=True)
class Case:
    """A call, and the most that its one kernel may take: registers by target (sm80, sm90, sm100, gfx942), instructions on sm90.

    `loop`, where it is told: the instructions of its longest loop there.
    """

    name: str
    call: object
    registers: tuple[int, int, int, int]
    instructions: int
    loads: dict = field(default_factory=dict)
    stores: dict = field(default_factory=dict)
    loop: int | None = None

    def launch(self, target):
        with recorded(64 if target.startswith("hip") else 32) as seen:
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


def pixel_loss(order, backward=False, images=(3, 224, 224), dtype=U8, patch=16):
    from sslkit.kernels._masked_pixel_loss import fused

    how = patch, 1, 1, None, None, 0.065, "mse", order
    inputs = on_meta(256, 147, images[0] * patch**2), on_meta(256, *images, dtype=dtype), on_meta(256, 147, dtype=I64), *how
    fused.backward(on_meta(1, 1, dtype=F32).expand(256, 147), *inputs) if backward else fused.forward(*inputs)


def widest_pixel_loss():
    """512 threads, of which none can have more than 128 registers."""
    pixel_loss("pqc", backward=True, images=(8, 256, 256), dtype=F32, patch=64)


def pixel_losses(order):
    """Both orders are to take the same."""
    forward, backward = partial(pixel_loss, order), partial(pixel_loss, order, backward=True)
    yield Case(f"masked_pixel_loss {order}", forward, (63, 61, 59, 32), 471, loads={8: 4, 16: 3}, stores={4: 1})
    yield Case(f"masked_pixel_loss {order} backward", backward, (60, 61, 64, 30), 458, loads={8: 4, 16: 3, 4: 1}, stores={16: 3})


def patches(dtype, out_dtype, patch, order, normalised=True):
    from sslkit.kernels._gather_patches import fused

    scale, bias = ([0.017, 0.018, 0.017], [-2.1, -2.0, -1.8]) if normalised else (None, None)
    fused.forward(on_meta(256, 3, 224, 224, dtype=dtype), on_meta(256, 49, dtype=I64), patch, 1, 1, scale, bias, order, out_dtype)


def hog(dtype, width=224, window=None):
    from sslkit.kernels._hog import fused

    fused.forward(on_meta(256, 3, 224, width, dtype=dtype), on_meta(256, 78, dtype=I64), 8, 9, window, 16, 1)


def cross_entropy(backward=False, dtype=BF16, classes=65536):
    from sslkit.kernels._soft_cross_entropy import fused

    inputs = on_meta(640, classes, dtype=dtype), on_meta(192, classes, dtype=F32), on_meta(640, dtype=I64)
    if backward:
        fused.backward(on_meta(1, dtype=F32).expand(640), *inputs, on_meta(2, 640, dtype=F32), 0.1)
    else:
        fused.forward(*inputs, 0.1)


def cut_cross_entropy(which):
    """One of the two kernels of few rows, whose classes are cut into slices."""
    from sslkit.kernels._soft_cross_entropy import fused

    with recorded() as seen, patch.object(_launch, "processors", lambda device: 132):
        fused.forward(on_meta(64, 65536), on_meta(64, 65536, dtype=F32), None, 0.1)
    assert [launch.grid for launch in seen] == [(64, 8), (2,)]
    _launch.launch(seen[which].kernel, seen[which].grid, *seen[which].arguments, warps=seen[which].warps, **seen[which].constants)


CASES = [
    Case("gather_tokens", gather, (32, 32, 32, 26), 219, loads={8: 2, 16: 6}, stores={16: 2}),
    Case("gather_tokens backward", gather_backward, (22, 22, 22, 10), 130, loads={4: 2, 16: 2}, stores={16: 2}),
    Case("scatter_tokens", scatter, (30, 32, 32, 24), 157, loads={4: 2, 16: 4}, stores={16: 2}),
    Case("scatter_tokens backward", scatter_backward, (40, 40, 40, 22), 295, loads={4: 1, 16: 1}, stores={16: 1, 8: 2}),
    Case("gather_patches", partial(patches, U8, BF16, 16, "cpq"), (26, 32, 32, 15), 212, loads={8: 4}, stores={16: 3}),
    Case("gather_patches, a copy", partial(patches, F32, F32, 16, "cpq", False), (26, 32, 32, 15), 125, {8: 1, 16: 3}, {16: 3}),
    Case("gather_patches at 14", partial(patches, U8, BF16, 14, "cpq"), (32, 32, 32, 20), 304, {8: 2, 2: 12}, {8: 6}),
    Case("gather_patches in pqc", partial(patches, U8, BF16, 16, "pqc"), (32, 32, 32, 28), 310, {8: 4}, {2: 24}),
    *pixel_losses("pqc"),
    *pixel_losses("cpq"),
    Case("masked_pixel_loss at 14", partial(pixel_loss, "pqc", patch=14), (56, 56, 60, 40), 540, {8: 1, 2: 12, 4: 12}, {4: 1}),
    Case("masked_pixel_loss, the widest", widest_pixel_loss, (128, 128, 128, 128), 860, {8: 33, 16: 8, 4: 1}, {16: 8}),
    # loops of 16 pixels: two rows of a cell
    Case("hog uint8", partial(hog, U8), (80, 80, 135, 91), 973, loads={8: 5, 1: 8}, stores={4: 9}, loop=round(39.6 * 16)),
    Case("hog fp32", partial(hog, F32), (80, 80, 124, 144), 880, loads={8: 17, 4: 8}, stores={4: 9}, loop=round(35.8 * 16)),
    Case("hog bf16, a window", partial(hog, BF16, window=16), (80, 80, 112, 130), 1030, {8: 9, 2: 8}, {4: 9}, 650),
    Case("hog uint8, an odd width", partial(hog, U8, 225), (80, 80, 96, 140), 943, {8: 1, 1: 40}, {4: 9}, 618),
    # 16 classes of a thread in a turn of the loop
    Case("soft_cross_entropy", cross_entropy, (64, 72, 76, 50), 358, {8: 1, 16: 6}, {4: 3}, loop=round(10.6 * 16)),
    Case("soft_cross_entropy backward", partial(cross_entropy, True), (38, 32, 34, 30), 214, {8: 1, 4: 3, 16: 6}, {16: 2}),
    Case("soft_cross_entropy fp32", partial(cross_entropy, dtype=F32), (64, 72, 76, 50), 380, {8: 1, 16: 8}, {4: 3}, 154),
    Case("soft_cross_entropy fp32 backward", partial(cross_entropy, True, F32), (40, 40, 40, 30), 150, {8: 1, 4: 3, 16: 8}, {16: 4}),
    Case("soft_cross_entropy odd", partial(cross_entropy, classes=65533), (40, 40, 40, 24), 330, {8: 1, 2: 4, 4: 4}, {4: 3}, 94),
    Case("soft_cross_entropy odd backward", partial(cross_entropy, True, classes=65533), (28, 28, 28, 16), 120, {8: 1, 2: 4, 4: 7}, {2: 4}),
    Case("soft_cross_entropy, slices", partial(cut_cross_entropy, 0), (48, 48, 48, 40), 328, {16: 6}, {4: 4}, 154),
    Case("soft_cross_entropy, slices added", partial(cut_cross_entropy, 1), (64, 64, 64, 32), 240, {4: 32}, {4: 3}),
]


# Triton 3.9's AMD compiler keeps more of the loop alive at a time; nothing spills.
NEWER = {("hog uint8", "hip:gfx942"): 120}
TRITON = tuple(map(int, version("triton").split(".")[:2]))
SLACK = 1.1 if TRITON < (3, 8) else 1.0  # the bounds were measured later; older compilers are within a few percent, and spill no more


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_machine_code(case, target):
    code = compiled(case.launch(target), target)
    assert (code.spills, code.stack, code.atomics) == (0, 0, 0)
    assert code.shared <= TARGETS[target]
    bound = case.registers[list(TARGETS).index(target)]
    assert code.registers <= SLACK * (NEWER.get((case.name, target), bound) if TRITON >= (3, 9) else bound)
    if target == "cuda:90":
        assert code.instructions <= SLACK * case.instructions
        assert case.loop is None or 0 < len(code.loop()) <= SLACK * case.loop
        assert code.accesses("LDG") == case.loads
        assert code.accesses("STG") == case.stores
