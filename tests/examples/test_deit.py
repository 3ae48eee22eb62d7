"""DeiT as a user runs it: every row of the paper's table, killed runs, two processes, another size."""

import json

import pytest
import torch
from tests.examples.runs import DIGITS, killed_and_resumed, losses, run, same, state
from torch.nn import functional

import common  # isort: skip  # runs.py puts the folder of the examples on the path
import deit  # isort: skip

SIZE = ["--data", "digits", "--threads", "1", "--size", "16"]
SMALL = [*SIZE, "--patch", "4", "--batch", "32", "--dim", "32", "--depth", "2", "--labels", "320"]
MIXED = ["--mixup", "0.8", "--cutmix", "1"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    out = tmp_path_factory.mktemp("teacher")
    run("supervised", *DIGITS, "--size", 16, "--steps", 40, "--batch", 128, "--out", out)
    return out


@pytest.fixture(scope="module")
def trained(teacher, tmp_path_factory):
    out = tmp_path_factory.mktemp("deit")
    run("deit", *SMALL, *MIXED, "--unlabelled", "--teacher", teacher, "--steps", 40, "--save-every", 1, "--out", out)
    return out


def test_a_finished_run_leaves_its_result_and_pictures(trained):
    result = json.loads((trained / "result.json").read_text())
    assert result["labels"] == 320
    assert {"accuracy_class", "accuracy_distillation", "accuracy_both", "accuracy_teacher"} < result.keys()
    assert result["accuracy_teacher"] > 80  # chance 10
    assert {path.name for path in trained.glob("*.png")} == {"loss.png", "accuracy.png"}
    assert losses(trained)[-1] < losses(trained)[0]
    told = [line for line in map(json.loads, (trained / "log.jsonl").read_text().splitlines()) if "accuracy_both" in line]
    assert [line["step"] for line in told] == list(range(4, 41, 4))
    assert told[-1]["accuracy_both"] == result["accuracy_both"]  # digits have 500 test pictures


def test_a_killed_run_resumes_to_the_same_bits(teacher, trained, tmp_path):
    """Dropped paths and mixed pictures included."""
    options = [*SMALL, *MIXED, "--unlabelled", "--teacher", teacher, "--steps", 40, "--save-every", 1]
    killed_and_resumed("deit", tmp_path, options, kills=2, seed=0)
    assert same(state(tmp_path), state(trained))


@pytest.mark.parametrize("distillation", ["soft", "token"])
def test_two_processes_train_as_one(distillation, teacher, tmp_path):
    """Of unequal shares of a batch, and of its parts."""
    options = [*SMALL, "--distillation", distillation, "--unlabelled", "--teacher", teacher, "--drop-path", 0, "--steps", 4]
    options += ["--batch", 35, "--accumulate", 5] if distillation == "token" else ["--batch", 33]
    run("deit", *options, "--out", tmp_path / "two", processes=2)
    deit.main([*map(str, options), "--out", str(tmp_path / "one")])
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    weights = [common.read_checkpoint(tmp_path / n / "checkpoint.pt")["parts"]["model"] for n in ("two", "one")]
    # Adam divides a gradient by its own size, so that rounding moves what hardly has one by up to the four steps' rates
    assert all((a - b).abs().max() < 4e-3 for a, b in zip(*(w.values() for w in weights), strict=True))


def test_parts_of_a_batch_add_up_to_it(teacher, tmp_path):
    options = [*SMALL, "--unlabelled", "--teacher", teacher, "--drop-path", 0, "--steps", 3]
    for parts in (1, 4):
        deit.main([*map(str, options), "--accumulate", str(parts), "--out", str(tmp_path / str(parts))])
    assert losses(tmp_path / "4") == pytest.approx(losses(tmp_path / "1"), rel=1e-4)


def options_of(*words):
    return deit.parse([*SMALL, *map(str, words)])


@pytest.mark.parametrize(("distillation", "alpha"), [("none", 0), ("soft", 0.1), ("hard", 0.5), ("token", 0.5)])
def test_the_loss_is_that_of_the_paper(distillation, alpha):
    """Row by row: labels at the class head, the teacher at the head of its token or at the class head, with the paper's shares."""
    heads = 2 if distillation == "token" else 1
    generator = torch.Generator().manual_seed(0)
    logits, taught = (torch.randn(7, n, 10, generator=generator, dtype=torch.float64) for n in (heads, 1))
    labels, taught = torch.arange(5), taught[:, 0]  # two of the seven are without labels
    loss = deit.loss_of(options_of("--distillation", distillation), logits, labels, taught)
    base = 0.0
    for row, label in enumerate(labels.tolist()):
        truth = [0.01 + 0.9 * (c == label) for c in range(10)]  # smoothed by 0.1
        base -= sum(p * q for p, q in zip(truth, logits[row, 0].log_softmax(0).tolist(), strict=True)) / 5
    says = 0.0
    for row in range(7):
        if distillation == "soft":
            p, q = (taught[row] / 3).softmax(0), (logits[row, 0] / 3).softmax(0)
            says += 9 * (p * (p / q).log()).sum().item() / 7
        else:
            says -= logits[row, -1].log_softmax(0)[taught[row].argmax()].item() / 7
    assert loss.item() == pytest.approx((1 - alpha) * base + alpha * says, rel=1e-9)


def test_both_heads_are_added_as_probabilities():
    """Where the sum of the logits would choose another class."""
    logits = torch.tensor([[[9.0, 0, 0], [0, 3.0, 0]], [[2.0, 0, 0], [-90, 0, 0.5]]])  # [pictures, heads, classes]

    class Fixed(torch.nn.Module):
        def forward(self, images):
            return logits

    found = deit.accuracies(Fixed(), torch.zeros(2, 3, 4, 4), torch.tensor([0, 0]), torch.device("cpu"))
    assert logits.sum(dim=1).argmax(dim=1).tolist() == [0, 2]
    assert found == {"accuracy_class": 100, "accuracy_distillation": 0, "accuracy_both": 100}


@pytest.mark.parametrize("distillation", ["none", "soft", "hard", "token"])
def test_every_row_of_the_table_runs(distillation, teacher, tmp_path, capsys):
    more = ("--bf16",) if distillation in ("soft", "token") else ()
    deit.main([*SMALL, "--distillation", distillation, "--teacher", str(teacher), *more, "--steps", "2", "--out", str(tmp_path)])
    weights = common.read_checkpoint(tmp_path / "checkpoint.pt")["parts"]["model"]
    result = json.loads((tmp_path / "result.json").read_text())
    assert ("encoder.dist_token" in weights) == ("accuracy_both" in result) == (distillation == "token")
    assert ("accuracy_teacher" in result) == (distillation != "none")
    assert not any(name.startswith("teacher") for name in weights)
    assert f"320 labels, distillation {distillation}: accuracy class" in capsys.readouterr().out


def test_the_teacher_is_frozen_and_sees_the_students_view(teacher):
    options = options_of("--teacher", teacher)
    model, taught = deit.build(options, 3, 10)
    assert not taught.training
    assert not any(p.requires_grad for p in taught.parameters())
    images = torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    weights = common.read_checkpoint(teacher / "checkpoint.pt")["parts"]["model"]
    maps = taught.network.maps(images).mean(dim=(2, 3))
    torch.testing.assert_close(taught.logits(images), functional.linear(maps, weights["1.weight"], weights["1.bias"]))
    assert model.encoder.prefix == ("cls", "dist")
    assert model(images[:, :, :16, :16]).shape == (4, 2, 10)


def test_at_a_higher_resolution_positions_are_resampled_once(trained, teacher, tmp_path):
    shared = ["--init", trained, "--size", 24, "--teacher", teacher, "--labels", 320]
    start, _ = deit.build(options_of(*shared), 3, 10)
    weights = common.read_checkpoint(trained / "checkpoint.pt")["parts"]["model"]
    old = weights["encoder.pos_embed"]
    assert (old.shape[1], start.encoder.pos_embed.shape[1]) == (2 + 16, 2 + 36)
    assert torch.equal(start.encoder.pos_embed[:, :2], old[:, :2])  # the slots of the two tokens stay
    before, _ = deit.build(options_of("--init", trained, "--teacher", teacher), 3, 10)
    assert torch.equal(before.encoder.pos_embed, old)
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(start.eval()(images), before.eval()(images))  # which reads its table on the fly
    deit.main([*SIZE, *map(str, shared), "--batch", "32", "--steps", "2", "--out", str(tmp_path / "a")])
    after = common.read_checkpoint(tmp_path / "a" / "checkpoint.pt")
    assert after["parts"]["model"]["encoder.pos_embed"].shape == (1, 2 + 36, 32)
    assert [after["settings"][name] for name in ("patch", "dim", "depth")] == [4, 32, 2]


def refusal(*options):
    with pytest.raises((SystemExit, ValueError)) as caught:
        deit.main([*SMALL, *map(str, options)])
    return str(caught.value)


def test_refusals(trained, teacher, tmp_path):
    out = ["--out", tmp_path / "a", "--teacher", teacher]
    assert "--teacher: got none; expected a run of supervised.py" in refusal(*out[:2])
    assert "expected a ConvNet with a classifier" in refusal(*out[:2], "--teacher", trained)
    assert "--unlabelled: got --distillation none; expected a teacher" in refusal(*out, "--distillation", "none", "--unlabelled")
    assert "expected a run of deit.py with the tokens of hard" in refusal(*out, "--init", trained, "--distillation", "hard")
    assert "alpha=1.5; expected" in refusal(*out, "--alpha", 1.5)
    scenes = refusal(*out, "--data", "scenes", "--size", 32)
    assert "of 10 classes; expected 12 classes. To mend: train one by supervised.py --data scenes" in scenes
    assert not (tmp_path / "a" / "checkpoint.pt").exists()


@pytest.mark.full
def test_a_compiled_run(teacher, tmp_path):
    run("deit", *SMALL, "--teacher", teacher, "--steps", 3, "--compile", "--out", tmp_path)
    run("deit", *SMALL, "--teacher", teacher, "--steps", 3, "--out", tmp_path / "plain")
    assert losses(tmp_path)[0] == pytest.approx(losses(tmp_path / "plain")[0], rel=0.2)  # other paths are dropped
