"""The baselines as a user runs them: every method, killed runs, two processes, refusals."""

import json

import pytest
import torch
from tests.examples.runs import DIGITS, killed_and_resumed, losses, run, same, state

import common  # isort: skip  # runs.py puts the folder of the examples on the path
import siamese  # isort: skip

SMALL = [*DIGITS, "--size", "16", "--batch", "64", "--hidden", "32", "--dim", "16", "--prototypes", "16", "--negatives", "32"]


@pytest.mark.parametrize("method", siamese.METHODS)
def test_every_method_learns_from_its_own_loss(method, tmp_path, capsys):
    """Two epochs: clusters are made anew once, the queue is full after half of the first."""
    extra = {"swav": ["--queue", "256", "--crops", "2+1", "--freeze", "5"], "byol": ["--crops", "2+1"], "vicreg": ["--backbone", "vit"]}
    siamese.main([*SMALL, "--method", method, "--epochs", "2", "--out", str(tmp_path), *extra.get(method, [])])
    told = losses(tmp_path)
    assert len(told) == 40
    assert sum(told[-5:]) < sum(told[:5])
    result = json.loads((tmp_path / "result.json").read_text())
    assert {f"{score}_{when}" for score in ("knn", "linear", "few_shot") for when in ("before", "after")} < result.keys()
    assert f"{method}, 40 steps" in capsys.readouterr().out


def test_a_resnet_takes_the_place_of_the_small_network():
    data = common.load_data("digits", 16)
    student, _ = siamese.build(siamese.parse([*SMALL, "--method", "simsiam", "--backbone", "resnet"]), data, "cpu")
    z, p = student([common.floats(data.train[:4])] * 2)
    assert z.shape == p.shape == (2, 4, 16)
    assert sum(w.numel() for w in student.backbone.parameters()) == 11_168_832  # without classes and with a smaller stem


@pytest.mark.parametrize("method", ["instdist", "cmc", "deepcluster"])
def test_banks_begin_with_what_the_untrained_network_says(method):
    data = common.load_data("digits", 16)
    student, state = siamese.build(siamese.parse([*SMALL, "--method", method]), data, "cpu")
    assert all(not tensor.any() for name, tensor in student.named_buffers() if name.endswith(("running_mean", "num_batches_tracked")))
    first = len(state.banks[0].rows) // 3 + 1  # of three parts, each a batch to BatchNorm
    with torch.no_grad():
        z, _ = student([common.floats(data.train[:first])])
    for k, bank in enumerate(state.banks):
        torch.testing.assert_close(bank.rows[:first], torch.nn.functional.normalize(z[k if method == "cmc" else 0], dim=1))


@pytest.mark.parametrize("method", ["byol", "swav", "deepcluster", "cmc"])
def test_a_killed_run_resumes_to_the_same_bits(method, tmp_path):
    """With everything that a method remembers: teacher, queue and prototypes, clusters, banks."""
    options = [*SMALL, "--method", method, "--steps", "24", "--save-every", "1", "--queue", "128"]
    run("siamese", *options, "--out", tmp_path / "whole")
    killed_and_resumed("siamese", tmp_path / "killed", options, kills=1, seed=0)
    assert same(state(tmp_path / "killed"), state(tmp_path / "whole"))


@pytest.mark.parametrize("method", ["barlow", "instdist"])
def test_what_two_processes_remember_is_what_one_does(method, tmp_path):
    """BatchNorm sees each process's own pictures, so losses differ; rows of the bank are the same pictures', of all processes."""
    options = [*SMALL, "--method", method, "--steps", "3"]
    run("siamese", *options, "--out", tmp_path / "two", processes=2)
    run("siamese", *options, "--out", tmp_path / "one")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=0.2)
    if method == "instdist":
        two, one = (torch.load(tmp_path / n / "checkpoint.pt", weights_only=True)["parts"]["state"]["banks.0.rows"] for n in ("two", "one"))
        start = siamese.build(siamese.parse(options), common.load_data("digits", 16), "cpu")[1].banks[0].rows
        moved = (one != start).any(dim=1)
        assert moved.sum() == 3 * 64
        assert torch.equal((two != start).any(dim=1), moved)
        assert (two * one).sum(dim=1)[moved].mean() > 0.9


def test_refusals(capsys):
    with pytest.raises(SystemExit):
        siamese.parse(["--method", "cmc", "--backbone", "resnet"])
    assert "--backbone: got resnet with cmc; expected convnet, two of them" in capsys.readouterr().err
    for method, crops, expected in (("barlow", "2+2", "for byol and swav"), ("swav", "3", "with N local views"), ("byol", "2+x", "with N")):
        with pytest.raises(SystemExit):
            siamese.parse(["--method", method, "--crops", crops])
        assert f"expected 2, or 2+N {expected}" in capsys.readouterr().err
