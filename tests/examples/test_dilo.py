"""DiLo as a user runs it: every base and saliency, the control, a killed run, refusals."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from tests.examples.runs import killed_and_resumed, losses, run, same, state

import dilo  # isort: skip  # runs.py puts the folder of the examples on the path
import saliency  # isort: skip
from sslkit.datasets import Scenes  # isort: skip

SMALL = ["--data", "scenes:easy", "--size", "32", "--batch", "32", "--queue", "64", "--negatives", "16", "--threads", "1"]
ROWS = [("simclr", "truth", "texture", "mix"), ("moco1", "gs", "grayscale", "none"), ("moco2", "rbd", "image", "gaussian"),
        ("instdist", "mc", "texture", "mix"), ("simclr", "cam", "grayscale", "mix"), ("simclr", "gradient", "image", "mix"),
        ("cmc", "basnet", "texture", "mix"), ("simclr", "sslkit.saliency:geodesic_saliency", "texture", "mix")]  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    out = tmp_path_factory.mktemp("teacher")
    run("supervised", "--data", "scenes:easy", "--steps", 2, "--batch", 32, "--threads", 1, "--out", out)
    return out


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    out = tmp_path_factory.mktemp("network")
    run("saliency", "--steps", 2, "--batch", 8, "--width", 2, "--threads", 1, "--pictures", 10, "--out", out)
    return out


@pytest.mark.parametrize("row", ROWS, ids="-".join)
def test_every_row_of_the_tables(row, tmp_path, capsys, monkeypatch, teacher, network):
    monkeypatch.setattr(saliency, "Scenes", partial(Scenes, count=160))
    base, maps, background, blend = row
    options = [*SMALL, "--base", base, "--saliency", maps, "--background", background, "--blend", blend]
    options += ["--teacher", str(teacher), "--network", str(network)]
    dilo.main([*options, "--steps", "4", "--out", str(tmp_path)])
    parts = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["parts"]["base"]
    assert ("queue.rows" in parts) == base.startswith("moco")
    assert [name for name in parts if name.endswith("banks.1.rows")] == ["state.banks.1.rows"] * (base == "cmc")
    assert ("state.banks.0.rows" in parts) == (base in ("instdist", "cmc"))
    assert ("student.backbone.colour.stages.conv0.weight" in parts) == (base == "cmc")
    result = json.loads((tmp_path / "result.json").read_text())
    assert {"swapped_before", "swapped_after", "family_after", "linear_after", "f_beta", "mae"} < result.keys()
    assert result["f_beta"] == 1 if maps == "truth" else 0 < result["f_beta"] < 1
    assert {path.name for path in tmp_path.glob("*.png")} == {"pasted.png", "loss.png"}
    assert "linear, other backgrounds" in capsys.readouterr().out


def test_the_control_pastes_nothing_and_views_paste_for_themselves():
    options = dilo.parse([*SMALL, "--ratio", "1", "--blend", "none"])
    scenes = Scenes("train", 32, count=32)
    batch = scenes.batch(torch.arange(32))
    maps = saliency.maps_of("truth", batch.images, batch.masks[:, None])
    draw = {"indices": torch.arange(32), "epoch": 0}

    def still(options):
        """Two views without crops and colours."""
        paste = dilo.paste_of(options, scenes, batch.images, maps)
        return dilo.two_views(
            options, paste, dilo.simclr(32, scale=(1, 1), blur=0, flip=0, crop_only=True).views[0], batch.images, maps, draw
        )

    one, other = still(options)
    inside = (batch.masks > 0.999)[:, None].expand_as(one)
    torch.testing.assert_close(one[inside], other[inside], rtol=0, atol=0.05)  # the object, through one resampling
    outside = (batch.masks == 0)[:, None].expand_as(one)
    assert (one[outside] - other[outside]).abs().mean() > 0.1
    plain, again = still(dilo.parse([*SMALL, "--ratio", "0"]))
    torch.testing.assert_close(plain, again, rtol=0, atol=0.05)


def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    options = [*SMALL, "--base", "moco2", "--steps", "8", "--save-every", "1"]
    run("dilo", *options, "--out", tmp_path / "whole")
    killed_and_resumed("dilo", tmp_path / "killed", options, kills=1, seed=0)
    assert same(state(tmp_path / "killed"), state(tmp_path / "whole"))
    assert all(value > 0 for value in losses(tmp_path / "whole"))


def test_maps_from_a_file_are_the_maps(tmp_path):
    images, file = torch.rand(5, 3, 32, 32), str(tmp_path / "maps.npy")
    maps = torch.randint(256, (5, 32, 32), dtype=torch.uint8)
    np.save(file, maps.numpy())
    assert torch.equal(saliency.maps_of(file, images, None), maps[:, None])
    with pytest.raises(SystemExit, match=r"--saliency: got .*maps.npy: \[5, 1, 32, 32\] of torch.uint8; expected uint8 \[4, height"):
        saliency.maps_of(file, images[:4], None)


def test_a_function_of_ones_own_is_an_estimator(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def left(images):\n    return (images[:, :1] * 0).index_fill(3, images.new_tensor([0]).long(), 1)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    maps = saliency.maps_of("mine:left", torch.rand(70, 3, 32, 32), None)
    assert (maps.shape, maps.dtype) == ((70, 1, 32, 32), torch.uint8)
    assert (maps[..., 0] == 255).all()
    assert (maps[..., 1:] == 0).all()


def test_refusals(tmp_path):
    with pytest.raises(SystemExit, match="--data: got 'digits'; expected scenes, scenes:easy or scenes:tiny, whose masks are known"):
        dilo.main(["--data", "digits", "--out", str(tmp_path / "a")])
    two = torch.rand(2, 3, 32, 32), torch.rand(2, 1, 32, 32)
    with pytest.raises(SystemExit, match="--teacher: got none"):
        saliency.maps_of("cam", *two)
    with pytest.raises(SystemExit, match="--network: got none; expected a run of saliency.py"):
        saliency.maps_of("basnet", *two)
    with pytest.raises(SystemExit, match="--saliency: got 'rdb'; expected truth, gs, mc, rbd, basnet, cam, gradient, FILE.npy or"):
        saliency.maps_of("rdb", *two)
