"""Times of one kernel's forms on a GPU, against the floor of the machine they run on.

    floor = max(bytes / copy rate, instructions executed / (processors * 128 lanes * clock))

The copy rate is measured in the same run. Instructions come from the machine code that runs: a kernel above about eight instructions a byte
waits for arithmetic.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from benchmarks.harness import Quartiles
from benchmarks.kernels.case import Call, Case

Timer = Callable[[Call], Quartiles]  # milliseconds


@dataclass(frozen=True)
class Machine:
    """What the GPU does at best, measured: bytes read and written per second by a large copy, operations by a large product."""

    name: str
    copy_gb_s: float
    matmul_tflop_s: float
    lane_instructions_s: float


@dataclass(frozen=True)
class Row:
    """One form. `peak_mib`: what the call needs above its inputs, results included."""

    form: str
    us: Quartiles
    peak_mib: float | None


@dataclass(frozen=True)
class Result:
    """All forms of one case; floors in microseconds."""

    name: str
    size: str
    floor_bytes: int
    byte_floor_us: float
    issue_floor_us: float | None
    rows: tuple[Row, ...]

    @property
    def floor_us(self) -> float:
        return max(self.byte_floor_us, self.issue_floor_us or 0.0)


def gpu_timer(call: Call) -> Quartiles:
    """Device events round single calls, the cache emptied before each."""
    from triton.testing import do_bench

    low, median, high = do_bench(call, warmup=50, rep=300, quantiles=(0.25, 0.5, 0.75))
    return Quartiles(low, median, high)


def machine(device: torch.device, timer: Timer = gpu_timer, *, copy_bytes: int = 2**31, side: int = 8192) -> Machine:
    """Copies and multiplies random numbers: zeros would be faster than real data."""
    copy = 2 * copy_bytes / timer(_copy(device, copy_bytes)).median / 1e6
    product = 2 * side**3 / timer(_product(device, side)).median / 1e9
    if device.type != "cuda":
        return Machine(device.type, copy, product, float("inf"))
    p = torch.cuda.get_device_properties(device)
    return Machine(p.name, copy, product, p.multi_processor_count * 128 * p.clock_rate * 1e3)


def _copy(device: torch.device, size: int) -> Call:
    source = torch.randn(size // 2, device=device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _product(device: torch.device, side: int) -> Call:
    a, b = torch.randn(2, side, side, device=device, dtype=torch.bfloat16)
    return lambda: a @ b


def measure(case: Case, device: torch.device, on: Machine, timer: Timer = gpu_timer, *, small: bool = False, compiled: bool = True,
            instructions: float | None = None) -> Result:  # fmt: skip
    """Every form agrees with the reference, then each is timed and its memory taken.

    Raises:
        AssertionError: two forms differ by more than the case allows, with their names.
    """
    forms = case.forms(device, small)
    if compiled:
        forms["reference, compiled"] = torch.compile(forms["reference"])
        if not case.backward:  # there, the public form's graph is autograd's, made outside of what is timed
            forms["public, compiled"] = torch.compile(forms["public"])
    expected = forms["reference"]()
    for form, call in forms.items():
        agree(case, form, call(), expected)
    del expected
    rows = tuple(Row(form, _microseconds(timer(call)), _peak(call, device)) for form, call in forms.items())
    count = case.floor_bytes(small)
    issue = None if instructions is None else instructions / on.lane_instructions_s * 1e6
    return Result(case.name, case.size, count, count / on.copy_gb_s / 1e3, issue, rows)


def agree(case: Case, form: str, got: Any, expected: Any) -> None:
    """As many tensors as the reference gives, the largest difference within the case's tolerance of the largest number."""
    pairs = list(zip([x for x in tree_leaves(got) if isinstance(x, Tensor)], tree_leaves(expected), strict=False))
    if len(pairs) != len(tree_leaves(expected)):
        raise AssertionError(f"{case.name}: {form} gives fewer results than the reference")
    for mine, other in pairs:
        worst = (mine.double() - other.double()).abs().max()
        bound = case.tolerance * other.double().abs().max()
        if mine.shape != other.shape or not worst <= bound:
            raise AssertionError(f"{case.name}: {form} differs from the reference by {worst:.3g}, allowed {bound:.3g}")


def _microseconds(ms: Quartiles) -> Quartiles:
    return Quartiles(1e3 * ms.low, 1e3 * ms.median, 1e3 * ms.high)


def _peak(call: Call, device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20
