"""The masked examples as a user runs them: every row of the paper's tables runs, a killed run goes on, two processes train as one."""

import json

import pytest
import torch
from tests.examples.runs import DIGITS, killed_and_resumed, losses, run, same, state

from sslkit.kernels import gather_tokens
from sslkit.losses import masked_mse

import beit  # isort: skip  # runs.py puts the folder of the examples on the path
import common  # isort: skip
import finetune  # isort: skip
import mae  # isort: skip
import maskfeat  # isort: skip

SMALL = [*DIGITS, "--size", "16", "--batch", "32", "--dim", "32", "--depth", "2", "--decoder-dim", "32"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    out = tmp_path_factory.mktemp("mae")
    run("mae", *SMALL, "--epochs", 1, "--save-every", 1, "--out", out)
    return out


def test_a_finished_run_leaves_its_result_and_pictures(pretrained):
    result = json.loads((pretrained / "result.json").read_text())
    assert result["steps"] == 1297 // 32
    assert {f"{score}_{when}" for score in ("knn", "linear", "few_shot") for when in ("before", "after")} < result.keys()
    assert {path.name for path in pretrained.glob("*.png")} == {"reconstruction.png", "loss.png"}
    assert losses(pretrained)[-1] < losses(pretrained)[0]


def test_a_killed_run_resumes_to_the_same_bits(pretrained, tmp_path):
    killed_and_resumed("mae", tmp_path, [*SMALL, "--epochs", 1, "--save-every", 1], kills=2, seed=0)
    assert same(state(tmp_path), state(pretrained))


@pytest.mark.parametrize("encoder", ["visible", "tokens"])
def test_two_processes_train_as_one(encoder, tmp_path):
    options = [*SMALL, "--steps", 4, "--batch", 33, "--encoder", encoder]
    run("mae", *options, "--out", tmp_path / "two", processes=2)
    run("mae", *options, "--out", tmp_path / "one")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def prepared(*options):
    """Options, data (random pictures), and what `build` makes of them."""
    chosen = mae.parse([*SMALL, *map(str, options)])
    pictures = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    data = common.Data(pictures, pictures, pictures)
    return chosen, data, *mae.build(chosen, data, torch.device("cpu"))


@pytest.mark.parametrize("target", ["pixels", "norm", "pca"])
def test_a_perfect_prediction_paints_the_picture(target):
    _, data, _, wanted, _ = prepared("--target", target)
    images = mae.centred(data.train)
    painted = wanted.paint(wanted(images), images, (4, 4))
    kept = 1.0 if target != "pca" else 6 / 48  # of random pictures' variance, six of 48 components keep at least their share
    assert 1 - (painted - images).square().sum() / images.square().sum() >= kept - 1e-4


@pytest.mark.parametrize("target", ["pixels", "norm", "pca"])
def test_the_error_is_that_of_the_whole_target_at_the_hidden_patches(target):
    _, data, model, wanted, masker = prepared("--target", target)
    images, mask = mae.centred(data.train), masker(8, (4, 4), generator=torch.Generator().manual_seed(0))
    prediction = model(images, mask).detach()
    error = wanted.error(gather_tokens(prediction, mask.ids_hidden), images, mask.ids_hidden)
    torch.testing.assert_close(error.mean(), masked_mse(prediction, wanted(images), mask.mask), rtol=1e-6, atol=0)


def test_the_rows_of_the_paper_differ_where_they_should():
    """The mask hides what it says; the crop of one size keeps it; with [M] the whole grid is encoded."""
    grid = (4, 4)
    draw = {"indices": torch.arange(8), "seed": 0, "epoch": 0}
    for name, ratio in (("random", 0.5), ("block", 0.75), ("grid", 0.75)):
        *_, masker = prepared("--mask", name, "--ratio", ratio)
        assert masker.for_indices(grid=grid, **draw).mask.sum(dim=1).tolist() == [16 * ratio] * 8
    ramp = torch.linspace(0, 1, 16).expand(8, 3, 16, 16)
    for augment, fixed in (("none", True), ("crop-fixed", True), ("crop-random", False)):
        options, *_ = prepared("--augment", augment, "--no-flip")
        slopes = mae.views(options)(ramp, **draw).diff(dim=-1)[:, 0, 0, 4:12].mean(dim=-1)  # of the ramp: how much is shown
        assert (slopes.std() < 1e-3) == fixed
    options, *_ = prepared("--augment", "crop-jitter")
    assert (mae.views(options)(ramp, **draw) - mae.views(options)(ramp, **draw)).abs().max() == 0
    assert "ColorJitter" in repr(mae.views(options))


def test_with_mask_tokens_hidden_pixels_still_tell_nothing():
    _, data, model, _, masker = prepared("--encoder", "tokens")
    images, mask = mae.centred(data.train), masker(8, (4, 4), generator=torch.Generator().manual_seed(0))
    hidden = mask.mask.view(8, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    other = torch.where(hidden, torch.nan, images)
    assert torch.equal(model(images, mask), model(other, mask))
    assert model.mae.encoder(images, replace=mask, mask_token=model.token).patches.shape[1] == 16
    grads = torch.autograd.grad(model(images, mask).square().mean(), model.token)
    assert grads[0].abs().max() > 0


def test_fine_tuning_starts_from_the_weights_and_follows_all_of_them(pretrained, tmp_path):
    labels = [*DIGITS, "--size", 16, "--init", pretrained, "--labels", 500, "--steps", 120, "--lr", 3e-3]
    accuracy = {}
    for name, more in {"from": (), "scratch": ("--scratch",), "cls": ("--pool", "cls")}.items():
        run("finetune", *labels, *more, "--out", tmp_path / name)
        accuracy[name] = json.loads((tmp_path / name / "result.json").read_text())["accuracy"]
        assert accuracy[name] > 35  # chance 10
    run("finetune", *labels, "--steps", 2, "--lr", 0, "--out", tmp_path / "still")
    before = torch.load(pretrained / "checkpoint.pt", weights_only=True)["parts"]["model"]
    for name, moved in (("still", False), ("from", True)):
        after = torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["parts"]["model"]
        for weight in ("encoder.patch_embed.proj.weight", "encoder.blocks.0.attn.qkv.weight", "encoder.blocks.1.mlp.fc2.bias"):
            assert torch.equal(after[weight], before[f"mae.{weight}"]) != moved


def test_fine_tuning_at_another_resolution_over_another_set_and_on_two_processes(pretrained, tmp_path):
    shared = [*DIGITS, "--init", pretrained, "--labels", 0.1, "--steps", 3]
    out = run("finetune", *shared, "--size", 24, "--intermediate", "digits", "--intermediate-steps", 2, "--out", tmp_path / "two-stage")
    assert "1297 labels" in out.stdout
    assert "129 labels" in out.stdout
    first = torch.load(tmp_path / "two-stage" / "intermediate" / "checkpoint.pt", weights_only=True)["parts"]["model"]
    assert first["encoder.pos_embed"].shape[1] == 1 + 16  # the table of the pre-training's grid, read on the finer one
    run("finetune", *shared, "--size", 16, "--batch", 33, "--out", tmp_path / "two", processes=2)
    run("finetune", *shared, "--size", 16, "--batch", 33, "--out", tmp_path / "one")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


@pytest.mark.parametrize(("example", "pool"), [("beit", "mean"), ("maskfeat", "cls")])
def test_fine_tuning_reads_the_encoders_of_the_other_masked_examples(example, pool, tmp_path):
    """Without a step the encoder is that of the run, also at another size and read again from a run of this example."""
    first = [*SMALL[:-2], "--patch", 4, "--steps", 2, *(("--target", "pixels") if example == "beit" else ())]
    run(example, *first, "--out", tmp_path / example)
    shared = [*DIGITS, "--labels", 0.1, "--pool", pool]
    run("finetune", *shared, "--size", 24, "--init", tmp_path / example, "--steps", 1, "--lr", 0, "--out", tmp_path / "still")
    run("finetune", *shared, "--size", 16, "--init", tmp_path / "still", "--steps", 2, "--out", tmp_path / "again")
    before, still, again = (common.read_checkpoint(tmp_path / name / "checkpoint.pt") for name in (example, "still", "again"))
    weights, kept, moved = (checkpoint["parts"]["model"] for checkpoint in (before, still, again))
    encoder = {name for name in weights if name.startswith("encoder.") and (pool == "cls" or not name.startswith("encoder.norm."))}
    assert encoder == {name for name in kept if name.startswith("encoder.")}
    assert all(torch.equal(weights[name], kept[name]) for name in encoder)
    assert {before["settings"]["size"], still["settings"]["base_size"], again["settings"]["base_size"]} == {16}
    assert (still["settings"]["network"], again["settings"]["network"]) == (example, example)
    table = {"beit": "encoder.rel_pos_bias.relative_position_bias_table", "maskfeat": "encoder.pos_embed"}[example]
    for name in (table, "encoder.blocks.1.mlp.fc2.weight"):
        assert not torch.equal(kept[name], moved[name])

    options = finetune.parse([*map(str, shared), "--size", "24", "--init", str(tmp_path / example)])
    model, images = finetune.build(options, 3, 10).eval(), torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    module, data = {"beit": beit, "maskfeat": maskfeat}[example], common.Data(images, images, images)
    pretrained = module.build(module.parse([*map(str, first)]), data, torch.device("cpu"))[0].eval()
    pretrained.load_state_dict(weights)
    patches = pretrained.encoder(images, layers=[-1]).layers[0]  # before the final norm
    assert torch.equal(model.encoder(images, layers=[-1]).layers[0], patches)


def test_networks_that_are_not_fine_tuned_are_refused(pretrained, tmp_path):
    run("supervised", *DIGITS, "--size", 16, "--steps", 1, "--batch", 32, "--out", tmp_path / "convnet")
    assert "with another network; expected a run of mae.py, beit.py, maskfeat.py or finetune.py" in refusal(
        finetune, "--size", 16, "--init", tmp_path / "convnet", "--out", tmp_path / "a"
    )


def refusal(example, *options):
    with pytest.raises((SystemExit, ValueError)) as caught:
        example.main([*SMALL[:4], *map(str, options)])
    return str(caught.value)


def test_refusals(pretrained, tmp_path):
    assert "GridMasker: got ratio=0.7" in refusal(mae, "--size", 16, "--mask", "grid", "--ratio", 0.7, "--out", tmp_path / "a")
    assert "height=18; expected a positive multiple of 4" in refusal(mae, "--size", 18, "--out", tmp_path / "a")
    assert "--dim: got 40; expected a multiple of 32" in refusal(mae, "--size", 16, "--dim", 40, "--out", tmp_path / "a")
    assert "checkpoint" in refusal(finetune, "--size", 16, "--init", tmp_path, "--out", tmp_path / "a")
    run("finetune", *DIGITS, "--size", 16, "--init", pretrained, "--pool", "mean", "--steps", 1, "--out", tmp_path / "mean")
    message = refusal(finetune, "--size", 16, "--init", tmp_path / "mean", "--pool", "cls", "--out", tmp_path / "a")
    assert "without encoder.norm.weight" in message
    assert not (tmp_path / "a" / "checkpoint.pt").exists()
