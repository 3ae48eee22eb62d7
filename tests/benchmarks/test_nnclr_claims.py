"""What stands behind NNCLR's claims: a change by crops alone, the picture of match against probe, settings that the examples take."""

import pytest
from benchmarks.claims import nnclr, nnclr_match
from tests.examples.runs import run  # noqa: F401  puts the folder of the examples on the path


def test_a_change_is_what_crops_alone_gain(monkeypatch):
    asked = []

    def trained(example, settings, seed):
        asked.append((example, settings, seed))
        return {
            f"{score}_after": value - 10 * bool(settings.get("crop-only"))
            for score, value in (("few_shot", 70.0), ("knn", 60.0), ("linear", 80.0))
        }

    monkeypatch.setattr(nnclr, "run_example", trained)
    (claim,) = [claim for claim in nnclr.CLAIMS if claim.name == "nnclr-crop-only-scenes-byol"]
    found = claim.run(claim.settings("scenes, BYOL", "quick"), 7)
    assert (found["linear_full"], found["linear_crop"]) == (80, 70)
    assert found["linear_change"] == found["few_shot_change"] == -10
    shared = {"data": "scenes", "steps": 20, "method": "byol"}
    assert asked == [("siamese", shared, 7), ("siamese", {**shared, "crop-only": True}, 7)]


@pytest.mark.parametrize("claim", nnclr.CLAIMS, ids=lambda claim: claim.name)
def test_the_examples_take_the_settings_of_every_arm(claim, monkeypatch):
    """Every run that a claim asks for, parsed as its example would."""
    import nnclr as nnclr_example  # of the examples
    import siamese
    import simclr

    parsers = {"nnclr": nnclr_example, "siamese": siamese, "simclr": simclr}

    def parsed(example, settings, seed):
        options = [f"--{key}" if value is True else f"--{key}={value}" for key, value in settings.items() if value is not False]
        known = vars(parsers[example].parse(options))
        assert all(known[key.replace("-", "_")] == value for key, value in settings.items())
        return {f"{score}_after": 1.0 for score in ("few_shot", "knn", "linear")}

    monkeypatch.setattr(nnclr, "run_example", parsed)
    for arm in claim.arms:
        settings = claim.settings(arm, "cpu")
        nnclr.full_and_crop(settings, 0) if "example" in settings else parsed("nnclr", settings, 0)


def test_the_picture_of_match_against_probe(tmp_path):
    course = [{"step": step, "match": step / 100, "few_shot": 50.0 + step, "linear": 60.0 + step} for step in (10, 20)]
    runs = [{"arm": f"arm {i}", "metrics": {"match": 0.9, "few_shot_after": 80.0 + i}} for i in range(12)]
    for name, courses in (("both", {"digits": course, "scenes": course}), ("none", {})):
        assert nnclr_match.plot(courses, runs, tmp_path / f"{name}.png").stat().st_size > 5000
