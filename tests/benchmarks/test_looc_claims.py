"""What stands behind LooC's claims: settings that the example takes, what is asked of a run, the controls without training."""

import pytest
from benchmarks.claims import looc
from benchmarks.claims.claim import settings_hash
from benchmarks.claims.runs import FOLDER, read_runs
from tests.examples.runs import run  # noqa: F401  puts the folder of the examples on the path

CLAIMS = {claim.name: claim for claim in looc.CLAIMS}
TASKS = ("linear", "rotation", "oriented", "hue", "shots_5", "shots_10")
FOUND = {name: float(i) for i, name in enumerate(f"{task}_{of}" for task in TASKS for of in ("before", "after", "head_color_after"))}


@pytest.fixture
def asked(monkeypatch):
    """Runs that the claims ask for; none is made."""
    calls = []
    monkeypatch.setattr(looc, "run_example", lambda example, settings, seed: calls.append((example, settings, seed)) or dict(FOUND))
    monkeypatch.setattr(looc, "trained", lambda example, settings, seed: f"runs/{example}")
    looc.example.cache_clear()
    yield calls
    looc.example.cache_clear()


@pytest.mark.parametrize("arm", looc.ARMS)
def test_the_example_takes_the_settings_of_every_arm(arm, asked):
    import looc as example

    looc.example(looc.json.dumps({key: value for key, value in looc.ARMS[arm].items() if key not in looc.ASKED}), 0)
    ((_, settings, _),) = asked
    options = [f"--{key}" if value is True else f"--{key}={value}" for key, value in settings.items()]
    known = vars(example.parse(options))
    assert {key: str(known[key.replace("-", "_")]) for key in settings} == {key: str(value) for key, value in settings.items()}


def test_what_is_asked_of_a_run(asked):
    space, gain, before = (looc.run({"steps": 1, key: value}, 0) for key, value in (("space", "color"), ("gain", True), ("before", True)))
    assert asked == [("looc", {"steps": 1}, 0)]  # a run for all of them
    assert space == {**FOUND, "rotation_space": FOUND["rotation_head_color_after"], "hue_space": FOUND["hue_head_color_after"]}
    assert gain == {**FOUND, "linear_gain": FOUND["linear_after"] - FOUND["linear_before"],
                    "hue_gain": FOUND["hue_after"] - FOUND["hue_before"]}  # fmt: skip
    assert before == {**FOUND, **{name: FOUND[name.replace("after", "before")] for name in looc.PROBES}}


def test_the_controls_without_training_are_the_networks_that_training_began_with():
    """The recorded scores of `untrained` are those that arms of the same seed and pictures had before their first step.

    Another processor rounds its sums otherwise, and of 4000 pictures a probe then calls a few by another name: 0.1 points were seen.
    """
    records = {(record["hash"], record["seed"]): record["metrics"] for record in read_runs(FOLDER / "looc.jsonl")}
    claims = [claim for name, claim in CLAIMS.items() if name.startswith("looc-over-random")]
    assert len(claims) == 4
    for claim in claims:
        for seed in claim.seeds:
            ahead, behind = (records[settings_hash(claim, arm, "cpu"), seed] for arm in claim.better)
            for name in claim.metrics:
                assert behind[name] == pytest.approx(ahead[name.replace("after", "before")], abs=0.2)
