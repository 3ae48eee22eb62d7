"""What the kernels' machine code takes on GPUs that need not be here, and what their definitions and the public forms move.

A launch is recorded, not run, at full size on this machine's CPU; the kernel is compiled for each target and the binary is read.
"""

import math
from dataclasses import dataclass

import torch
from tests.kernels.aot import TARGETS, Code, Launch, compiled, recorded
from torch._subclasses import FakeTensorMode

from benchmarks.kernels.case import Case
from benchmarks.kernels.traffic import traffic


@dataclass(frozen=True)
class Target:
    """One kernel on one GPU."""

    registers: int
    spills: int
    atomics: int
    shared: int
    instructions: int | None  # of NVIDIA's; of a program's code, as it stands


@dataclass(frozen=True)
class Compiled:
    """One case. Megabytes moved by each form, (bytes, operations) by name; the machine code by target."""

    name: str
    size: str
    floor_bytes: int
    moved: dict[str, tuple[int, int]]
    targets: dict[str, Target]
    executed: float  # lane-instructions of the whole launch on sm90

    @property
    def per_byte(self) -> float:
        return self.executed / self.floor_bytes


def launch_of(case: Case, device: torch.device, wave: int = 32) -> Launch:
    """The one launch of a case's kernel, at full size, for a GPU whose lanes work `wave` together."""
    call = case.forms(device, False)["fused"]
    with recorded(wave) as seen:
        call()
    (launch,) = seen
    return launch


def executed(case: Case, launch: Launch, code: Code) -> float:
    """Lane-instructions of all programs: the code once, and its loop as often again as it repeats."""
    programs = math.prod(launch.grid)
    again = max(case.loops - programs, 0) * len(code.loop())
    return float((code.instructions * programs + again) * launch.warps * 32)


def compile_case(case: Case) -> Compiled:
    with FakeTensorMode():
        forms = case.forms(torch.device("cpu"), False)
        moved = {form: traffic(call) for form, call in forms.items() if form != "fused"}
    launches = {wave: launch_of(case, torch.device("cpu"), wave) for wave in (32, 64)}
    codes = {target: compiled(launches[64 if target.startswith("hip") else 32], target) for target in TARGETS}
    targets = {
        target: Target(code.registers, code.spills, code.atomics, code.shared, code.instructions or None) for target, code in codes.items()
    }
    return Compiled(case.name, case.size, case.floor_bytes(False), moved, targets, executed(case, launches[32], codes["cuda:90"]))
