"""What `import sslkit` adds to `import torch`, in fresh processes."""

import json
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.harness import Quartiles, Report, Row, machine, versions

PROBE = """
import json, time
import torch
cpu, wall = time.process_time(), time.perf_counter()
import {name}
print(json.dumps([1000 * (time.process_time() - cpu), 1000 * (time.perf_counter() - wall)]))
"""


def milliseconds(name: str) -> list[float]:
    answer = subprocess.run([sys.executable, "-c", PROBE.format(name=name)], capture_output=True, text=True, check=True)
    return json.loads(answer.stdout)


def run(rounds: int = 7) -> Report:
    """sslkit beside kornia, a library that loads everything at once."""
    times = {name: [milliseconds(name) for _ in range(rounds)] for name in ("sslkit", "kornia")}
    rows = []
    for name, taken in times.items():
        cpu, wall = zip(*taken, strict=True)
        base_cpu, base_wall = zip(*times["kornia"], strict=True)
        ratios = [Quartiles.of([a / b for a, b in zip(x, y, strict=True)]) for x, y in ((cpu, base_cpu), (wall, base_wall))]
        rows.append(Row(f"import {name}", Quartiles.of(list(cpu)), Quartiles.of(list(wall)), *ratios))
    title = "Import, beyond torch"
    return Report("import_time", title, "import kornia", rounds, tuple(rows), ("bound: 20 ms",), machine(), versions())


def main(argv: Sequence[str] | None = None) -> None:
    report = run()
    print(report, report.save(), sep="\n", end="\n\n")


if __name__ == "__main__":
    main()
