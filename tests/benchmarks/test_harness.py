import itertools
import json
import os
import sys

import pytest
import torch
from benchmarks._page import PAGE, page
from benchmarks.harness import Quartiles, Report, Row, compare, machine, transient_peak, versions

from benchmarks import __main__ as entry
from benchmarks import harness


class Clock:
    """A clock that a job moves: nothing here depends on how long anything takes."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def timed_jobs(clock, seconds, order):
    def job(name):
        turns = itertools.cycle(seconds[name])

        def call():
            order.append(name)
            clock.now += next(turns)
            return torch.ones(2)

        return call

    return {name: job(name) for name in seconds}


def test_rounds_alternate_and_ratios_are_formed_inside_a_round():
    clock, order = Clock(), []
    # the first value is the untimed call; the machine is ten times slower in the second round, for both
    jobs = timed_jobs(clock, {"ours": [9, 1, 10, 1], "plain": [9, 2, 20, 4]}, order)
    report = compare("x", jobs, rounds=3, reference="plain", cpu_clock=clock, wall_clock=clock)
    assert order[2:] == ["ours", "plain", "plain", "ours", "ours", "plain"]
    ours, plain = report.rows
    assert ours.cpu_ms == Quartiles(1000, 1000, 5500)
    assert ours.cpu_ratio == Quartiles(0.375, 0.5, 0.5)
    assert plain.wall_ratio == Quartiles(1, 1, 1)
    assert "| ours | 1e+03 | 1e+03 | 2.00 (2.00..2.67) |  |" in str(report)


def test_answers_are_compared_before_anything_is_timed():
    clock = Clock()
    jobs = {"ours": lambda: torch.zeros(1), "plain": lambda: torch.ones(1)}

    def forbidden():
        raise RuntimeError("timed")

    with pytest.raises(AssertionError, match="x: ours disagrees with plain"):
        compare("x", jobs, cpu_clock=forbidden, wall_clock=forbidden)
    assert compare("x", jobs, rounds=1, agree=None, cpu_clock=clock, wall_clock=clock).rounds == 1


def test_a_clock_that_stands_gives_nan_not_an_exception():
    report = compare("x", {"a": lambda: 1}, rounds=2, cpu_clock=Clock(), wall_clock=Clock())
    assert "nan" in str(report)


@pytest.mark.parametrize("change", [{"jobs": {}}, {"reference": "b"}, {"rounds": 0}, {"peaks": {"b": list}}])
def test_wrong_input(change):
    with pytest.raises(ValueError, match="To mend"):
        compare(**{"name": "x", "jobs": {"a": lambda: 1}, **change})


def test_report_goes_to_json_whole(tmp_path):
    row = Row("a", *[Quartiles(1, 2, 3)] * 4, peak_mib=4.0)
    report = Report("x", "X", "a", 3, (row,), ("a note",), machine(), versions("pytest"))
    path = report.save(tmp_path / "new")
    content = json.loads(path.read_text())
    assert content["rows"][0]["cpu_ms"] == {"low": 1, "median": 2, "high": 3}
    assert {"cpu", "cores", "threads", "flags"} <= content["machine"].keys()
    assert {"python", "torch", "sslkit", "pytest"} <= content["versions"].keys()
    assert os.listdir(path.parent) == ["x.json"]
    assert "- a note" in str(report)
    assert Report.from_dict(content) == report


def test_the_page_is_that_of_the_committed_results():
    assert PAGE.read_text() == page(), "run `python -m benchmarks --page`"


def _allocate():
    return _make


def _make():
    work = torch.ones(8 * 2**20)  # 32 MiB, given back
    return work[:10].clone()


def _broken():
    raise OSError("no data")


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")
def test_peak_memory_of_a_call():
    peak = transient_peak(_allocate)
    assert 28 < peak < 48  # 32 MiB and some pages


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")
def test_peak_memory_of_a_failing_setup():
    with pytest.raises(RuntimeError, match="OSError: no data"):
        transient_peak(_broken)


def test_peak_memory_elsewhere_is_an_honest_error(monkeypatch):
    monkeypatch.setattr(harness.sys, "platform", "darwin")
    with pytest.raises(RuntimeError, match="got platform darwin; expected linux"):
        transient_peak(_allocate)


def test_every_job_is_run_and_a_failure_is_told(monkeypatch, capsys, tmp_path):
    ran = []

    class Good:
        @staticmethod
        def main(argv):
            ran.append(argv)

    class Bad:
        @staticmethod
        def run():
            raise ValueError("broken")

    monkeypatch.setattr(entry, "discover", lambda: {"bad": Bad, "good": Good})
    monkeypatch.setattr(entry, "PAGE", tmp_path / "speed.md")  # not the one of the documentation
    assert entry.main(["--", "--rounds", "3"]) == 1
    assert ran == [["--rounds", "3"]]
    assert "bad failed: ValueError: broken" in capsys.readouterr().err
    assert entry.main(["good"]) == 0
    assert entry.PAGE.read_text() == page()
    with pytest.raises(SystemExit):
        entry.main(["other"])


def test_discovery_finds_the_jobs_of_the_folder():
    jobs = entry.discover()
    assert "knn" in jobs
    assert not {"harness", "claims", "__main__"} & jobs.keys()


def test_a_command_runs_the_jobs_that_are_asked_for(monkeypatch, capsys, tmp_path):
    asked = []
    monkeypatch.setattr(harness.Report, "save", lambda self: tmp_path / f"{self.name}.json")
    monkeypatch.setattr(harness.torch, "set_num_threads", lambda count: asked.append(count))

    def run(*arguments):
        asked.append(arguments)
        return compare("once", {"job": lambda: 1}, rounds=1, agree=None)

    main = harness.command("What it is.", run, ["small", "large"], rounds=3)
    main([])
    main(["--jobs", "large", "--rounds", "2", "--threads", "4"])
    harness.command(None, run, rounds=5)([])
    assert asked == [1, ("small", 3), ("large", 3), 4, ("large", 2), 1, (5,)]
    assert "### once" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--jobs", "other"])
