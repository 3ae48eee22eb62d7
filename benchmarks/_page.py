"""docs/speed.md from benchmarks/results/*.json: `python -m benchmarks --page`."""

import json
from pathlib import Path

from benchmarks.harness import RESULTS, Report

PAGE = Path(__file__).parents[1] / "docs" / "speed.md"
HEAD = """# Speed, measured

Made by `python -m benchmarks --page` from `benchmarks/results/`; not to be edited by hand. `make bench` measures anew.

Jobs run in turns in one process, A B, B A, ...; medians over rounds, ratios formed inside a round, quartiles in brackets. A speed-up
above 1 is faster than the job named in the column; rows below 1 are where we lose. Transient memory is what a call needs above its
inputs, in a process of its own.
"""


def page() -> str:
    reports = [Report.from_dict(json.loads(path.read_text())) for path in sorted(RESULTS.glob("*.json"))]
    return "\n\n".join([HEAD.strip(), *(str(report).replace("### ", "## ", 1) for report in reports)]) + "\n"
