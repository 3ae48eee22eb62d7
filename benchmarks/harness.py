"""Side-by-side measurement: interleaved rounds, medians with quartiles, peak memory, and a report that says where it ran.

    report = compare("knn", {"ours": lambda: f(x), "plain": lambda: g(x)}, reference="plain")

Jobs are timed A B, B A, A B, ... in one process, so that a slow minute of the machine meets all of them; a ratio is formed
inside a round, and the median over rounds is reported with its quartiles. CPU time of the process is the number to trust on a
shared machine, wall time is kept.
"""

import argparse
import contextlib
import ctypes
import gc
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from sslkit._checks import wrong

RESULTS = Path(__file__).parent / "results"
Call = Callable[[], Any]


@dataclass(frozen=True)
class Quartiles:
    """25 %, 50 % and 75 % of the rounds."""

    low: float
    median: float
    high: float

    @staticmethod
    def of(values: list[float]) -> "Quartiles":
        if len(values) == 1:
            return Quartiles(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return Quartiles(low, median, high)


@dataclass(frozen=True)
class Row:
    """One job: milliseconds, and how many times longer it takes than the reference job (per round; below 1 is faster)."""

    job: str
    cpu_ms: Quartiles
    wall_ms: Quartiles
    cpu_ratio: Quartiles
    wall_ratio: Quartiles
    peak_mib: float | None = None


@dataclass(frozen=True)
class Report:
    """What was measured, where, with which versions."""

    name: str
    title: str
    reference: str
    rounds: int
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def save(self, folder: Path = RESULTS) -> Path:
        """Writes <folder>/<name>.json, by a rename: a killed run leaves the old file whole."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(asdict(self), indent=1) + "\n")
        temporary.replace(path)
        return path

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Report":
        """The report that `save` wrote."""
        quartiles = ("cpu_ms", "wall_ms", "cpu_ratio", "wall_ratio")
        rows = tuple(
            Row(**{key: Quartiles(**value) if key in quartiles else value for key, value in row.items()}) for row in values["rows"]
        )
        return Report(**{**values, "rows": rows, "notes": tuple(values["notes"])})

    def __str__(self) -> str:
        """A Markdown table; `speed-up` is the reference's time over the job's."""
        head = f"| job | CPU ms | wall ms | speed-up over {self.reference} (quartiles) | transient MiB |"
        lines = [f"### {self.title}", "", head, "|---|---|---|---|---|"]
        for row in self.rows:
            r = row.cpu_ratio
            peak = "" if row.peak_mib is None else f"{row.peak_mib:.0f}"
            lines.append(f"| {row.job} | {row.cpu_ms.median:.3g} | {row.wall_ms.median:.3g} | {1 / r.median:.2f} "
                         f"({1 / r.high:.2f}..{1 / r.low:.2f}) | {peak} |")  # fmt: skip
        flags = self.machine.get("flags", ())
        widest = next((name for name in ("avx512f", "avx2", "sve", "asimd") if name in flags), None)
        where = [
            " with ".join(filter(None, (self.machine.get("cpu"), widest))),
            f"{self.machine.get('threads')} thread(s)",
            f"torch {self.versions.get('torch')}",
        ]
        notes = ["", *(f"- {note}" for note in self.notes)] if self.notes else []
        return "\n".join([*lines, "", ", ".join(map(str, [*where, f"{self.rounds} rounds"])), *notes])


def compare(name: str, jobs: Mapping[str, Call], *, rounds: int = 7, reference: str | None = None, title: str | None = None,
            agree: Callable[[Any, Any], None] | None = torch.testing.assert_close,
            peaks: Mapping[str, Callable[[], Call]] | None = None, notes: tuple[str, ...] = (), more: tuple[str, ...] = (),
            cpu_clock: Callable[[], float] = time.process_time,
            wall_clock: Callable[[], float] = time.perf_counter) -> Report:  # fmt: skip
    """Checks that all jobs give the reference's answer, then times them in turns.

    Args:
        name: of the report and its file.
        jobs: name -> a call without arguments, inputs already made.
        rounds: every round runs each job once; every second round in the opposite order. Each job runs once before, untimed.
        reference: the job that ratios refer to; the last one if left out.
        title: of the printed table; the name if left out.
        agree: (answer, reference's answer) -> None, raises where they differ. None skips the check; the notes should say why.
        peaks: name -> a picklable setup for `transient_peak`, for the jobs whose memory is wanted.
        notes: lines printed under the table.
        more: distributions whose versions are kept, beside those of every report.
        cpu_clock: seconds of process CPU time.
        wall_clock: seconds.

    Raises:
        AssertionError: whatever `agree` raises, before anything is timed, with the name of the job.
        ValueError: no job, an unknown reference or peak, or rounds below 1.
    """
    names = list(jobs)
    reference = names[-1] if names and reference is None else str(reference)
    unknown = [name for name in [reference, *(peaks or {})] if name not in jobs]
    if not names or unknown or rounds < 1:
        raise wrong("compare", given=f"jobs {names}, unknown names {unknown}, rounds={rounds}",
                    expected="at least one job and one round", mend="use the names of jobs for reference and peaks")  # fmt: skip
    answer = jobs[reference]()
    for job in names:
        mine = answer if job == reference else jobs[job]()
        if agree is not None:
            try:
                agree(mine, answer)
            except AssertionError as error:
                raise AssertionError(f"{name}: {job} disagrees with {reference}: {error}") from error
        del mine
    del answer
    cpu: dict[str, list[float]] = {n: [] for n in names}
    wall: dict[str, list[float]] = {n: [] for n in names}
    for turn in range(rounds):
        for job in names if turn % 2 == 0 else names[::-1]:
            gc.collect()
            cpu_start, wall_start = cpu_clock(), wall_clock()
            jobs[job]()
            cpu[job].append(1e3 * (cpu_clock() - cpu_start))
            wall[job].append(1e3 * (wall_clock() - wall_start))
    rows = []
    for job in names:
        ratios = _ratio(cpu[job], cpu[reference]), _ratio(wall[job], wall[reference])
        peak = transient_peak(peaks[job]) if peaks and job in peaks else None
        rows.append(Row(job, Quartiles.of(cpu[job]), Quartiles.of(wall[job]), *ratios, peak))
    return Report(name, title or name, reference, rounds, tuple(rows), notes, machine(), versions(*more))


def command(description: str | None, run: Callable[..., Report], jobs: Sequence[Any] = (), *, rounds: int) -> Callable[..., None]:
    """The command line of a file of jobs: main(argv) calls run(job, rounds) for each job asked for, or run(rounds), saves and prints."""

    def main(argv: Sequence[str] | None = None) -> None:
        parser = argparse.ArgumentParser(description=description)
        if jobs:
            parser.add_argument("--jobs", nargs="+", type=type(jobs[0]), choices=jobs, default=list(jobs))
        parser.add_argument("--rounds", type=int, default=rounds)
        parser.add_argument("--threads", type=int, default=1)
        options = parser.parse_args(argv)
        torch.set_num_threads(options.threads)
        for arguments in [(job,) for job in options.jobs] if jobs else [()]:
            report = run(*arguments, options.rounds)
            print(report, report.save(), sep="\n", end="\n\n")

    return main


def _ratio(mine: list[float], reference: list[float]) -> Quartiles:
    # a clock of coarse steps may read 0 for a short call: a ratio of nothing is nan, not an exception after a long run.
    return Quartiles.of([a / b if b else float("nan") for a, b in zip(mine, reference, strict=True)])


def transient_peak(setup: Callable[[], Call], *, timeout: float = 600) -> float:
    """MiB that one call needs above what is held before it, in a fresh process (Linux).

        setup() -> call;  call() once, dropped;  heap trimmed;  base = VmRSS;  high-water mark reset;  call();  VmHWM - base

    The answer itself counts, as it is alive at the end of the call. `setup` must be picklable: a module-level function or a
    partial of one.

    Raises:
        RuntimeError: not on Linux, or the process died.
    """
    if sys.platform != "linux":
        raise wrong("transient_peak", given=f"platform {sys.platform}", expected="linux, which keeps VmHWM",
                    mend="leave peaks out here", kind=RuntimeError)  # fmt: skip
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_peak_worker, args=(setup, torch.get_num_threads(), send))
    process.start()
    send.close()
    try:
        if not receive.poll(timeout):
            raise wrong("transient_peak", given=f"no answer in {timeout} s", expected="one",
                        mend="raise timeout or shrink the job", kind=RuntimeError)  # fmt: skip
        outcome = receive.recv()
    except EOFError:
        outcome = "the process died without a word (out of memory?)"
    finally:
        if process.is_alive():
            process.join(5)
        if process.is_alive():
            process.terminate()
            process.join()
    if isinstance(outcome, str):
        raise wrong("transient_peak", given=outcome, expected="a measured call", mend="run setup()() by itself", kind=RuntimeError)
    return float(outcome)


def _peak_worker(setup: Callable[[], Call], threads: int, send: Any) -> None:
    try:
        torch.set_num_threads(threads)
        call = setup()
        call()
        gc.collect()
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):  # glibc alone has it; elsewhere freed heap counts as held, so the figure is low
            libc.malloc_trim(0)
        # VmHWM starts again from the present; where that is forbidden, the mark of the warm call stands, which is the same call.
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        base = _status("VmRSS")
        answer = call()
        peak = (_status("VmHWM") - base) / 1024
        del answer
        send.send(max(peak, 0.0))
    except Exception as error:
        send.send(f"{type(error).__name__}: {error}")


def _status(key: str) -> int:
    """A field of this process's status, in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"no {key} in /proc/self/status")


def machine() -> dict[str, Any]:
    """Processor, cores, threads PyTorch uses, instruction sets that change matrix products, memory, GPU. No host name."""
    model, flags = platform.processor() or platform.machine(), ""
    memory = None
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = value
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    notable = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": model, "cores": cores, "threads": torch.get_num_threads(), "flags": [f for f in notable if f in flags.split()],
            "memory_gib": memory, "gpu": gpu, "system": f"{platform.system()} {platform.machine()}"}  # fmt: skip


def versions(*more: str) -> dict[str, str]:
    """Python and the packages that numbers depend on, plus `more` by distribution name; absent ones are left out."""
    found = {"python": platform.python_version()}
    for name in ("sslkit", "torch", "torchvision", "kornia", "numpy", *more):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if "sslkit" not in found:  # run from a checkout that is not installed
        import sslkit

        found["sslkit"] = sslkit.__version__
    return found
