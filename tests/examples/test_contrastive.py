"""NNCLR and MoCo as a user runs them: every option, a killed run, two processes."""

import json

import pytest
import torch
from tests.examples.runs import DIGITS, killed_and_resumed, losses, run, same, state

from sslkit.modules import SupportSet

import moco  # isort: skip  # runs.py puts the folder of the examples on the path
import nnclr  # isort: skip

SMALL = [*DIGITS, "--size", "16", "--batch", "32"]
VIT = ["--backbone", "vit", "--dim", "32", "--depth", "1"]


def parts(out):
    return torch.load(out / "checkpoint.pt", weights_only=True)["parts"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Of both methods, with every part that has a state: a support set that wraps, a second encoder, a queue."""
    options = {"nnclr": ["--momentum", 0.9, "--queue", 100, "--topk", 2], "moco": ["--queue", 100]}
    out = {name: tmp_path_factory.mktemp(name) for name in options}
    for name, given in options.items():
        run(name, *SMALL, *given, "--steps", 40, "--save-every", 1, "--out", out[name])
    return out, options


@pytest.mark.parametrize("name", ["nnclr", "moco"])
def test_a_killed_run_resumes_to_the_same_bits(trained, tmp_path, name):
    out, options = trained
    killed_and_resumed(name, tmp_path, [*SMALL, *options[name], "--steps", 40, "--save-every", 1], kills=2, seed=0)
    assert same(state(tmp_path), state(out[name]))


@pytest.mark.parametrize("name", ["nnclr", "moco"])
def test_a_finished_run_leaves_its_result_and_pictures(trained, name):
    out = trained[0][name]
    result = json.loads((out / "result.json").read_text())
    assert {f"{score}_{when}" for score in ("knn", "linear", "few_shot") for when in ("before", "after")} < result.keys()
    wanted = {"nnclr": {"loss.png", "match.png", "neighbours.png"}, "moco": {"loss.png"}}[name]
    assert {path.name for path in out.glob("*.png")} == wanted
    support = parts(out)[{"nnclr": "support", "moco": "queue"}[name]]
    assert support["filled"] == 100
    assert support["pointer"] == 40 * 32 % 100
    assert (support["labels"] >= 0).all() == (name == "nnclr")


def test_the_match_accuracy_rises_from_nothing_and_is_reported(trained):
    log = [json.loads(line) for line in (trained[0]["nnclr"] / "log.jsonl").read_text().splitlines()]
    assert log[0]["match"] == 0  # random rows have no label
    assert log[-1]["match"] > 0.1
    assert all(-1 <= line["similarity"] <= 1.001 for line in log)
    result = json.loads((trained[0]["nnclr"] / "result.json").read_text())
    assert result["match"] == pytest.approx(sum(line["match"] for line in log[-20:]) / 20)


def first_steps(tmp_path, name, *options):
    """The losses of four steps; nothing is scored, which takes longer than they do."""
    module = {"nnclr": nnclr, "moco": moco}[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "scores", lambda *_: {})
        module.main([*SMALL, *map(str, options), "--steps", "4", "--out", str(tmp_path)])
    return losses(tmp_path)


OPTIONS = [("--positive", "view"), ("--crops", "2+2"), ("--momentum", 0.5), ("--topk", 3), ("--neighbour", "soft"), ("--both-directions",),
           ("--augment", "full"), ("--queue", 40)]  # fmt: skip


def test_every_option_of_nnclr_changes_what_is_learned(tmp_path):
    plain = first_steps(tmp_path / "plain", "nnclr")
    for i, option in enumerate(OPTIONS):
        changed = first_steps(tmp_path / str(i), "nnclr", *option)
        assert all(loss > 0 for loss in changed)
        assert changed[-1] != plain[-1], option
    assert first_steps(tmp_path / "again", "nnclr") == plain


def test_with_crops_each_neighbour_finds_the_predictions_of_all_other_views(tmp_path, monkeypatch):
    """Two neighbours, never of a local view, and eight terms for 2+3 views, whose mean is the loss."""
    asked, terms = [], []
    nearest, loss = SupportSet.nearest, nnclr.nnclr_loss

    def searched(support, z, *options):
        asked.append(nearest(support, z, *options))
        return asked[-1]

    def compared(neighbours, predictions, **options):
        terms.append((neighbours, predictions, loss(neighbours, predictions, **options)))
        return terms[-1][2]

    monkeypatch.setattr(SupportSet, "nearest", searched)
    monkeypatch.setattr(nnclr, "nnclr_loss", compared)
    told = first_steps(tmp_path, "nnclr", "--crops", "2+3")
    assert (len(asked), len(terms)) == (4 * 2, 4 * 8)
    for step, value in enumerate(told):
        first, second = asked[2 * step : 2 * step + 2]
        now = terms[8 * step : 8 * step + 8]
        assert all(term[0] is near.rows for term, near in zip(now, [first] * 4 + [second] * 4, strict=True))
        predictions = [term[1] for term in now]
        assert all(torch.equal(a, b) for a, b in zip(predictions[1:4], predictions[5:], strict=True))  # the local ones, of both
        assert not torch.equal(predictions[0], predictions[4])
        assert value == pytest.approx(sum(term[2].item() for term in now) / 8)


def test_the_probe_looks_and_changes_nothing(tmp_path):
    plain = first_steps(tmp_path / "plain", "nnclr")
    out = tmp_path / "probed"
    nnclr.main([*SMALL, "--probe", "2", "--steps", "4", "--out", str(out)])
    assert losses(out) == plain
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [{"knn", "linear", "few_shot"} <= line.keys() for line in log] == [False, True, False, True]
    assert (out / "match_probe.png").stat().st_size > 1000
    assert json.loads((out / "result.json").read_text())["few_shot_after"] == log[-1]["few_shot"]


@pytest.mark.parametrize("options", [("--version", 1), ("--version", 2), ("--version", 3), ("--version", 3, *VIT), ("--version", 2, *VIT)])
def test_every_version_of_moco_moves_what_it_should(options, tmp_path):
    assert all(loss > 0 for loss in first_steps(tmp_path, "moco", *options))
    version, vit, saved = options[1], "vit" in options, parts(tmp_path)
    student, teacher = saved["network"], saved["teacher"]
    torch.manual_seed(0)
    start = moco.build(moco.parse([*SMALL, *map(str, options)]), 3, "cpu").state_dict()
    moved = [name for name in student if "running" not in name and not torch.equal(student[name], start[name])]
    assert any(name.startswith("predictor") for name in moved) == (version == 3)
    frozen = [name for name in student if "patch_embed" in name]
    assert bool(set(moved) & set(frozen)) == (vit and version != 3)
    assert {name.removeprefix("teacher.") for name in teacher} == {n.removeprefix("keys.") for n in student if n.startswith("keys.")}
    name = next(name for name in moved if name.startswith("keys.1"))
    copy = teacher[name.replace("keys", "teacher", 1)]
    assert not torch.equal(copy, student[name])
    assert not torch.equal(copy, start[name])
    assert saved["queue"]["filled"] == (0 if version == 3 else 128)


def test_keys_meet_the_queue_before_they_enter_it_and_their_encoder_sees_the_pictures_in_another_order(tmp_path, monkeypatch):
    """A queue that held its own step's keys would make of each positive a negative; in their own order, BatchNorm would tell them."""
    views, seen, terms = [], [], []
    augmentation, forward, loss = moco.augmentation, moco.MomentumEncoder.forward, moco.info_nce

    def shown(options):
        both = augmentation(options)
        return lambda images, **draw: views.append(both(images, **draw)) or views[-1]

    monkeypatch.setattr(moco, "augmentation", shown)
    monkeypatch.setattr(moco.MomentumEncoder, "forward", lambda self, x: seen.append(x) or forward(self, x))
    monkeypatch.setattr(moco, "info_nce", lambda q, k, *, negatives, **options: terms.append((k, negatives.clone())) or
                        loss(q, k, negatives=negatives, **options))  # fmt: skip
    first_steps(tmp_path, "moco", "--queue", 100)
    queue = SupportSet(100, 64, generator=torch.Generator().manual_seed(0))
    assert len(views) == len(seen) == len(terms) == 4
    for (_, second), pictures, (keys, negatives) in zip(views, seen, terms, strict=True):
        assert torch.equal(negatives, queue.rows)
        queue.enqueue(keys)
        assert not torch.equal(pictures, second)
        place = (pictures.flatten(1)[:, None] == second.flatten(1)).all(dim=2).int().argmax(dim=1)
        assert torch.equal(pictures, second[place])
        assert place.unique().numel() == 32


@pytest.mark.parametrize("version", [1, 2])
def test_two_processes_train_moco_as_one(version, tmp_path):
    """A ViT, whose heads have no BatchNorm here: unequal shares of an odd batch, the keys shuffled between the processes, one queue."""
    options = [*SMALL, *VIT, "--version", version, "--steps", 4, "--batch", 33, "--queue", 50]
    run("moco", *options, "--out", tmp_path / "two", processes=2)
    run("moco", *options, "--out", tmp_path / "one")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    two, one = (parts(tmp_path / n)["queue"] for n in ("two", "one"))
    torch.testing.assert_close(two["rows"], one["rows"], rtol=1e-3, atol=1e-4)
    assert two["pointer"] == one["pointer"] == 4 * 33 % 50


def test_nnclr_on_two_processes_sees_all_predictions_and_stores_all_rows(tmp_path):
    """Its BatchNorms see half a batch each, so that the numbers are near those of one process, not equal."""
    run("nnclr", *SMALL, "--steps", 3, "--out", tmp_path / "two", processes=2)
    one = first_steps(tmp_path / "one", "nnclr")
    assert losses(tmp_path / "two")[0] == pytest.approx(one[0], rel=0.1)  # log 32 for 32 candidates; of 16 alone log 16, a fifth less
    support = parts(tmp_path / "two")["support"]
    assert support["filled"] == 96
    assert (support["labels"] >= 0).sum() == 96


def test_bf16_and_a_run_that_diverges_still_report(tmp_path):
    for name in ("nnclr", "moco"):
        plain = first_steps(tmp_path / f"{name} plain", name)
        narrow = first_steps(tmp_path / f"{name} bf16", name, "--bf16")
        assert plain[0] != narrow[0] == pytest.approx(plain[0], rel=0.05)
        module = {"nnclr": nnclr, "moco": moco}[name]
        module.main([*SMALL, "--lr", "1e30", "--steps", "4", "--out", str(tmp_path / f"{name} diverges")])
        assert (tmp_path / f"{name} diverges" / "result.json").exists()


def test_refusals(capsys):
    refused = {
        (nnclr, "--momentum", "1"): "--momentum: got 1.0; expected a number in [0, 1). To mend: pass",
        (nnclr, "--topk", "0"): "--topk: got 0 hard neighbours; expected 1 to 1024. To mend: pass",
        (nnclr, "--topk", "9", "--queue", "8"): "--topk: got 9 hard neighbours; expected 1 to 8",
        (nnclr, "--topk", "2", "--neighbour", "soft"): "--topk: got 2 soft neighbours; expected 1 to 1",
        (nnclr, "--crops", "3"): "--crops: got '3'; expected 2, or 2+N with N local views. To mend: pass --crops 2+4",
        (nnclr, "--crops", "2+x"): "--crops: got '2+x'; expected 2, or 2+N",
        (moco, "--momentum", "1.5"): "--momentum: got 1.5; expected a number in [0, 1]. To mend: pass",
        (moco, "--version", "4"): "invalid choice",
    }
    for (module, *options), message in refused.items():
        with pytest.raises(SystemExit):
            module.parse(options)
        assert message in capsys.readouterr().err
