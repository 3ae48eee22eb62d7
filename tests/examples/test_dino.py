"""DINO as a user runs it: every row of the paper's table, a killed run, two processes."""

import json
import math

import pytest
import torch
from tests.examples.runs import DIGITS, killed_and_resumed, losses, run, same, state
from torch import nn

from sslkit.maskers import BlockwiseMasker

import common  # isort: skip  # runs.py puts the folder of the examples on the path
import dino  # isort: skip
import supervised  # isort: skip

SMALL = [*DIGITS, "--size", "16", "--batch", "32", "--prototypes", "32"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("dino")
    run("dino", *SMALL, "--epochs", 1, "--save-every", 1, "--out", out)
    return out


def test_a_finished_run_leaves_its_result_and_pictures(trained):
    result = json.loads((trained / "result.json").read_text())
    assert {f"{score}_{when}" for score in ("knn", "linear", "few_shot") for when in ("before", "after", "teacher")} < result.keys()
    assert {path.name for path in trained.glob("*.png")} == {"loss.png", "collapse.png"}
    told = [line for line in map(json.loads, (trained / "log.jsonl").read_text().splitlines()) if "entropy" in line]
    assert len(told) == 4
    assert all(line["mean_entropy"] >= line["entropy"] - 1e-4 for line in told)


def test_a_killed_run_resumes_to_the_same_bits(trained, tmp_path):
    killed_and_resumed("dino", tmp_path, [*SMALL, "--epochs", 1, "--save-every", 1], kills=2, seed=0)
    assert same(state(tmp_path), state(trained))


def test_two_processes_train_as_one(tmp_path):
    """A ViT, whose head has no BatchNorm: of unequal shares of a batch, both crops' sizes, centre and teacher included."""
    options = [*SMALL, "--backbone", "vit", "--dim", 32, "--depth", 1, "--steps", 4, "--batch", 33, "--crops", "2+1"]
    run("dino", *options, "--out", tmp_path / "two", processes=2)
    run("dino", *options, "--out", tmp_path / "one")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    two, one = (torch.load(tmp_path / n / "checkpoint.pt", weights_only=True)["parts"]["center"]["value"] for n in ("two", "one"))
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-5)


VIT = ["--backbone", "vit", "--dim", "32", "--depth", "1"]


def test_a_batch_in_three_parts_trains_as_in_one(tmp_path):
    """One mean of their losses, and centres, teacher and student move once a step, though each part hides its own patches."""
    options = [*SMALL, *VIT, "--ibot", "--crops", "2+1", "--steps", 4, "--batch", 36]
    run("dino", *options, "--accumulate", 3, "--out", tmp_path / "parts")
    run("dino", *options, "--out", tmp_path / "whole")
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)
    parts, whole = (torch.load(tmp_path / n / "checkpoint.pt", weights_only=True)["parts"] for n in ("parts", "whole"))
    for name in ("center", "patch_center", "teacher"):
        for key, value in whole[name].items():
            torch.testing.assert_close(parts[name][key], value, rtol=1e-3, atol=1e-4)


def test_two_processes_hide_the_patches_of_one(tmp_path):
    """iBOT: masks belong to the pictures, and the centre of the patches is one over all processes."""
    options = [*SMALL, *VIT, "--ibot", "--steps", 4, "--batch", 33, "--crops", "2+1"]
    run("dino", *options, "--out", tmp_path / "two", processes=2)
    run("dino", *options, "--out", tmp_path / "one")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    two, one = (torch.load(tmp_path / n / "checkpoint.pt", weights_only=True)["parts"]["patch_center"]["value"] for n in ("two", "one"))
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-5)


def test_a_killed_run_with_hidden_patches_resumes_to_the_same_bits(tmp_path):
    """Two centres, and masks that are a function of picture and epoch."""
    options = [*SMALL, *VIT, "--ibot", "--crops", "2+1", "--steps", 30, "--save-every", 1]
    run("dino", *options, "--out", tmp_path / "whole")
    assert killed_and_resumed("dino", tmp_path / "killed", options, kills=1, seed=0) == 1
    assert same(state(tmp_path / "killed"), state(tmp_path / "whole"))


def network_of(*row):
    student = dino.build(dino.parse([*SMALL, *VIT, *row]), 3, "cpu")
    nn.init.normal_(student.network.token)
    return student.network


def test_the_student_is_blind_at_hidden_patches_and_the_teacher_is_not():
    """Pixels of hidden patches reach the teacher's logits alone; rows belong to the views in their order."""
    network, (first, second, local) = network_of("--ibot"), (torch.rand(4, 3, side, side) for side in (16, 16, 8))
    mask = BlockwiseMasker(0.3, min_patches=1)(8, (4, 4), generator=torch.Generator().manual_seed(0))
    hidden = mask.mask.view(8, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3).chunk(2)
    other = [torch.where(hide, torch.rand(()), x) for x, hide in zip((first, second), hidden, strict=True)]
    with torch.no_grad():
        for seen in (False, True):
            logits, patches = network([first, second, local], mask, seen=seen)
            changed, changed_patches = network([*other, local], mask, seen=seen)
            assert logits.shape == (3, 4, 32)
            assert patches.shape == (8, 5, 32)
            assert torch.equal(logits, changed) != seen
            assert torch.equal(patches, changed_patches) != seen
        plain, nothing = network([first, second, local])
    assert nothing is None
    torch.testing.assert_close(logits, plain)  # seen: as without a mask
    tokens = network.backbone.encoder(common.centred(second)).patches[mask.mask[4:]].view(4, 5, -1)
    torch.testing.assert_close(patches[4:], network.head(tokens))


def test_a_resnet_takes_small_views_of_several_sizes():
    network = dino.build(dino.parse([*SMALL, "--backbone", "resnet"]), 1, "cpu").network
    logits, _ = network([torch.rand(2, 1, side, side) for side in (16, 16, 7)])
    assert logits.shape == (3, 2, 32)
    assert network.backbone(torch.rand(2, 1, 16, 16)).shape == (2, network.backbone.dim)
    maps = network.backbone.layer1(network.backbone.maxpool(network.backbone.conv1(torch.rand(2, 1, 16, 16))))
    assert maps.shape[-2:] == (16, 16)  # nothing is lost before the blocks


def test_ibot_is_dino_where_nothing_is_hidden(tmp_path):
    """And a loss of patches on top where something is, from which the token learns and the teacher's follows."""
    for name, row in (("dino", []), ("nothing", ["--ibot", "--ratio", "0"]), ("ibot", ["--ibot"])):
        dino.main([*SMALL, *VIT, *row, "--steps", "3", "--out", str(tmp_path / name)])
    assert losses(tmp_path / "nothing") == pytest.approx(losses(tmp_path / "dino"), rel=1e-5)
    assert losses(tmp_path / "ibot")[0] > losses(tmp_path / "dino")[0] + 1
    parts = torch.load(tmp_path / "ibot" / "checkpoint.pt", weights_only=True)["parts"]
    assert parts["student"]["network.token"].abs().max() > 0
    assert parts["teacher"]["teacher.token"].abs().max() > 0
    assert not torch.equal(parts["center"]["value"], parts["patch_center"]["value"])


ROWS = [("--momentum", "none"), ("--momentum", "epoch"), ("--teacher", "sinkhorn"), ("--loss", "mse"), ("--predictor",), ("--crops", "2+2"),
        ("--freeze", "2"), tuple(VIT), (*VIT, "--heads", "2", "--head-norm"), (*VIT, "--ibot"),
        (*VIT, "--ibot", "--teacher", "sinkhorn", "--crops", "2+2")]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=" ".join)
def test_every_row_of_the_table_moves_what_it_should(row, tmp_path, capsys):
    dino.main([*SMALL, *row, "--steps", "3", "--epochs", "1", "--batch", "400", "--watch", "1", "--out", str(tmp_path)])
    parts = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["parts"]
    student, teacher = parts["student"], parts["teacher"]
    name = next(name for name in student if name.endswith("mlp.0.weight"))
    moved = (student[name] - teacher[name.replace("network.", "teacher.", 1)]).abs().max() > 0
    assert moved == ("none" not in row and "epoch" not in row)  # a run of one epoch ends with the copy
    assert ("predictor.layers.0.weight" in student) == ("--predictor" in row)
    torch.manual_seed(0)
    first = dino.build(dino.parse([*SMALL, *row]), 3, "cpu").state_dict()
    frozen = torch.equal(first["network.head.last_layer.weight_v"], student["network.head.last_layer.weight_v"])
    assert not frozen
    assert any("running_mean" in name and "head" in name for name in student) == ("vit" not in row or "--head-norm" in row)
    report = [line for line in common.read_log(tmp_path) if "information" in line]
    assert all(math.isfinite(line[name]) for line in report for name in ("entropy", "mean_entropy", "divergence", "information"))
    assert report
    assert all(value > 0 for value in losses(tmp_path))
    assert "student" in capsys.readouterr().out


def test_momentum_temperature_and_decay_follow_their_schedules_and_every_gradient_is_clipped(tmp_path, monkeypatch):
    told = {"momentum": [], "temperature": [], "clip": [], "decay": []}

    def watch(owner, name, key, what):
        inner = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given, **options: told[key].append(what(*given)) or inner(*given, **options))

    watch(dino.MomentumEncoder, "update", "momentum", lambda _, momentum: momentum)
    watch(dino.DINOCenter, "forward", "temperature", lambda _, logits, temperature: temperature)
    watch(dino, "clip_each", "clip", lambda parameters, most: most)
    watch(torch.optim.AdamW, "step", "decay", lambda optimizer: [group["weight_decay"] for group in optimizer.param_groups])
    schedules = ["--warm-temperature", "0.02", "--warm-steps", "3", "--final-weight-decay", "0.4", "--clip", "0.5"]
    dino.main([*SMALL, *schedules, "--steps", "4", "--out", str(tmp_path)])
    assert told["momentum"] == [dino.cosine(step, base=0.99, final=1.0, steps=4) for step in range(4)]
    assert told["temperature"] == pytest.approx([0.02, 0.03, 0.04, 0.04])
    assert told["clip"] == [0.5] * 4
    assert told["decay"] == [[dino.cosine(step, base=0.04, final=0.4, steps=4), 0] for step in range(4)]


def test_the_last_layer_waits(tmp_path):
    dino.main([*SMALL, "--freeze", "3", "--steps", "3", "--out", str(tmp_path)])
    student = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["parts"]["student"]
    first = dino.build(dino.parse(SMALL), 3, "cpu").state_dict()
    name = "network.head.last_layer.weight_v"
    assert torch.equal(first[name], student[name])
    assert not torch.equal(first["network.head.mlp.0.weight"], student["network.head.mlp.0.weight"])


def test_refusals(capsys):
    for row in (["--backbone", "convnet"], [*VIT, "--loss", "mse"], [*VIT, "--predictor"]):
        with pytest.raises(SystemExit):
            dino.parse(["--ibot", *row])
        assert "expected a ViT, which has patches to hide, cross-entropy and no predictor. To mend" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        dino.parse(["--accumulate", "4", "--teacher", "sinkhorn"])
    assert "--accumulate: got parts with --teacher sinkhorn, which balances a whole batch" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        dino.parse(["--watch", "0"])
    assert "--watch: got 0; expected 1 or more" in capsys.readouterr().err
    for crops in ("3", "2+x", "1+4"):
        with pytest.raises(SystemExit):
            dino.parse(["--crops", crops])
        assert "expected 2, or 2+N with N local views" in capsys.readouterr().err
    assert common.FORMAT  # the examples' own module, not another of that name


def test_the_network_with_labels_is_dinos():
    """Tensor for tensor, so that what their class tokens look at can be compared."""
    ours = dino.build(dino.parse(["--backbone", "vit", "--size", "16"]), 3, "cpu").network.backbone
    torch.manual_seed(0)
    theirs = supervised.build(supervised.parse(["--backbone", "vit", "--size", "16"]), 3)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
    generator = torch.Generator().manual_seed(0)
    images, masks = torch.rand(4, 3, 16, 16, generator=generator), torch.rand(4, 16, 16, generator=generator) > 0.5
    scored = [
        common.attention_jaccard(network.encoder, common.Data(images, images, images, test_masks=masks)) for network in (ours, theirs)
    ]
    assert 0 < scored[0]["jaccard"] == scored[1]["jaccard"] < 100
