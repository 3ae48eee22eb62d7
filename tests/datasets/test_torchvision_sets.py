import struct

import pytest
import torch
from PIL import Image

from sslkit.datasets import torchvision_dataset
from sslkit.testing import proves


def write_mnist(root, generator):
    """The raw files of MNIST, with 6 training and 4 test pictures. Returns them."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    made = {}
    for name, count in (("train", 6), ("t10k", 4)):
        images = torch.randint(0, 256, (count, 28, 28), generator=generator, dtype=torch.uint8)
        labels = torch.randint(0, 10, (count,), generator=generator, dtype=torch.uint8)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 28, 28) + bytes(images.flatten().tolist()))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + bytes(labels.tolist()))
        made[name] = images, labels
    return made


@proves("datasets.torchvision_dataset", "property")
def test_a_train_flag(tmp_path, generator):
    made = write_mnist(tmp_path, generator)
    for split, name in (("train", "train"), ("test", "t10k")):
        loaded = torchvision_dataset("MNIST", tmp_path, split=split, size=28)
        assert torch.equal(loaded.images, made[name][0][:, None].expand(-1, 3, -1, -1))
        assert torch.equal(loaded.labels, made[name][1].long())
        assert len(loaded.classes) == 10
    assert torchvision_dataset("MNIST", tmp_path, size=14, count=2).images.shape == (2, 3, 14, 14)


def test_a_split_keyword(tmp_path):
    # DTD and its like take split="train"; Imagenette reads plain folders, one a class.
    for split in ("train", "val"):
        for wnid in ("n01440764", "n02102040"):
            folder = tmp_path / "imagenette2" / split / wnid
            folder.mkdir(parents=True)
            Image.new("RGB", (30, 20), (200, 10, 10)).save(folder / f"{wnid}_{split}.JPEG")
    loaded = torchvision_dataset("Imagenette", tmp_path, split="val", size=16)
    assert loaded.labels.tolist() == [0, 1]
    assert loaded.images.shape == (2, 3, 16, 16)


def test_no_root_and_no_split():
    loaded = torchvision_dataset("FakeData", "", size=16, options={"size": 5, "image_size": (3, 20, 24), "num_classes": 3})
    assert loaded.images.shape == (5, 3, 16, 16)
    assert loaded.labels.max() < 3
    again = torchvision_dataset("FakeData", "", split=None, size=16, options={"size": 5, "image_size": (3, 20, 24), "num_classes": 3})
    assert torch.equal(loaded.images, again.images)


def test_a_broken_file_is_named(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (20, 20)).save(tmp_path / name / "x.png")
    (tmp_path / "b" / "bad.png").write_bytes(b"bad")
    loaded = torchvision_dataset("ImageFolder", tmp_path, size=16)
    assert loaded.labels.tolist() == [0, 1]
    assert loaded.classes == ("a", "b")
    assert [name for name, _ in loaded.skipped] == ["ImageFolder[1]"]


@proves("datasets.torchvision_dataset", "errors")
def test_wrong_input(tmp_path, generator):
    with pytest.raises(ValueError, match=r"got name='cifar_10'; expected a data set of torchvision, such as CIFAR10"):
        torchvision_dataset("cifar_10", tmp_path, size=32)
    with pytest.raises(ValueError, match="got split='val'; expected 'train' or 'test' for MNIST"):
        torchvision_dataset("MNIST", tmp_path, split="val", size=32)
    with pytest.raises(ValueError, match="got split='test'; expected None, as FakeData has no splits"):
        torchvision_dataset("FakeData", tmp_path, split="test", size=32)
    with pytest.raises(ValueError, match="got colour for MNIST; expected arguments of MNIST: root, train"):
        torchvision_dataset("MNIST", tmp_path, size=32, options={"colour": 1})
    with pytest.raises(ValueError, match="got size=0"):
        torchvision_dataset("MNIST", tmp_path, size=0)
