"""MaskFeat as a user runs it, on pictures and on clips: every target and mask, killed runs, two processes, files."""

import json

import pytest
import torch
from tests.datasets.test_clips import write
from tests.examples.runs import DIGITS, killed_and_resumed, losses, run, same, state

import common  # isort: skip  # runs.py puts the folder of the examples on the path
import maskfeat  # isort: skip
import maskfeat_video  # isort: skip

SMALL = [*DIGITS, "--size", "16", "--patch", "4", "--batch", "32", "--dim", "32", "--depth", "2"]
CLIPS = ["--size", "16", "--patch", "4", "--dim", "32", "--depth", "1", "--threads", "1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("maskfeat")
    run("maskfeat", *SMALL, "--epochs", 1, "--save-every", 1, "--out", out)
    return out


def test_a_finished_run_leaves_its_result_and_pictures(trained):
    result = json.loads((trained / "result.json").read_text())
    assert result["steps"] == 1297 // 32
    assert {f"{score}_{when}" for score in ("knn", "linear", "few_shot") for when in ("before", "after")} < result.keys()
    assert {path.name for path in trained.glob("*.png")} == {"prediction.png", "loss.png"}
    assert losses(trained)[-1] < losses(trained)[0]


def test_a_killed_run_resumes_to_the_same_bits(trained, tmp_path):
    killed_and_resumed("maskfeat", tmp_path, [*SMALL, "--epochs", 1, "--save-every", 1], kills=2, seed=0)
    assert same(state(tmp_path), state(trained))


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    out = tmp_path_factory.mktemp("teachers")
    shared = [*DIGITS, "--size", 16, "--steps", 2, "--batch", 32]
    run("supervised", *shared, "--out", out / "supervised")
    run("simclr", *shared, "--out", out / "simclr")
    return out


def prepared(*options):
    """Options, and what `build` makes of them and of random pictures."""
    chosen = maskfeat.parse([*SMALL, *map(str, options)])
    pictures = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return pictures, maskfeat.build(chosen, common.Data(pictures, pictures, pictures), torch.device("cpu"))


def test_every_target_falls_to_its_least_at_the_truth(teachers):
    """The loss of the target itself is 0 (of its logits, for classes), and less than that of anything near."""
    rows = [("hog", ()), ("pixels", ()), ("features", ("simclr",)), ("features", ("supervised",)), ("pseudo", ("supervised",))]
    for kind, teacher in rows:
        pictures, (model, target, masker) = prepared("--target", kind, *(("--teacher", teachers / teacher[0]) if teacher else ()))
        mask = masker(8, (4, 4), generator=torch.Generator().manual_seed(0))
        truth = target(pictures, mask)
        perfect = 100 * torch.nn.functional.one_hot(truth, target.values).float() if kind == "pseudo" else truth
        assert model(common.centred(pictures), mask).shape == perfect.shape == (8, 8, target.values)
        noise = torch.randn(perfect.shape, generator=torch.Generator().manual_seed(1))
        assert target.loss(perfect, pictures, mask) < 1e-6
        assert target.loss(perfect + noise * perfect.abs().max(), pictures, mask) > 1e-3
        assert not any(p.requires_grad for p in target.parameters())


def test_hidden_pixels_tell_the_network_nothing():
    pictures, (model, _, masker) = prepared()
    mask = masker(8, (4, 4), generator=torch.Generator().manual_seed(0))
    hidden = mask.mask.view(8, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert torch.equal(model(pictures, mask), model(torch.where(hidden, torch.nan, pictures), mask))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for number in range(5):
        write(root / f"{number}.mp4", 12 + number)
    write(root / "short.mp4", 2)
    (root / "broken.mp4").write_bytes(b"no video")
    return root


def test_two_processes_train_as_one(videos, tmp_path):
    files = ["--data", f"folder:{videos}", "--frames", 4, "--frame-stride", 1, "--batch", 3, "--steps", 3]
    for example, options in (("maskfeat", [*SMALL, "--steps", 4, "--batch", 33]), ("maskfeat_video", [*CLIPS, *files])):
        run(example, *options, "--out", tmp_path / example / "two", processes=2)
        run(example, *options, "--out", tmp_path / example / "one")
        assert losses(tmp_path / example / "two") == pytest.approx(losses(tmp_path / example / "one"), rel=1e-4)


def test_a_folder_of_videos(videos, tmp_path):
    options = [*CLIPS, "--data", f"folder:{videos}", "--frames", 4, "--frame-stride", 2, "--batch", 4, "--steps", 2]
    done = run("maskfeat_video", *options, "--out", tmp_path / "run")
    assert "short.mp4: ValueError: 2 frames, 7 needed for 4 at stride 2" in done.stderr
    assert "broken.mp4" in done.stderr
    assert {path.name for path in (tmp_path / "run").glob("*.png")} == {"masks.png", "loss.png"}
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 2


def test_clips_under_every_mask_target_and_network(teachers):
    """What is asked of hidden tokens is what stands in the first frame of each tubelet."""
    clips = torch.rand(2, 3, 8, 64, 64, generator=torch.Generator().manual_seed(0))
    for backbone, patch in (("vit", 8), ("mvit", 16)):
        for mask in ("cube", "tube", "frame"):
            for target in ("hog", "pixels", "features"):
                words = f"--size 64 --patch {patch} --dim 32 --depth 1 --mask {mask} --backbone {backbone} --target {target}"
                options = maskfeat_video.parse([*words.split(), "--teacher", str(teachers / "simclr")])
                model, goal, masker = maskfeat_video.build(options, torch.device("cpu"))
                assert model.encoder.base == (4, 64 // patch, 64 // patch)
                hidden = masker.for_indices(torch.arange(2), model.encoder.base, seed=0)
                prediction, truth = model(clips, hidden), goal(clips, hidden)
                assert prediction.shape == truth.shape
                assert goal.loss(truth, clips, hidden) < 1e-6
                later = clips.clone()
                later[:, :, 1::2] = 0.5  # second frames
                assert torch.equal(goal(later, hidden), truth)


def test_one_box_a_clip():
    options = maskfeat_video.parse(["--size", "16"])
    still = torch.rand(4, 3, 1, 24, 24, generator=torch.Generator().manual_seed(0)).expand(-1, -1, 6, -1, -1).contiguous()
    cut = maskfeat_video.crop(options, still, indices=torch.arange(4), seed=0, epoch=0)
    assert torch.equal(cut, cut[:, :, :1].expand_as(cut))


def refusal(example, *options):
    with pytest.raises((SystemExit, ValueError)) as caught:
        example.main([*map(str, options)])
    return str(caught.value)


def test_refusals(teachers, videos, tmp_path):
    digits = [*SMALL, "--out", tmp_path / "a"]
    assert "--patch: got 5 with --target hog; expected an even number" in refusal(maskfeat, *digits, "--size", 15, "--patch", 5)
    assert "--teacher: got none; expected a run of supervised.py or simclr.py" in refusal(maskfeat, *digits, "--target", "features")
    pseudo = refusal(maskfeat, *digits, "--overwrite", "--target", "pseudo", "--teacher", teachers / "simclr")
    assert "expected a ConvNet with a classifier" in pseudo
    clips = [*CLIPS, "--out", tmp_path / "b", "--overwrite"]
    assert "--patch: got 4 with --backbone mvit; expected 16" in refusal(maskfeat_video, *clips, "--data", f"folder:{videos}", "--frames",
                                                                        2, "--frame-stride", 1, "--backbone", "mvit")  # fmt: skip
    assert "--data: got 'digits'; expected scenes, scenes:easy or folder:PATH" in refusal(maskfeat_video, *clips, "--data", "digits")
    few = ["--data", f"folder:{videos}", "--frames", 8, "--frame-stride", 1, "--mask", "frame", "--ratio", 0.05]
    assert "--ratio: got 0.05 of 4 time steps; expected at least one" in refusal(maskfeat_video, *clips, *few)
    write(tmp_path / "mixed" / "walk" / "a.mp4", 8)
    write(tmp_path / "mixed" / "b.mp4", 8)
    mixed = refusal(maskfeat_video, *clips, "--data", f"folder:{tmp_path / 'mixed'}", "--frames", 4, "--frame-stride", 1)
    assert "got 1 videos outside the class folders, first" in mixed
    assert "got 0 readable videos, 7 skipped" in refusal(maskfeat_video, *clips, "--data", f"folder:{videos}", "--frames", 30)
