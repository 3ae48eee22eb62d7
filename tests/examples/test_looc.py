"""LooC as a user runs it: every row of the paper's tables, a killed run, refusals."""

import json

import pytest
import torch
from tests.examples.runs import DIGITS, killed_and_resumed, losses, run, same, state

import looc  # isort: skip  # runs.py puts the folder of the examples on the path

SMALL = [*DIGITS, "--size", "16", "--batch", "64", "--queue", "128"]
ROWS = {
    "MoCo": (["--augmentations", "none"], 1, 1),
    "MoCo + Rotation": (["--augmentations", "none", "--rotation", "independent"], 1, 1),
    "MoCo + Rotation, the same": (["--augmentations", "none", "--rotation", "shared"], 1, 1),
    "LooC, color": (["--augmentations", "color"], 2, 2),
    "LooC, both": (["--augmentations", "color,rotation"], 3, 3),
    "LooC++": (["--augmentations", "color,rotation", "--plus-plus"], 3, 3),
}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_the_tables(row, tmp_path, capsys):
    options, heads, keys = ROWS[row]
    looc.main([*SMALL, *options, "--steps", "6", "--out", str(tmp_path)])
    parts = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["parts"]
    assert len({name.split(".")[0] for name in parts["queues"]}) == heads
    assert looc.views_of(looc.parse([*SMALL, *options])).views == keys + 1
    assert ("heads.stages.0.0.weight" in parts["network"]) == ("--plus-plus" in options)
    for head in range(heads):  # each queue holds its own head's keys of the last steps
        rows = parts["queues"][f"{head}.rows"]
        assert parts["queues"][f"{head}.filled"] == 128
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(128))
    if heads > 1:
        assert (parts["queues"]["0.rows"] * parts["queues"]["1.rows"]).sum(dim=1).mean() < 0.9
    result = json.loads((tmp_path / "result.json").read_text())
    assert {"rotation_before", "rotation_after", "linear_after"} < result.keys()
    assert {path.name for path in tmp_path.glob("*.png")} == {"views.png", "loss.png"}
    assert all(value > 0 for value in losses(tmp_path))
    shown = capsys.readouterr().out
    assert "chance of a quarter turn 25.0" in shown


def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    options = [*SMALL, "--steps", "12", "--save-every", "1"]
    run("looc", *options, "--out", tmp_path / "whole")
    killed_and_resumed("looc", tmp_path / "killed", options, kills=1, seed=0)
    assert same(state(tmp_path / "killed"), state(tmp_path / "whole"))


def test_refusals(capsys):
    for options, text in (("--augmentations blur", "got 'blur'; expected none, or some of color, rotation"),
                          ("--augmentations color,color", "got 'color,color'"),
                          ("--augmentations color --rotation shared", "expected one of the two")):  # fmt: skip
        with pytest.raises(SystemExit):
            looc.parse(options.split())
        assert text in capsys.readouterr().err
