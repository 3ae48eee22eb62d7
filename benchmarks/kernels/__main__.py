"""Everything that can be said of the kernels on this machine.

python -m benchmarks.kernels             on a GPU: its copy and product rates, all tests of the kernels, all timings
python -m benchmarks.kernels --compile   anywhere: the machine code for GPUs that are not here, the bytes that are moved

Both write JSON into benchmarks/results/kernels/ and docs/kernels.md from it.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import versions
from benchmarks.kernels import CASES
from benchmarks.kernels.page import PAGE, RESULTS, page

ROOT = Path(__file__).parents[2]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--compile", action="store_true", help="no GPU: compile for others and count what moves")
    parser.add_argument("--page", action="store_true", help="only write docs/kernels.md from the results")
    parser.add_argument("--no-tests", action="store_true", help="only the timings")
    parser.add_argument("--only", default="", help="cases whose name contains this; nothing is saved")
    options = parser.parse_args(argv)
    cases = [case for case in CASES if options.only in case.name]
    if options.page:
        PAGE.write_text(page())
        return 0
    if options.compile:
        from benchmarks.kernels.code import compile_case

        report = {"cases": [asdict(compile_case(case)) for case in cases], "versions": versions("triton")}
        return _save("compiled", report, options.only)
    if not torch.cuda.is_available():
        parser.error("no GPU is here; --compile needs none")
    return _gpu(cases, options)


def _gpu(cases: list[Any], options: argparse.Namespace) -> int:
    from tests.kernels.aot import compiled

    from benchmarks.kernels.code import executed, launch_of
    from benchmarks.kernels.measure import machine, measure

    device = torch.device("cuda", torch.cuda.current_device())
    on = machine(device)
    print(f"{on.name}: copy {on.copy_gb_s:.0f} GB/s, bf16 product {on.matmul_tflop_s:.0f} TFLOP/s", flush=True)
    tests, failed = ("not run", False) if options.no_tests else _tests()
    target = "cuda:{}{}".format(*torch.cuda.get_device_capability(device))
    results = []
    for case in cases:
        launch = launch_of(case, device)
        instructions = executed(case, launch, compiled(launch, target)) if torch.version.cuda else None
        del launch
        result = measure(case, device, on, instructions=instructions)
        results.append(asdict(result))
        fused = result.rows[0].us.median
        print(f"{case.name}: {fused:.1f} us, {100 * result.floor_us / fused:.0f} % of the floor; "
              + ", ".join(f"{row.form} {row.us.median / fused:.2f}x" for row in result.rows[1:]), flush=True)  # fmt: skip
        torch.cuda.empty_cache()
    report = {"machine": asdict(on), "versions": versions("triton"), "date": time.strftime("%Y-%m-%d"), "commit": _commit(),
              "tests": tests, "cases": results}  # fmt: skip
    _save(re.sub(r"\W+", "_", on.name.lower()), report, options.only)
    return int(failed)


def _tests() -> tuple[str, bool]:
    """The last line of pytest, and whether anything failed."""
    run = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernels/fused"], cwd=ROOT,
                         capture_output=True, text=True)  # fmt: skip
    print(run.stdout[-6000:], flush=True)
    lines = [line.strip("= ") for line in run.stdout.splitlines() if re.search(r"\d+ (passed|failed|error)", line)]
    return (lines[-1] if lines else "pytest said nothing"), run.returncode != 0


def _commit() -> str:
    run = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return run.stdout.strip() or "unknown"


def _save(name: str, report: dict[str, Any], only: str) -> int:
    if only:
        print(json.dumps(report, indent=1))
        return 0
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    PAGE.write_text(page())
    print(RESULTS / f"{name}.json", PAGE, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
