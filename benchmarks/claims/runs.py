"""Runs the arms of a claim: one line of JSON per run, and what is done is not done again."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.claims.claim import Claim, settings_hash
from benchmarks.harness import RESULTS, machine, versions
from sslkit._checks import wrong

FOLDER = RESULTS / "claims"


def read_runs(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a file of runs. A line torn by a kill is no JSON and is passed over: its run will be repeated."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and {"hash", "seed", "metrics"} <= record.keys():
            records.append(record)
    return records


def append_run(path: Path, record: Mapping[str, Any]) -> None:
    """Adds a line in one write, so that runs of several processes do not mix; a torn line before it is closed first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record, sort_keys=True) + "\n"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = "\n" + line
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cpu_seconds() -> float:
    """Of this process and of the processes it started that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def run_claim(claim: Claim, *, tier: str = "cpu", seeds: Sequence[int] | None = None, folder: Path = FOLDER,
              say: Callable[[str], None] = print) -> list[dict[str, Any]]:  # fmt: skip
    """Runs what is missing, seed by seed with all arms in turn, so that an interruption leaves pairs.

    Returns all runs of the file.

    Raises:
        ValueError: a runner leaves out a metric. Whatever the runner raises passes through; earlier lines are safe.
    """
    path = folder / claim.file
    done = {(record["hash"], record["seed"]) for record in read_runs(path)}
    for seed in claim.seeds if seeds is None else seeds:
        for arm in claim.arms:
            key = settings_hash(claim, arm, tier)
            if (key, seed) in done:
                continue
            settings = claim.settings(arm, tier)
            cpu, wall = cpu_seconds(), time.perf_counter()
            metrics = {name: float(value) for name, value in claim.run(settings, seed).items()}
            cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
            missing = {claim.metric, *claim.metrics} - metrics.keys()
            if missing:
                raise wrong("run_claim", given=f"metrics {sorted(metrics)} from {claim.name}/{arm}",
                            expected=f"also {sorted(missing)}", mend="return them from the runner")  # fmt: skip
            record = {"claim": claim.log or claim.name, "arm": arm, "tier": tier, "seed": seed, "hash": key, "revision": claim.revision,
                      "settings": settings, "metrics": metrics, "cpu_s": round(cpu, 2), "wall_s": round(wall, 2),
                      "versions": versions(), "machine": machine()}  # fmt: skip
            append_run(path, record)
            done.add((key, seed))
            say(f"{claim.name} | {arm} | seed {seed} | {claim.metric} {metrics[claim.metric]:.4g} | {cpu:.0f} CPU s")
    return read_runs(path)
