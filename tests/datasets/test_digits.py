import sys

import pytest
import torch

from sslkit.datasets import digits
from sslkit.testing import proves


@proves("datasets.digits", "property")
def test_splits_are_the_whole_set_once():
    load = pytest.importorskip("sklearn.datasets").load_digits
    train, test = digits("train", 8), digits("test", 8)
    assert train.images.shape == (1297, 1, 8, 8)
    assert test.images.shape == (500, 1, 8, 8)
    both = torch.cat([torch.cat([part.images.flatten(1) * 16, part.labels[:, None]], dim=1) for part in (train, test)])
    whole = torch.cat([torch.as_tensor(load().data).float(), torch.as_tensor(load().target)[:, None]], dim=1)
    assert sorted(both.tolist()) == sorted(whole.tolist())
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    assert torch.equal(both, whole[order])


def test_sizes_and_channels():
    pytest.importorskip("sklearn")
    grey, colour = digits("test", 16), digits("test", 32, 3)
    assert grey.images.shape == (500, 1, 16, 16)
    assert colour.images.shape == (500, 3, 32, 32)
    assert torch.equal(colour.images[:, 0], colour.images[:, 2])
    assert colour.images.min() >= 0
    assert colour.images.max() <= 1
    assert torch.equal(grey.labels, colour.labels)
    assert grey.classes == tuple("0123456789")


def test_raw_pixels_nearly_solve_it():
    pytest.importorskip("sklearn")
    train, test = digits("train"), digits("test")
    nearest = torch.cdist(test.images.flatten(1), train.images.flatten(1)).argmin(dim=1)
    assert (train.labels[nearest] == test.labels).float().mean() > 0.97


@proves("datasets.digits", "errors")
def test_wrong_input(monkeypatch):
    with pytest.raises(ValueError, match=r"digits: got split='val'; expected 'train' or 'test'"):
        digits("val")
    with pytest.raises(ValueError, match="got channels=2; expected 1 or 3"):
        digits(channels=2)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'To mend: pip install "sslkit\[examples\]"'):
        digits()
