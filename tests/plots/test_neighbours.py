import sys

import pytest
import torch
from PIL import Image

from sslkit.plots import GREEN, RED, neighbour_picture
from sslkit.testing import proves

pytest.importorskip("matplotlib")


def data(generator):
    labels = torch.arange(20) % 4
    before = torch.randint(0, 20, (6, 5), generator=generator)
    after = torch.arange(6)[:, None] % 4 + 4 * torch.arange(5)  # all of the query's class
    return (
        torch.rand(6, 3, 16, 16, generator=generator),
        torch.rand(20, 3, 16, 16, generator=generator),
        before,
        after,
        torch.arange(6) % 4,
        labels,
    )


def picture(tensors, path, **options):
    *images, query_labels, database_labels = tensors
    return neighbour_picture(*images, path, query_labels=query_labels, database_labels=database_labels, **options)


def coloured(image, colour):
    values = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8).view(image.size[1], image.size[0], 3)
    return (values.int() - torch.tensor(colour)).abs().amax(dim=-1) < 3


@proves("plots.neighbour_picture", "property")
def test_frames_tell_the_class(tmp_path, generator):
    path = picture(data(generator), tmp_path / "x.png", width=800, height=520)
    with Image.open(path) as image:
        assert image.size == (800, 520)
        green, red = coloured(image, GREEN), coloured(image, RED)
    half = 800 * 6 // 11  # between the two halves
    assert not red[:, half + 20 :].any()
    assert red[:, :half].any()
    assert green[:, half + 20 :].sum() > 2000
    assert not green[:, :50].any()  # the queries have no frame


def test_default_size_and_no_global_state(tmp_path, generator):
    path = picture(data(generator), tmp_path / "deep" / "x.png")
    with Image.open(path) as image:
        assert image.size == (900, 580)
    assert "matplotlib.pyplot" not in sys.modules


def test_without_labels_nothing_is_framed(tmp_path, generator):
    with Image.open(picture((*data(generator)[:4], None, None), tmp_path / "x.png")) as image:
        assert not (coloured(image, GREEN) | coloured(image, RED)).any()


@proves("plots.neighbour_picture", "errors")
def test_wrong_input(tmp_path, generator, monkeypatch):
    images, stored, before, after, labels, classes = data(generator)
    with pytest.raises(ValueError, match=r"neighbour_picture: got after \[5, 5\] with queries=5; expected queries=6"):
        picture((images, stored, before, after[:5], labels, classes), tmp_path / "x.png")
    with pytest.raises(ValueError, match="got labels of one side only"):
        picture((images, stored, before, after, labels, None), tmp_path / "x.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'To mend: pip install "sslkit\[plots\]"'):
        picture((images, stored, before, after, labels, classes), tmp_path / "x.png")
