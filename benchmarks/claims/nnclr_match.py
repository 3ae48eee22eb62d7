"""NNCLR's figure 3: how often the neighbour is of the picture's class, against a linear probe.

python -m benchmarks.claims.nnclr_match [--run digits scenes]

Writes docs/nnclr_match.png: in the course of one run (`--run` makes it anew, its log stays in benchmarks/results/claims), and over the
last steps of all recorded runs of NNCLR's claims.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.claims._example import EXAMPLES
from benchmarks.claims.nnclr import ARMS, SCENES
from benchmarks.claims.runs import FOLDER, read_runs

RUNS = {"digits": ["--steps=300"], "scenes": [f"--{key}={value}" for key, value in SCENES.items() if value is not True]}
RUNS["scenes"] += ["--flip", "--augment=full"]
PICTURE = Path(__file__).parents[2] / "docs" / "nnclr_match.png"
PROBES = 20


def log_of(data: str) -> Path:
    return FOLDER / f"nnclr_match_{data}.jsonl"


def train(data: str) -> None:
    """One run; of its log, the lines that have a probe."""
    with tempfile.TemporaryDirectory() as folder:
        options = [*RUNS[data], f"--probe={PROBES}", "--seed=0", "--threads=1", f"--out={folder}"]
        subprocess.run([sys.executable, str(EXAMPLES / "nnclr.py"), *options], check=True)
        lines = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    FOLDER.mkdir(parents=True, exist_ok=True)
    log_of(data).write_text("".join(json.dumps(line) + "\n" for line in lines if "linear" in line))


def plot(courses: Mapping[str, Sequence[Mapping[str, float]]], runs: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """A panel for the course of each run, {data: lines of a log}, and one for the last steps of many, by arm."""
    from matplotlib.figure import Figure

    score = {"digits": ("few_shot", "linear probe, 5 labels a class, %"), "scenes": ("linear", "linear probe, %")}
    figure = Figure(figsize=(4.6 * (len(courses) + 1), 4.4), layout="constrained")
    *left, right = figure.subplots(1, len(courses) + 1, squeeze=False)[0]
    for axes, (data, lines) in zip(left, courses.items(), strict=True):
        key, label = score[data]
        points = axes.scatter([100 * line["match"] for line in lines], [line[key] for line in lines], c=[line["step"] for line in lines])
        figure.colorbar(points, ax=axes, label="step", shrink=0.8)
        axes.set(title=f"{data}, one run", ylabel=label)
    for i, arm in enumerate(dict.fromkeys(run["arm"] for run in runs)):
        own = [run["metrics"] for run in runs if run["arm"] == arm]
        right.scatter([100 * m["match"] for m in own], [m["few_shot_after"] for m in own], color=f"C{i % 10}", marker="osD^"[i // 10 % 4],
                      label=arm, alpha=0.8)  # fmt: skip
    right.set(title="digits, the end of each run", ylabel=score["digits"][1])
    right.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    for axes in (*left, right):
        axes.set_xlabel("neighbours of the picture's class, %")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    return path


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims.nnclr_match", description=__doc__.split("\n")[0])
    parser.add_argument("--run", nargs="*", choices=list(RUNS), default=[], help="train these anew")
    for data in parser.parse_args(argv).run:
        train(data)
    courses = {data: [json.loads(line) for line in log_of(data).read_text().splitlines()] for data in RUNS if log_of(data).exists()}
    written = {arm for arm, settings in ARMS.items() if settings.get("data", "digits") == "digits"}
    runs = [run for run in read_runs(FOLDER / "nnclr.jsonl") if run["tier"] == "cpu" and run["arm"] in written]
    print(plot(courses, runs, PICTURE))


if __name__ == "__main__":
    main()
