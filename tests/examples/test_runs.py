"""The examples as a user runs them: they finish, they survive being killed, they refuse what is not theirs."""

import json

import pytest
import torch
from tests.examples.runs import DIGITS, killed_and_resumed, losses, run, same, state
from torchvision.transforms.functional import to_pil_image

import simclr  # isort: skip  # runs.py puts the folder of the examples on the path

SMALL = [*DIGITS, "--size", "16", "--batch", "32"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken")
    run("simclr", *SMALL, "--steps", 60, "--save-every", 1, "--out", out)
    return out


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.full)])
def test_a_killed_run_resumes_to_the_same_bits(unbroken, tmp_path, kills):
    steps, reference = (60, unbroken) if kills == 3 else (600, tmp_path / "unbroken")
    options = [*SMALL, "--steps", steps, "--save-every", 1]
    if kills > 3:
        run("simclr", *options, "--out", reference)
    hits = killed_and_resumed("simclr", tmp_path / "killed", options, kills, seed=kills)
    assert hits == kills
    assert same(state(tmp_path / "killed"), state(reference))


def test_a_finished_run_leaves_its_result_and_pictures(unbroken):
    result = json.loads((unbroken / "result.json").read_text())
    assert result["steps"] == 60
    assert 0 < result["knn_before"] < 100
    assert {path.name for path in unbroken.glob("*.png")} == {"neighbours.png", "loss.png"}
    assert len(losses(unbroken)) == 60
    assert losses(unbroken)[-1] < losses(unbroken)[0]


def test_two_processes_train_as_one(tmp_path):
    """Without batch statistics (a ViT), the losses of two processes are those of one, step by step, on an odd batch."""
    options = [*SMALL, "--steps", 4, "--backbone", "vit", "--batch", 33]
    run("supervised", *options, "--out", tmp_path / "two", processes=2)
    run("supervised", *options, "--out", tmp_path / "one")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def test_simclr_on_two_processes_sees_all_negatives(unbroken, tmp_path):
    run("simclr", *SMALL, "--steps", 3, "--out", tmp_path, processes=2)
    assert losses(tmp_path)[0] == pytest.approx(losses(unbroken)[0], rel=0.1)  # log 63 for 64 views; with 32 alone log 31, a sixth less


def test_bf16_accumulation_and_tensorboard(unbroken, tmp_path):
    run("simclr", *SMALL, "--steps", 2, "--bf16", "--tensorboard", "--out", tmp_path / "a")
    assert list((tmp_path / "a").glob("events.*"))
    plain, narrow = losses(unbroken)[0], losses(tmp_path / "a")[0]
    assert plain != narrow == pytest.approx(plain, rel=0.02)
    run("simclr", *SMALL, "--steps", 2, "--accumulate", 2, "--out", tmp_path / "b")
    assert losses(tmp_path / "b")[0] < plain - 0.3  # half the negatives: log 31 instead of log 63


@pytest.mark.full
def test_a_compiled_run(tmp_path):
    run("simclr", *SMALL, "--steps", 3, "--compile", "--out", tmp_path)


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    generator = torch.Generator().manual_seed(0)
    for i in range(40):
        (folder / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        picture = torch.rand(3, 5, 7, generator=generator).mul(255).to(torch.uint8).repeat_interleave(8, 1).repeat_interleave(8, 2)
        to_pil_image(picture).save(folder / f"class{i % 2}" / f"{i}.jpg")
    (folder / "class0" / "broken.png").write_bytes(b"not a picture")
    return folder


def test_a_folder_with_a_broken_file(photographs, tmp_path):
    options = ["--data", f"folder:{photographs}", "--size", 32, "--batch", 16, "--steps", 2, "--threads", 1]
    done = run("simclr", *options, "--out", tmp_path / "a")
    assert "skipped" in done.stderr
    assert "broken.png" in done.stderr
    assert "outside the class folders" in refusal("--data", f"folder:{loose(photographs)}", "--size", 32, "--out", tmp_path / "c")
    for label in [path for path in photographs.iterdir() if path.is_dir()]:  # without subfolders there are no labels, and no score
        for path in label.iterdir():
            path.rename(photographs / path.name)
        label.rmdir()
    assert "chance" not in run("simclr", *options, "--out", tmp_path / "b").stdout


def test_supervised_learns_handwriting_from_a_share_of_the_labels(tmp_path):
    run("supervised", *SMALL, "--steps", 120, "--labels", 0.2, "--out", tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["labels"] < 300
    assert result["accuracy"] > 50


def test_a_run_that_diverges_still_reports(tmp_path):
    run("simclr", *SMALL, "--steps", 5, "--lr", 1e30, "--out", tmp_path)
    assert json.loads((tmp_path / "result.json").read_text())["knn_after"] != 0


def loose(folder):
    """The folder, with one picture outside its class folders."""
    next((folder / "class0").glob("*.jpg")).rename(folder / "loose.jpg")
    return folder


def refusal(*options):
    """The last words of a run that ends before it begins."""
    with pytest.raises((SystemExit, ValueError)) as caught:
        simclr.main([*SMALL, "--steps", "60", *map(str, options)])
    return str(caught.value)


def test_refusals(unbroken, tmp_path):
    assert "which holds a run; expected an empty folder, --resume or --overwrite. To mend" in refusal("--out", unbroken)
    assert "got {'temperature': 0.5}; expected {'temperature': 0.2}" in refusal("--out", unbroken, "--resume", "--temperature", 0.5)
    torch.save({"model": torch.ones(2)}, tmp_path / "checkpoint.pt")
    assert "checkpoint.pt with keys ['model']; expected one with format" in refusal("--out", tmp_path, "--resume")
    (tmp_path / "checkpoint.pt").write_bytes(b"torn")
    assert "expected a whole checkpoint of these examples" in refusal("--out", tmp_path, "--resume")
    assert (tmp_path / "checkpoint.pt").read_bytes() == b"torn"  # nothing is lost by a refusal
    assert "--data: got 'imagenet'; expected scenes" in refusal("--out", tmp_path / "x", "--data", "imagenet")
    assert "--batch: got 5000 with 1297 training pictures" in refusal("--out", tmp_path / "x", "--batch", 5000)
    assert "--save-every: got 0; expected a whole number from 1 on" in refusal("--out", tmp_path / "x", "--save-every", 0)
    assert "--accumulate: got 5 with --batch 32; expected a divisor" in refusal("--out", tmp_path / "x", "--accumulate", 5)
    before = state(unbroken)
    refusal("--out", unbroken, "--overwrite", "--batch", 5000)
    assert same(state(unbroken), before)
    (tmp_path / "empty").mkdir()
    assert "no picture in it; expected a .jpg, .jpeg, .png file" in refusal(
        "--out", tmp_path / "x", "--data", f"folder:{tmp_path / 'empty'}"
    )


def test_the_number_of_steps_follows_the_clock_given(tmp_path):
    run("simclr", *SMALL, "--seconds", 0.1, "--steps", 100_000, "--out", tmp_path)
    steps = json.loads((tmp_path / "result.json").read_text())["steps"]
    assert steps == 20  # the least; a schedule is always run to its end
