"""The saliency example as a user runs it: BASNet learns, its run is loaded, sheets without training."""

import json

import pytest
import torch
from tests.examples.runs import losses, run

import saliency  # isort: skip  # runs.py puts the folder of the examples on the path
from sslkit.datasets import Scenes  # isort: skip

SMALL = ["--batch", "8", "--width", "4", "--threads", "1", "--pictures", "20"]


def test_the_network_learns_and_is_found_again(tmp_path):
    done = run("saliency", *SMALL, "--steps", 24, "--out", tmp_path)
    found = losses(tmp_path)
    assert sum(found[-4:]) / 4 < sum(found[:4]) / 4 - 0.5  # of eight outputs, 2.5 each at the start
    result = json.loads((tmp_path / "result.json").read_text())
    assert {f"{kind}_{name}" for kind in ("f_beta", "mae") for name in ("gs", "mc", "rbd", "basnet")} < result.keys()
    assert {path.name for path in tmp_path.glob("*.png")} == {"saliency.png", "pasted.png", "loss.png"}
    assert "basnet" in done.stdout
    images = Scenes("test", 32, preset="easy").batch(range(20)).images
    maps = saliency.maps_of("basnet", images, None, tmp_path)
    weights = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["parts"]["basnet"]
    network = saliency.BASNet(4, depths=(1, 1, 1, 1))
    network.load_state_dict(weights)
    assert torch.equal(maps, (255 * network.eval().saliency(images, size=(32, 32))).round().to(torch.uint8))


@pytest.mark.parametrize("name", ["gs", "mc", "rbd"])
def test_maps_show_the_object(name):
    batch = Scenes("test", 32, preset="easy").batch(range(30))
    maps = saliency.maps_of(name, batch.images, None)
    inside = batch.masks[:, None] > 0.5
    assert maps[inside].float().mean() > 3 * maps[~inside].float().mean()


def test_the_demonstration_trains_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    saliency.main(["--demo"])
    assert {path.name for path in (tmp_path / "runs/demo").iterdir()} == {"saliency.png", "pasted.png"}
    assert "rbd" in capsys.readouterr().out


def test_what_is_pasted_is_the_object():
    batch = Scenes("test", 32, preset="easy").batch(range(3))
    columns = saliency.pasted(Scenes("test", 32, preset="easy"), batch.images, batch.masks[:, None])
    inside = (batch.masks == 1)[:, None].expand(-1, 3, -1, -1)
    for name in ("texture", "image", "grey"):
        assert torch.equal(columns[f"{name}, none"][inside], batch.images[inside])
        assert not torch.equal(columns[f"{name}, none"], columns[f"{name}, gaussian"])
    grey = columns["grey, none"].movedim(1, -1)[batch.masks == 0]
    assert torch.equal(grey, grey[:, :1].expand(-1, 3))


def test_refusals(tmp_path):
    with pytest.raises(SystemExit, match="--data: got 'digits'; expected scenes, scenes:easy or scenes:tiny, whose masks are known"):
        saliency.main(["--data", "digits", "--out", str(tmp_path)])
    run("supervised", "--data", "scenes:easy", "--steps", 1, "--batch", 8, "--threads", 1, "--out", tmp_path / "other")
    with pytest.raises(SystemExit, match="--network: got .*other; expected a run of saliency.py"):
        saliency.basnet_of(tmp_path / "other")
