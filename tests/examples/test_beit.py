"""The dVAE and BEiT as a user runs them: every row of the paper's table, killed runs, two processes, words from disk."""

import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tests.examples.runs import DIGITS, first_moments, killed_and_resumed, losses, run, same, state

import beit  # isort: skip  # runs.py puts the folder of the examples on the path
import common  # isort: skip
import dvae  # isort: skip
import mae  # isort: skip
import maskfeat  # isort: skip
import maskfeat_video  # isort: skip

WORDS = [*DIGITS, "--size", "32", "--hidden", "8", "--vocabulary", "32", "--steps", "100", "--save-every", "1"]
SMALL = [*DIGITS, "--size", "16", "--patch", "4", "--batch", "32", "--dim", "32", "--depth", "2"]
GRID = (4, 4)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    out = tmp_path_factory.mktemp("dvae")
    run("dvae", *WORDS, "--out", out, "--cache", out / "deep" / "words.safetensors")
    return out


@pytest.fixture(scope="module")
def trained(words, tmp_path_factory):
    out = tmp_path_factory.mktemp("beit")
    run("beit", *SMALL, "--dvae", words, "--epochs", 1, "--save-every", 1, "--out", out)
    return out


def test_the_small_dvae_uses_its_vocabulary_and_brings_pictures_back(words):
    result = json.loads((words / "result.json").read_text())
    assert result["code_usage"] > 50
    assert result["explained"] > 50
    assert 1 < result["perplexity"] < 32 * result["code_usage"] / 100
    assert {path.name for path in words.glob("*.png")} == {"reconstruction.png", "loss.png"}
    log = [json.loads(line) for line in (words / "log.jsonl").read_text().splitlines()]
    for step, line in enumerate(log):  # half a cosine over a tenth of the steps, and over eight tenths
        rise, fall = (0.5 - 0.5 * math.cos(math.pi * min(step / steps, 1)) for steps in (10, 80))
        assert (line["kl"], line["temperature"]) == (pytest.approx(50 * rise), pytest.approx(1 - 0.75 * fall))
        assert line["loss"] == pytest.approx(line["reconstruction"] + line["kl"] / 192 * line["divergence"])
    assert log[-1]["reconstruction"] < log[0]["reconstruction"] - 0.4  # measured 0.54


def test_a_finished_run_leaves_its_result_and_pictures(trained):
    result = json.loads((trained / "result.json").read_text())
    assert result["steps"] == 1297 // 32
    assert {f"{score}_{when}" for score in ("knn", "linear", "few_shot") for when in ("before", "after")} < result.keys()
    assert {path.name for path in trained.glob("*.png")} == {"reconstruction.png", "attention.png", "loss.png"}
    assert losses(trained)[-1] < losses(trained)[0]
    accuracy = [json.loads(line)["mlm_acc"] for line in (trained / "log.jsonl").read_text().splitlines()]
    assert 0 <= accuracy[0] < sum(accuracy[-5:]) / 5 <= 100


def test_killed_runs_resume_to_the_same_bits(words, trained, tmp_path):
    killed_and_resumed("dvae", tmp_path / "dvae", WORDS, kills=1, seed=0)
    assert same(state(tmp_path / "dvae"), state(words))
    killed_and_resumed("beit", tmp_path / "beit", [*SMALL, "--dvae", words, "--epochs", 1, "--save-every", 1], kills=1, seed=1)
    assert same(state(tmp_path / "beit"), state(trained))


def test_two_processes_train_as_one(words, tmp_path):
    options = {"dvae": [*WORDS[:-4], "--batch", 33, "--steps", 4], "beit": [*SMALL, "--dvae", words, "--batch", 33, "--steps", 4]}
    for example in options:
        run(example, *options[example], "--out", tmp_path / example / "two", processes=2)
        run(example, *options[example], "--out", tmp_path / example / "one")
        assert losses(tmp_path / example / "two") == pytest.approx(losses(tmp_path / example / "one"), rel=1e-4)
        two, one = (first_moments(tmp_path / example / n) for n in ("two", "one"))
        assert (two - one).norm() <= 1e-4 * one.norm()  # measured 2e-6
    lines = [
        [json.loads(line)["mlm_acc"] for line in (tmp_path / "beit" / n / "log.jsonl").read_text().splitlines()] for n in ("one", "two")
    ]
    assert lines[0] == pytest.approx(lines[1])


def prepared(*options, size=16):
    """Options, random pictures, and what `build` makes of them."""
    chosen = beit.parse([*SMALL, "--size", str(size), *map(str, options)])
    pictures = torch.rand(8, 3, size, size, generator=torch.Generator().manual_seed(0))
    return chosen, pictures, *beit.build(chosen, common.Data(pictures, pictures, pictures), torch.device("cpu"))


@pytest.mark.parametrize("target", ["tokens", "pixels"])
@pytest.mark.parametrize(("mask", "recover"), [("blockwise", "hidden"), ("random", "hidden"), ("blockwise", "all"), ("none", "all")])
def test_every_row_of_table_4(words, target, mask, recover):
    """What is hidden and what is predicted; the loss is least at the truth, which then paints the picture."""
    options, pictures, model, goal, masker = prepared("--dvae", words, "--target", target, "--mask", mask, "--recover", recover)
    draw = {"indices": torch.arange(8), "seed": 0, "epoch": 0}
    hidden = masker.for_indices(grid=GRID, **draw)
    assert hidden.mask.sum(dim=1).tolist() == [0 if mask == "none" else 6] * 8
    ids = hidden.ids_hidden if recover == "hidden" else torch.arange(16).expand(8, -1)
    images, second = beit.views(options, GRID)(pictures, **draw)
    assert [tuple(view.shape[2:]) for view in (images, second)] == [(16, 16), (32, 32)]
    prediction, truth = model(common.centred(images), hidden, ids), goal(images, second, draw["indices"], ids)
    perfect = 100 * torch.nn.functional.one_hot(truth, goal.values).float() if target == "tokens" else truth
    assert prediction.shape == perfect.shape == (8, ids.shape[1], 32 if target == "tokens" else 48)
    noise = torch.randn(perfect.shape, generator=torch.Generator().manual_seed(1))
    assert goal.loss(perfect, truth) < 1e-6
    assert goal.loss(perfect + noise * perfect.abs().max(), truth) > 1e-3
    goal.loss(prediction, truth).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert (model.token.grad.abs().max() > 0) == (mask != "none")
    perfect = perfect if target == "pixels" else 100 * torch.nn.functional.one_hot(goal(images, images, draw["indices"], ids), 32).float()
    whole = goal.words.paint(goal.words(images, GRID), (16, 16)) if target == "tokens" else images
    torch.testing.assert_close(goal.paint(perfect, images, ids), whole, rtol=0, atol=1e-4)


def test_hidden_pixels_tell_the_network_nothing(words):
    _, pictures, model, _, masker = prepared("--dvae", words)
    mask = masker(8, GRID, generator=torch.Generator().manual_seed(0))
    hidden = mask.mask.view(8, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    seen = model(pictures, mask, mask.ids_hidden)
    assert torch.equal(seen, model(torch.where(hidden, torch.nan, pictures), mask, mask.ids_hidden))


def test_nothing_hidden_is_defined(words):
    """A loss of 0, without gradient."""
    options, pictures, model, goal, masker = prepared("--dvae", words, "--ratio", 0)
    draw = {"indices": torch.arange(8), "seed": 0, "epoch": 0}
    mask, (images, second) = masker.for_indices(grid=GRID, **draw), beit.views(options, GRID)(pictures, **draw)
    loss = goal.loss(model(images, mask, mask.ids_hidden), goal(images, second, draw["indices"], mask.ids_hidden))
    loss.backward()
    assert loss == 0
    assert all((p.grad == 0).all() for p in model.parameters())
    options.steps, options.out = 1, words / "nothing"
    state = common.Run(options)
    beit.train(options, state, common.Data(pictures.repeat(4, 1, 1, 1), pictures, pictures), model, goal, masker, None, torch.device("cpu"))
    assert json.loads((options.out / "log.jsonl").read_text()) == {"step": 1, "loss": 0.0, "mlm_acc": 0.0}


def test_words_from_disk_are_those_of_the_dvae(words, tmp_path):
    file = words / "deep" / "words.safetensors"
    with safe_open(file, "pt") as cache:
        assert cache.metadata() == {"data": "digits", "size": "32", "vocabulary": "32"}
        assert cache.get_tensor("words").dtype == torch.int16
    chosen, data = [*SMALL, "--size", "32", "--patch", "8", "--augment", "none"], common.load_data("digits", 32)
    ids, indices = torch.tensor([[0, 5, 15]]).expand(40, -1), torch.arange(7, 47)
    found = []
    for source in (["--tokens", str(file)], ["--dvae", str(words)]):
        options = beit.parse([*chosen, *source])
        _, goal, _ = beit.build(options, data, torch.device("cpu"))
        images, second = beit.views(options, GRID)(data.train[indices])
        found.append(goal(images, second, indices, ids))
        assert goal.values == 32
    assert torch.equal(*found)
    assert len(found[0].unique()) > 3
    run("beit", *chosen, "--tokens", file, "--steps", 3, "--out", tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").glob("*.png")} == {"attention.png", "loss.png"}
    again = tmp_path / "again.safetensors"  # a finished run writes them, too
    run("dvae", *WORDS, "--out", words, "--resume", "--cache", again)
    with safe_open(file, "pt") as cache, safe_open(again, "pt") as twin:
        assert cache.metadata() == twin.metadata()
        assert torch.equal(cache.get_tensor("words"), twin.get_tensor("words"))


def test_the_released_files(words, tmp_path):
    weights = common.read_checkpoint(words / "checkpoint.pt")["parts"]["model"]
    for part in ("encoder", "decoder"):
        torch.save({name.removeprefix(f"{part}."): w for name, w in weights.items() if name.startswith(part)}, tmp_path / f"{part}.pkl")
    _, pictures, _, released, _ = prepared("--openai", tmp_path / "encoder.pkl", tmp_path / "decoder.pkl")
    _, _, _, own, _ = prepared("--dvae", words)
    assert torch.equal(released.words(pictures, GRID), own.words(pictures, GRID))


def parsed(example, *options):
    """Options of another masked example."""
    return example.parse([*DIGITS[:-1], "--size", "16", "--patch", "4", "--dim", "32", "--depth", "1", *map(str, options)])


def test_visual_words_as_the_target_of_the_other_examples(words):
    """The loss is least at the words of the pictures; on clips at those of the first frame of each tubelet."""
    pictures = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    data, cpu = common.Data(pictures, pictures, pictures), torch.device("cpu")
    expected = common.Words(words, 3)(pictures, GRID).flatten(1)

    def perfect(truth):
        return 100 * torch.nn.functional.one_hot(truth, 32).float()

    model, goal, masker = mae.build(parsed(mae, "--target", "dvae", "--dvae", words, "--decoder-dim", 32), data, cpu)
    mask, images = masker(4, GRID, generator=torch.Generator().manual_seed(0)), common.centred(pictures)
    truth = expected.gather(1, mask.ids_hidden)
    assert torch.equal(goal(images), expected)
    assert model(images, mask).shape == (4, 16, 32)
    assert goal.error(perfect(truth), images, mask.ids_hidden).max() < 1e-6
    assert goal.error(perfect((truth + 1) % 32), images, mask.ids_hidden).min() > 99
    painted = common.Words(words, 3).paint(expected.view(4, 4, 4), (16, 16))
    torch.testing.assert_close(goal.paint(perfect(expected), images, GRID), common.centred(painted))

    model, goal, masker = maskfeat.build(parsed(maskfeat, "--target", "dvae", "--dvae", words), data, cpu)
    mask = masker(4, GRID, generator=torch.Generator().manual_seed(0))
    truth = expected.gather(1, mask.ids_hidden)
    assert model(images, mask).shape == (4, 8, 32)
    assert torch.equal(goal(pictures, mask), truth)
    assert goal.loss(perfect(truth), pictures, mask) < 1e-6 < 99 < goal.errors(perfect((truth + 1) % 32), pictures, mask).min()
    torch.testing.assert_close(goal.painted(perfect(truth), pictures, mask)["words"], painted)

    options = maskfeat_video.parse(f"--size 16 --patch 4 --dim 32 --depth 1 --frames 4 --target dvae --dvae {words}".split())
    model, goal, masker = maskfeat_video.build(options, cpu)
    clips = torch.rand(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    mask = masker(2, (2, 4, 4), generator=torch.Generator().manual_seed(0))
    frames = torch.stack([common.Words(words, 3)(clips[:, :, t], GRID) for t in (0, 2)], dim=1).flatten(1)
    truth = frames.gather(1, mask.ids_hidden)
    assert torch.equal(goal(clips, mask), truth)
    assert model(clips, mask).shape == (*truth.shape, 32)
    assert goal.loss(perfect(truth), clips, mask) < 1e-6


def test_the_other_examples_run_with_visual_words(words, tmp_path):
    run("mae", *SMALL, "--decoder-dim", 32, "--steps", 2, "--target", "dvae", "--dvae", words, "--out", tmp_path / "mae")
    run("maskfeat", *SMALL, "--steps", 2, "--target", "dvae", "--dvae", words, "--out", tmp_path / "maskfeat")
    assert (tmp_path / "mae" / "reconstruction.png").exists()
    assert (tmp_path / "maskfeat" / "prediction.png").exists()
    assert losses(tmp_path / "mae")[0] == pytest.approx(torch.tensor(32.0).log().item(), rel=0.5)


def refusal(example, *options):
    with pytest.raises((SystemExit, ValueError)) as caught:
        example.main([*map(str, options)])
    return str(caught.value)


def test_refusals(words, trained, tmp_path):
    small = [*SMALL, "--out", tmp_path / "a"]
    assert "--target tokens: got no tokenizer; expected one of --dvae, --openai and --tokens. To mend: train" in refusal(beit, *small)
    file = words / "deep" / "words.safetensors"
    assert "got --dvae and --tokens" in refusal(beit, *small, "--dvae", words, "--tokens", file)
    assert f"--dvae: got {trained}; expected a run of dvae.py" in refusal(beit, *small, "--dvae", trained)
    assert "--recover: got hidden with --mask none; expected all" in refusal(beit, *small, "--dvae", words, "--mask", "none")
    assert "--tokens: got --augment beit; expected --augment none" in refusal(beit, *small, "--tokens", file)
    wrong = refusal(beit, *small, "--size", 24, "--tokens", file, "--augment", "none")
    assert "'pictures': 1297, 'grid': (4, 4)}; expected {'data': 'digits', 'pictures': 1297, 'grid': (6, 6)}" in wrong
    assert "To mend: write it by dvae.py --data digits --size 48 --cache" in wrong
    save_file({"words": torch.zeros(1297, 4, 4, dtype=torch.int16)}, tmp_path / "foreign")
    assert "got a file of {'data': None" in refusal(beit, *small, "--tokens", tmp_path / "foreign", "--augment", "none")
    assert "--dim: got 40; expected a multiple of 32" in refusal(beit, *small, "--dvae", words, "--dim", 40)
    for example in (mae, maskfeat):
        assert "--dvae: got none; expected a run of dvae.py" in refusal(example, *small, "--target", "dvae")
    assert "--bf16: got it; expected float32" in refusal(dvae, *WORDS, "--bf16", "--out", tmp_path / "a")
    grey = torch.rand(4, 1, 16, 16)
    for build, chosen in ((beit.build, beit.parse([*SMALL, "--dvae", str(words)])), (dvae.build, dvae.parse([*WORDS]))):
        with pytest.raises(SystemExit, match="--data: got pictures of 1 channels.*expected red, green and blue"):
            build(chosen, common.Data(grey, grey, grey), torch.device("cpu"))
    assert not (tmp_path / "a" / "checkpoint.pt").exists()
    with pytest.raises(ValueError, match=r"images of 16 x 16, so 2 x 2 tokens, for the grid \(4, 4\); expected images of 32..39 x 32..39"):
        common.Words(words, 3).dvae.tokens(torch.rand(1, 3, 16, 16), grid=GRID)
