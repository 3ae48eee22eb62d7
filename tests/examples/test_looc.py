"""LooC as a user runs it: every row of the paper's tables, what each space is asked, two processes, a killed run, refusals."""

import json

import pytest
import torch
from tests.examples.runs import DIGITS, killed_and_resumed, losses, run, same, state

from sslkit.datasets import Scenes
from sslkit.modules import MomentumEncoder

import common  # isort: skip  # runs.py puts the folder of the examples on the path
import looc  # isort: skip
import looc_spaces  # isort: skip
import supervised  # isort: skip

SMALL = [*DIGITS, "--size", "16", "--batch", "64", "--queue", "128"]
ROWS = {
    "MoCo": (["--augmentations", "none"], 1, 1),
    "MoCo + Rotation": (["--augmentations", "none", "--rotation", "independent"], 1, 1),
    "MoCo + Rotation, the same": (["--augmentations", "none", "--rotation", "shared"], 1, 1),
    "LooC, color": (["--augmentations", "color"], 2, 2),
    "LooC, both": (["--augmentations", "color,rotation"], 3, 3),
    "LooC, three": (["--augmentations", "texture,color,rotation"], 4, 4),
    "LooC++": (["--augmentations", "color,rotation", "--plus-plus"], 3, 3),
}


def keys_of(options, teacher, step):
    """The keys of a step, recomputed by a teacher that never moved: [heads, batch, dim], head h of the view that shares augmentation h."""
    data, views = common.load_data("digits", 16), looc.views_of(options)
    epoch, indices = common.batch_of(step, len(data.train), options.batch, options.seed)
    _, *seen = views(common.floats(data.train[indices]), indices=indices, seed=options.seed, epoch=epoch)
    keys = [teacher(seen[view])[head] for view, head in enumerate(views.shared)]
    return torch.nn.functional.normalize(torch.stack(keys), dim=2)


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_the_tables(row, tmp_path, capsys):
    options, heads, keys = ROWS[row]
    options = [*SMALL, *options, "--steps", "6", "--momentum", "1"]
    looc.main([*options, "--out", str(tmp_path)])
    parsed = looc.parse(options)
    parts = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["parts"]
    assert len({name.split(".")[0] for name in parts["queues"]}) == heads
    assert looc.views_of(parsed).views == keys + 1
    assert ("heads.stages.0.0.weight" in parts["network"]) == parsed.plus_plus
    teacher = MomentumEncoder(looc.Network(3, heads, parsed.plus_plus), buffers="own")
    teacher.load_state_dict(parts["teacher"])
    last = torch.cat([keys_of(parsed, teacher, step) for step in (4, 5)], dim=1)  # steps 0 to 5 fill the queue of two batches three times
    for head in range(heads):
        assert parts["queues"][f"{head}.filled"] == 128
        torch.testing.assert_close(parts["queues"][f"{head}.rows"], last[head], rtol=0, atol=1e-5)
    result = json.loads((tmp_path / "result.json").read_text())
    names = ["", "_head_invariant", *(f"_head_{space}" for space in parsed.spaces)]
    assert {f"{task}{name}_after" for task in ("linear", "rotation") for name in names} < result.keys()
    assert {"rotation_before", "shots_5_after", "shots_10_interval_after"} < result.keys()
    assert not any("hue" in name for name in result)  # of handwriting, nobody knows it
    assert {path.name for path in tmp_path.glob("*.png")} == {"views.png", "loss.png"}
    assert all(value > 0 for value in losses(tmp_path))
    shown = capsys.readouterr().out
    assert "chance of a quarter turn 25.0" in shown


def test_each_space_is_asked_for_itself():
    """A head that gives one point for all knows nothing of class, turn and hue; the features and the other heads do not notice."""
    probe, test = (Scenes(split, 32, count=400).batch(range(400)) for split in ("probe", "test"))
    data = common.Data(probe.images, probe.images, test.images, probe.labels, probe.labels, test.labels)
    hues = [probe.hue_bin, test.hue_bin]
    torch.manual_seed(0)
    network = looc.Network(3, 3, plus_plus=False)
    names = ("invariant", "color", "rotation")
    ask = [looc.Features(network), looc.Features(network, spaces=True), data, hues]
    whole = looc_spaces.measure(*ask, names=names)
    last = network.heads.projectors[1].layers[-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.ones_(last.bias)
    blind = looc_spaces.measure(*ask, names=names)
    for name, number in whole.items():
        assert (blind[name] == number) == ("_head_color" not in name), name
    for task, answers in (("linear", test.labels), ("hue", test.hue_bin)):  # one answer for all pictures
        assert blind[f"{task}_head_color"] in [count / 4 for count in answers.bincount().tolist()]
    assert whole["hue"] > 25  # the mean colour is there before training
    assert set(blind) == {
        *("knn", "linear", "few_shot", "shots_5", "shots_5_interval", "shots_10", "shots_10_interval", "rotation", "oriented", "hue"),
        *(f"{task}_head_{name}" for task in ("linear", "rotation", "oriented", "hue") for name in names),
    }


def test_hues_are_those_of_the_pictures():
    options = looc.parse(["--data", "scenes:easy", "--size", "32"])
    for hues, split in zip(looc_spaces.hues_of(options), ("probe", "test"), strict=True):
        assert torch.equal(hues, Scenes(split, 32, preset="easy").batch(range(len(hues))).hue_bin)
    assert looc_spaces.hues_of(looc.parse(["--data", "digits"])) == [None, None]


def test_the_supervised_row(tmp_path, capsys):
    options = [*DIGITS, "--size", "16"]
    supervised.main([*options, "--steps", "3", "--batch", "64", "--out", str(tmp_path / "labels")])
    looc.main([*options, "--score", str(tmp_path / "labels"), "--out", str(tmp_path / "scored")])
    assert {path.name for path in (tmp_path / "scored").iterdir()} == {"result.json"}
    found = json.loads((tmp_path / "scored" / "result.json").read_text())
    data = common.load_data("digits", 16)
    network = common.Teacher(tmp_path / "labels", 3, classify=False).network
    expected = common.scores(network, data, common.embed(network, data.test))
    assert {name: found[f"{name}_after"] for name in expected} == expected
    assert f"{tmp_path / 'labels'}" in capsys.readouterr().out


def test_two_processes_share_queues_and_draws(tmp_path):
    """Unequal shares of an odd batch. BatchNorms see their own share, so that numbers are near those of one process, not equal."""
    options = [*DIGITS, "--size", "16", "--batch", "129", "--queue", "200", "--augmentations", "color,rotation,texture", "--steps", "1"]
    run("looc", *options, "--out", tmp_path / "two", processes=2)
    run("looc", *options, "--out", tmp_path / "one")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=0.05)
    two, one = (torch.load(tmp_path / n / "checkpoint.pt", weights_only=True)["parts"]["queues"] for n in ("two", "one"))
    for head in range(4):
        assert two[f"{head}.filled"] == two[f"{head}.pointer"] == 129
        mine, whole = (queues[f"{head}.rows"][:129] for queues in (two, one))
        mine, whole = mine - mine.mean(dim=0), whole - whole.mean(dim=0)
        nearest = torch.nn.functional.cosine_similarity(mine[:, None], whole[None], dim=2).argmax(dim=1)
        assert (nearest == torch.arange(129)).float().mean() > 0.8  # each row is that of its picture, in the order of the whole batch
        assert torch.equal(two[f"{head}.rows"][129:], one[f"{head}.rows"][129:])


def test_a_run_that_diverges_still_reports(tmp_path):
    looc.main([*SMALL, "--lr", "1e30", "--steps", "4", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "result.json").read_text())
    assert all(result[f"{name}_after"] != result[f"{name}_after"] for name in ("linear", "rotation", "shots_10", "rotation_head_rotation"))


def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    options = [*SMALL, "--augmentations", "color,rotation,texture", "--steps", "8", "--save-every", "1"]
    run("looc", *options, "--out", tmp_path / "whole")
    killed_and_resumed("looc", tmp_path / "killed", options, kills=1, seed=0)
    assert same(state(tmp_path / "killed"), state(tmp_path / "whole"))


def test_refusals(capsys):
    for options, text in (("--augmentations blur", "got 'blur'; expected none, or some of color, rotation, texture"),
                          ("--augmentations color,color", "got 'color,color'"),
                          ("--augmentations color --rotation shared", "expected one of the two"),
                          ("--augmentations color --distinct", "--distinct: got no space for turns; expected rotation among")):  # fmt: skip
        with pytest.raises(SystemExit):
            looc.parse(options.split())
        assert text in capsys.readouterr().err
