"""The collapse study: each arm is DINO without one of its parts, from the same start, on the same pictures."""

import json

import pytest
import torch
from PIL import Image
from tests.examples.runs import DIGITS

import collapse  # isort: skip  # runs.py puts the folder of the examples on the path

SMALL = [*DIGITS, "--size", "16", "--batch", "32", "--prototypes", "32", "--crops", "2", "--steps", "12"]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    out = tmp_path_factory.mktemp("collapse")
    collapse.main([*SMALL, "--out", str(out)])
    return out


def looks(out, arm):
    return [json.loads(line) for line in (out / arm / "log.jsonl").read_text().splitlines()]


def parts(out, arm):
    return torch.load(out / arm / "checkpoint.pt", weights_only=True)["parts"]


def test_the_picture_and_the_numbers_of_all_arms(out):
    with Image.open(out / "collapse.png") as picture:
        assert picture.size == (1100, 430)
    result = json.loads((out / "result.json").read_text())
    for arm in collapse.ARMS:
        log = looks(out, arm)
        assert [line["step"] for line in log] == list(range(1, 13))
        for name in collapse.NUMBERS:
            assert result[f"{arm}_{name}"] == pytest.approx(sum(line[name] for line in log[-10:]) / 10)
        assert result[f"{arm}_information_of_all"] == pytest.approx(sum(line["information"] for line in log) / 12)


def test_each_arm_lacks_what_it_says(out):
    centres = {arm: parts(out, arm)["center"]["value"] for arm in collapse.ARMS}
    assert centres["sharpening"].abs().max() == 0
    assert all(centres[arm].abs().max() > 0 for arm in ("centring", "both", "student"))
    for arm in collapse.ARMS:
        student, teacher = parts(out, arm)["student"], parts(out, arm)["teacher"]
        name = "head.mlp.0.weight"
        assert torch.equal(student[f"network.{name}"], teacher[f"teacher.{name}"]) == (arm == "student")
    first = {arm: looks(out, arm)[0] for arm in collapse.ARMS}
    assert first["sharpening"] == first["both"] == first["student"]  # one start, the same pictures; the centre begins at 0
    assert first["centring"]["entropy"] > 0.99 * first["centring"]["uniform"] > first["both"]["entropy"]


def test_arms_and_options_of_dino(tmp_path, capsys):
    collapse.main([*SMALL, "--arms", "both", "--steps", "3", "--watch", "3", "--teacher", "sinkhorn", "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"both", "collapse.png", "result.json"}
    assert [line["step"] for line in looks(tmp_path, "both") if "entropy" in line] == [3]
    assert "log 32 = 3.466" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        collapse.parse(["--arms", "neither"])
    for row in (["--loss", "mse"], ["--watch", "81"]):
        with pytest.raises(SystemExit):
            collapse.parse(row)
        assert "expected targets that are looked at. To mend: pass --loss ce" in capsys.readouterr().err
    assert collapse.parse(["--demo"])[1]["both"].overwrite
