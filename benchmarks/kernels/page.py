"""docs/kernels.md from benchmarks/results/kernels/*.json."""

import json
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"
RESULTS = Path(__file__).parents[1] / "results" / "kernels"
HEAD = """# Kernels, compiled and measured

Made by `python -m benchmarks.kernels --page` from `benchmarks/results/kernels/`; not to be edited by hand. `python -m benchmarks.kernels
--compile` compiles anew, without a GPU; `make gpu` runs all tests of the kernels and all timings on one.

## Without a GPU

*Floor*: bytes that any form must move, every needed number read once, every result written once. *Moved*: by the definition in plain
PyTorch and by the public form, each operation reading its inputs and writing its results, with the number of operations. Registers a thread
on sm80, sm90, sm100 and gfx942; spills and atomics are over all four. *Instructions*: of the machine code on sm90, and executed by all
lanes for each byte of the floor: beyond about eight, an H100 or H200 waits for arithmetic and not for memory.
"""
NOT_TIMED = """## On a GPU

Nothing was timed on a GPU yet: none was at hand. `make gpu` is ready."""


def page() -> str:
    parts = [HEAD.strip()]
    compiled = RESULTS / "compiled.json"
    if compiled.exists():
        parts.append(_compiled(json.loads(compiled.read_text())))
    timed = sorted(path for path in RESULTS.glob("*.json") if path != compiled)
    parts += [_timed(json.loads(path.read_text())) for path in timed] or [NOT_TIMED]
    return "\n\n".join(parts) + "\n"


def _compiled(report: dict[str, Any]) -> str:
    lines = [
        "| kernel | size | floor MB | moved by the definition | by the public form | registers | spills, atomics | instructions | a byte |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in report["cases"]:
        targets = case["targets"].values()
        moved = [f"{size / 1e6:.0f} MB ({size / case['floor_bytes']:.1f}x), {count}" for size, count in case["moved"].values()]
        lines.append(f"| {case['name']} | {case['size']} | {case['floor_bytes'] / 1e6:.0f} | {' | '.join(moved)} | "
                     f"{' / '.join(str(t['registers']) for t in targets)} | {sum(t['spills'] for t in targets)}, "
                     f"{sum(t['atomics'] for t in targets)} | {case['targets']['cuda:90']['instructions']} | "
                     f"{case['executed'] / case['floor_bytes']:.1f} |")  # fmt: skip
    versions = report["versions"]
    return "\n".join([*lines, "", f"torch {versions['torch']}, Triton {versions['triton']}"])


def _timed(report: dict[str, Any]) -> str:
    on, versions = report["machine"], report["versions"]
    lines = [f"## {on['name']}", "", f"Copy {on['copy_gb_s']:.0f} GB/s, bf16 product {on['matmul_tflop_s']:.0f} TFLOP/s, both measured in "
             f"this run; torch {versions['torch']}, Triton {versions['triton']}, {report['date']}, commit {report['commit']}. "
             f"Tests: {report['tests']}.", "",
             "| kernel | form | us (quartiles) | GB/s of the floor | % of the floor | kernel is faster | peak MiB |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for case in report["cases"]:
        floor = max(case["byte_floor_us"], case["issue_floor_us"] or 0)
        fused = next(row["us"]["median"] for row in case["rows"] if row["form"] == "fused")
        for row in case["rows"]:
            us = row["us"]
            peak = "" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
            lines.append(f"| {case['name']} | {row['form']} | {us['median']:.1f} ({us['low']:.1f}..{us['high']:.1f}) | "
                         f"{case['floor_bytes'] / us['median'] / 1e3:.0f} | {100 * floor / us['median']:.0f} | "
                         f"{us['median'] / fused:.2f}x | {peak} |")  # fmt: skip
    return "\n".join(lines)
