"""Triton kernels compiled ahead of time, for GPUs that are not there, and what their machine code says.

(launch,) = launches(lambda: gather_tokens(x, ids, backend=...))    what a call would launch, on tensors without numbers
code = compiled(launch, "cuda:90")                                   registers, spills, atomics, shared memory, instructions, loads
"""

import re
import subprocess
import tempfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from sslkit.kernels import _launch

# Shared memory of one block, bytes.
TARGETS = {"cuda:80": 163 * 1024, "cuda:90": 227 * 1024, "cuda:100": 227 * 1024, "hip:gfx942": 64 * 1024}
TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.uint8: "u8", torch.int16: "i16", torch.int32: "i32",
         torch.int64: "i64", torch.bool: "i1"}  # fmt: skip


@dataclass(frozen=True)
class Launch:
    """A kernel as `_launch.launch` was asked to run it."""

    kernel: object
    grid: tuple
    arguments: tuple
    constants: dict
    warps: int


@dataclass(frozen=True)
class Code:
    """What a compiled kernel takes. `lines` are the instructions of NVIDIA's machine code, in order; empty for AMD's."""

    registers: int
    spills: int
    stack: int
    atomics: int
    shared: int
    lines: tuple[str, ...] = ()

    @property
    def operations(self):
        """Instruction -> how often it stands in the code, without padding."""
        return Counter(operation(line) for line in self.lines if operation(line) != "NOP")

    @property
    def instructions(self):
        return sum(self.operations.values())

    def accesses(self, name):
        """Bytes of an access to global memory -> how often; name "LDG" or "STG"."""
        widths = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}
        counts = Counter()
        for op, count in self.operations.items():
            if op.startswith(name):
                counts[next((widths[part] for part in op.split(".") if part in widths), 4)] += count
        return dict(counts)

    def loop(self):
        """The instructions of the longest backward jump's body: the hot loop."""
        places = {label: i for i, line in enumerate(self.lines) for label in re.findall(r"^(\.L_x_\d+):", line)}
        bodies = []
        for i, line in enumerate(self.lines):
            target = re.search(r"BRA.*`\((\.L_x_\d+)\)", line)
            if target and places.get(target[1], i) < i:
                bodies.append(self.lines[places[target[1]] : i + 1])
        return max(bodies, key=len, default=())


def operation(line):
    return re.sub(r"^(\.L_x_\d+:)?\s*(@!?U?P\w+\s+)?", "", line).split(" ")[0].rstrip(";")


@contextmanager
def recorded(wave=32):
    """Inside the block nothing is launched; the list that it gives is filled with what would be, on GPUs with waves of so many lanes."""
    seen, before = [], (_launch.launch, _launch.wave)
    _launch.wave = lambda: wave
    _launch.launch = lambda kernel, grid, *arguments, warps=4, **constants: seen.append(Launch(kernel, grid, arguments, constants, warps))
    try:
        yield seen
    finally:
        _launch.launch, _launch.wave = before


def compiled(launch, target):
    """The machine code of a launch whose tensors begin on 16 bytes, specialised on numbers as Triton does when it launches."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    values = dict(zip([p.name for p in launch.kernel.params if not p.is_constexpr], launch.arguments, strict=True)) | launch.constants
    signature, constants, attributes = {}, {}, {}
    for i, p in enumerate(launch.kernel.params):
        value = values[p.name]
        free = p.do_not_specialize
        if isinstance(value, torch.Tensor):
            signature[p.name] = f"*{TYPES[value.dtype]}"
            attributes[(i,)] = [["tt.divisibility", 16]]
        elif p.is_constexpr or value is None or (value == 1 and not free):
            signature[p.name], constants[(i,)] = "constexpr", value
        elif isinstance(value, float):
            signature[p.name] = "fp32"
        else:
            signature[p.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0 and not free:
                attributes[(i,)] = [["tt.divisibility", 16]]
    system, arch = target.split(":")
    gpu = GPUTarget(system, int(arch) if arch.isdigit() else arch, 64 if system == "hip" else 32)
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    result = triton.compile(source, target=gpu, options={"num_warps": launch.warps, "enable_fp_fusion": True})
    return amd(result) if system == "hip" else nvidia(result)


def nvidia(result):
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(result.asm["cubin"])
        file.flush()
        usage = subprocess.run([tools / "cuobjdump", "--dump-resource-usage", file.name], capture_output=True, text=True, check=True).stdout
        text = subprocess.run([tools / "nvdisasm", "-c", file.name], capture_output=True, text=True, check=True).stdout
    lines, label = [], ""
    for line in text.splitlines():
        if mark := re.match(r"\s*(\.L_x_\d+):", line):
            label = f"{mark[1]}: "
        elif found := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            lines.append(label + found[1])
            label = ""
    names = [operation(line) for line in lines]
    return Code(
        registers=int(re.search(r"REG:(\d+)", usage)[1]),
        spills=sum(name.startswith(("LDL", "STL")) for name in names),
        stack=int(re.search(r"STACK:(\d+)", usage)[1]),
        atomics=sum(name.startswith(("ATOM", "RED.")) or name == "RED" for name in names),
        shared=result.metadata.shared,
        lines=tuple(lines),
    )


def amd(result):
    text = result.asm["amdgcn"]
    return Code(
        registers=int(re.search(r"\.vgpr_count:\s+(\d+)", text)[1]),
        spills=int(re.search(r"\.vgpr_spill_count:\s+(\d+)", text)[1]) + int(re.search(r"\.sgpr_spill_count:\s+(\d+)", text)[1]),
        stack=int(re.search(r"\.private_segment_fixed_size:\s+(\d+)", text)[1]),
        atomics=len(re.findall(r"^\s+(?:global|flat|buffer|ds)_atomic", text, re.MULTILINE)),
        shared=result.metadata.shared,
    )
