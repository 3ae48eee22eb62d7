import json
import math

import pytest
from benchmarks.claims import __main__ as entry
from benchmarks.claims.claim import Claim, replace, settings_hash, standing, verdict
from benchmarks.claims.plot import plot_claims
from benchmarks.claims.runs import append_run, read_runs, run_claim
from benchmarks.claims.table import families, table, write_table

BASE = {"ours": {"steps": 300, "crop": False}, "theirs": {"steps": 300, "crop": True}}


def make(run=None, **changes):
    def measure(settings, seed):
        return {"linear": 50.0 + seed - (20 + seed / 2 if settings["crop"] else 0)}

    fields = {"name": "crop", "statement": "crops alone collapse", "source": "a paper, table 5", "paper": "69 | 41", "arms": BASE,
              "metric": "linear", "better": ("ours", "theirs"), "run": run or measure, **changes}  # fmt: skip
    return Claim(**fields)


def quiet(text):
    pass


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([], "not resolved"),
        ([5.0], "not resolved"),
        ([5.0, 5.0], "not resolved"),  # n < 3, however clear
        ([5.0, 5.1, 4.9], "reproduced"),
        ([-5.0, -5.1, -4.9], "opposite"),
        ([5.0, -1.0, 1.0], "not resolved"),
        ([0.0, 0.0, 0.0], "not resolved"),  # 0 > 0 does not hold
        ([1.0, 1.0, 1.0], "reproduced"),
        ([5.0, 5.0, math.nan], "not resolved"),
        ([5.0, 5.0, math.inf], "not resolved"),
        # mean 2, sd 1: needs 2 > 2 / sqrt(n); and mean 1.1, sd 1: 1.1 < 2 / sqrt(3) = 1.155
        ([1.0, 2.0, 3.0], "reproduced"),
        ([0.1, 1.1, 2.1], "not resolved"),
    ],
)
def test_the_rule(differences, expected):
    assert verdict(differences).verdict == expected
    mirror = {"reproduced": "opposite", "opposite": "reproduced"}
    assert verdict([-d for d in differences]).verdict == mirror.get(expected, expected)


def test_every_run_is_a_line_and_is_run_once(tmp_path):
    calls = []

    def run(settings, seed):
        calls.append((settings["crop"], seed))
        return {"linear": float(seed), "knn": 1.0}

    claim = make(run)
    records = run_claim(claim, folder=tmp_path, say=quiet)
    assert calls == [(False, 0), (True, 0), (False, 1), (True, 1), (False, 2), (True, 2)]  # pairs first
    assert run_claim(claim, folder=tmp_path, say=quiet) == records
    assert len(calls) == 6
    run_claim(claim, folder=tmp_path, seeds=[2, 3], say=quiet)
    assert calls[6:] == [(False, 3), (True, 3)]
    lines = (tmp_path / "crop.jsonl").read_text().splitlines()
    assert len(lines) == 8
    assert {"arm", "seed", "settings", "metrics", "cpu_s", "wall_s", "versions", "machine", "hash"} <= json.loads(lines[0]).keys()
    # other settings, or a raised revision, are other runs; the old lines stay
    run_claim(replace(claim, revision=2), folder=tmp_path, seeds=[0], say=quiet)
    run_claim(replace(claim, quick={"steps": 3}), folder=tmp_path, seeds=[0], tier="quick", say=quiet)
    assert len(calls) == 12
    assert len(read_runs(tmp_path / "crop.jsonl")) == 12


def test_claims_that_share_a_file_share_the_runs_of_their_common_arms(tmp_path):
    calls = []

    def run(settings, seed):
        calls.append(settings["steps"])
        return {"linear": float(settings["steps"])}

    arms = {"default": {"steps": 1}, "a": {"steps": 2}, "b": {"steps": 3}}
    first, second = (
        make(run, name=f"over-{arm}", log="both", arms={name: arms[name] for name in ("default", arm)}, better=("default", arm))
        for arm in ("a", "b")
    )
    run_claim(first, folder=tmp_path, seeds=[0], say=quiet)
    records = run_claim(second, folder=tmp_path, seeds=[0], say=quiet)
    assert calls == [1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["both.jsonl"]
    assert standing(first, records, "cpu").judgement.differences == (-1.0,)
    assert standing(second, records, "cpu").judgement.differences == (-2.0,)
    with pytest.raises(ValueError, match="log='a/b'; expected letters, digits, _ and -"):
        make(log="a/b")


@pytest.mark.parametrize("cut", [1, 10, -1])
def test_a_torn_line_is_run_again_and_the_rest_stays(tmp_path, cut):
    claim = make()
    run_claim(claim, folder=tmp_path, say=quiet)
    path = tmp_path / "crop.jsonl"
    whole = path.read_text().splitlines()
    path.write_text("\n".join(whole[:-1]) + "\n" + (whole[-1][:cut]))
    assert len(read_runs(path)) == 5
    records = run_claim(claim, folder=tmp_path, say=quiet)
    assert len(records) == 6
    assert [r["metrics"] for r in records] == [json.loads(line)["metrics"] for line in whole]
    assert len(standing(claim, records, "cpu").judgement.differences) == 3


def test_only_the_newline_lost_is_a_whole_line(tmp_path):
    path = tmp_path / "a.jsonl"
    append_run(path, {"hash": "a", "seed": 0, "metrics": {}})
    path.write_text(path.read_text().rstrip("\n"))
    append_run(path, {"hash": "b", "seed": 0, "metrics": {}})
    assert [r["hash"] for r in read_runs(path)] == ["a", "b"]


def test_a_kill_between_runs_loses_nothing(tmp_path):
    def run(settings, seed):
        if seed == 1 and settings["crop"]:
            raise KeyboardInterrupt
        return {"linear": 1.0}

    with pytest.raises(KeyboardInterrupt):
        run_claim(make(run), folder=tmp_path, say=quiet)
    records = read_runs(tmp_path / "crop.jsonl")
    assert [(r["arm"], r["seed"]) for r in records] == [("ours", 0), ("theirs", 0), ("ours", 1)]
    page = table([standing(make(run), records, "cpu")])
    assert "without a partner of the same seed: ours seed 1" in page
    assert len(run_claim(make(), folder=tmp_path, say=quiet)) == 6


def test_no_run_is_dropped(tmp_path):
    """Diverged and unfavourable runs stay in the means, and a repeated seed cannot replace the first."""
    values = {(False, 0): math.nan, (False, 1): 10.0, (False, 2): 11.0}
    claim = make(lambda settings, seed: {"linear": values.get((settings["crop"], seed), 20.0 + seed)})
    records = run_claim(claim, folder=tmp_path, say=quiet)
    append_run(tmp_path / "crop.jsonl", {**records[0], "metrics": {"linear": 99.0}})
    result = standing(claim, read_runs(tmp_path / "crop.jsonl"), "cpu")
    assert math.isnan(result.values("ours")[0])
    assert len(result.judgement.differences) == 3
    assert result.judgement.verdict == "not resolved"
    assert "ours nan (3)" in table([result])


def test_the_page_has_every_claim_by_method_and_verdict(tmp_path):
    good = make()
    bad = make(lambda settings, seed: {"linear": 5.0 + seed + 3 * settings["crop"]}, name="crop-other", note="too small")
    empty, lone = make(name="crop-none", statement="never run"), make(name="apart")
    standings = [standing(c, run_claim(c, folder=tmp_path, say=quiet), "cpu") for c in (bad, good)]
    standings = [standing(empty, [], "cpu"), *standings, standing(lone, [], "cpu")]
    page = table(standings)
    head, apart, crop = page.split("\n## ")
    assert "| [apart](#apart) | 0 | 0 | 0 | 1 |\n| [crop](#crop) | 1 | 0 | 1 | 1 |" in head
    assert "![" not in apart
    rows = [line for line in crop.splitlines() if line.startswith("| ")][1:]
    assert ["**reproduced**" in rows[0], "**opposite**" in rows[1], "**not run on both sides yet**" in rows[2]] == [True] * 3
    assert rows[0].startswith(
        "| crops alone collapse (a paper, table 5) | 69 \\| 41 | linear: ours 51.0 +- 1.0 (3); theirs 30.5 +- 0.5 (3) | "
    )
    assert "+20.5 +- 0.5 (3)" in rows[0]
    assert "-3.0 +- 0.0 (3)" in rows[1]
    assert "never run" in rows[2]
    assert "no run" in rows[2]
    assert "- crop-other: too small" in crop
    assert write_table(standings, tmp_path / "docs" / "claims.md").read_text() == page
    assert [[s.claim.name for s in own] for own in families(standings).values()] == [["apart"], ["crop", "crop-other", "crop-none"]]
    assert plot_claims(families(standings)["crop"], tmp_path / "crop.png").stat().st_size > 5000
    assert plot_claims(families(standings)["apart"], tmp_path / "none.png") is None


def test_smaller_is_better_turns_the_sign():
    claim = make(larger=False)
    records = [{"hash": settings_hash(claim, arm, "cpu"), "seed": s, "metrics": {"linear": v}}
               for s in range(3) for arm, v in (("ours", 1.0 + s), ("theirs", 3.0 + s))]  # fmt: skip
    assert standing(claim, records, "cpu").judgement.differences == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "a/b"},
        {"name": ""},
        {"better": ("ours", "ours")},
        {"better": ("ours", "x")},
        {"tiers": ("slow",)},
        {"arms": {"ours": {"a": 1}, "theirs": {"a": 1}}, "better": ("ours", "x")},
    ],
)
def test_wrong_claims(change):
    with pytest.raises(ValueError, match=r"Claim: got .* expected .* To mend"):
        make(**change)


def test_a_runner_must_return_the_metric(tmp_path):
    with pytest.raises(ValueError, match=r"expected also \['linear'\]"):
        run_claim(make(lambda settings, seed: {"knn": 1.0}), folder=tmp_path, say=quiet)
    assert read_runs(tmp_path / "crop.jsonl") == []


def test_command_line(tmp_path, monkeypatch, capsys):
    claims = [make(tiers=("cpu", "quick"), quick={"steps": 2}), make(name="large", tiers=("gpu",), log="shared")]
    monkeypatch.setattr(entry, "discover", lambda: claims)
    monkeypatch.setattr(entry, "FOLDER", tmp_path)
    monkeypatch.setattr(entry, "DOCS", tmp_path)
    monkeypatch.setattr(entry, "run_claim", lambda claim, **options: run_claim(claim, folder=tmp_path, **options))
    monkeypatch.setattr(entry.torch, "set_num_threads", lambda count: None)
    assert entry.main(["--tier", "quick"]) == 0
    assert "crop | ours | seed 0" in capsys.readouterr().out
    assert not (tmp_path / "claims.md").exists()  # a smoke run gives no verdict to the docs
    assert entry.main(["--seeds", "0", "1", "2"]) == 0
    page = (tmp_path / "claims.md").read_text()
    assert "**reproduced**" in page
    assert "no run" in page  # the row that was not run is there all the same
    assert [path.name for path in (tmp_path / "claims").iterdir()] == ["crop.png"]
    assert not (tmp_path / "shared.jsonl").exists()
    assert entry.main(["shared", "--seeds", "0"]) == 0  # by the file of results
    assert len(read_runs(tmp_path / "shared.jsonl")) == 2
    with pytest.raises(SystemExit):
        entry.main(["unknown"])


def test_discovery():
    names = [claim.name for claim in entry.discover()]
    assert names == sorted(set(names))
