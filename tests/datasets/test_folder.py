import os
import pickle

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from sslkit.datasets import Broken, Folder
from sslkit.testing import proves


def picture(width=40, height=20, colours=((255, 0, 0), (0, 0, 255))):
    """Left half of one colour, right half of another."""
    image = Image.new("RGB", (width, height), colours[0])
    image.paste(colours[1], (width // 2, 0, width, height))
    return image


@pytest.fixture
def root(tmp_path):
    for name in ("cats", "dogs/old", "empty"):
        (tmp_path / name).mkdir(parents=True)
    picture().save(tmp_path / "cats" / "b.png")
    picture().save(tmp_path / "cats" / "a.JPG", format="JPEG", quality=95)
    picture(20, 40).save(tmp_path / "dogs" / "old" / "c.jpeg")
    picture().save(tmp_path / "loose.png")
    (tmp_path / "dogs" / "broken.png").write_bytes(b"not a picture")
    whole = (tmp_path / "cats" / "b.png").read_bytes()
    (tmp_path / "dogs" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "dogs" / "empty.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


@proves("datasets.Folder", "property")
def test_loads_what_can_be_read_and_names_the_rest(root):
    folder = Folder(root, 16)
    assert len(folder) == 7
    loaded = folder.load()
    assert loaded.images.shape == (4, 3, 16, 16)
    assert loaded.images.dtype == torch.uint8
    assert [os.path.relpath(path, root) for path in loaded.paths] == ["cats/a.JPG", "cats/b.png", "dogs/old/c.jpeg", "loose.png"]
    assert loaded.classes == ("cats", "dogs")
    assert loaded.labels.tolist() == [0, 0, 1, -1]
    assert [os.path.basename(name) for name, _ in loaded.skipped] == ["broken.png", "cut.png", "empty.jpg"]
    assert all(reason for _, reason in loaded.skipped)
    assert "UnidentifiedImageError" in loaded.skipped[0][1]
    image, label = loaded[1]
    assert label == 0
    assert torch.equal(image[:, 8, 2], torch.tensor([255, 0, 0], dtype=torch.uint8))  # the middle is cut out of 40 x 20
    assert torch.equal(image[:, 8, 13], torch.tensor([0, 0, 255], dtype=torch.uint8))


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on a machine with one core
def test_lazy_batches_equal_loading(root):
    folder = Folder(root, 16)
    loaded = folder.load()
    assert isinstance(folder[2].image, Broken)
    for workers in (0, 2):
        batches = list(DataLoader(folder, 3, collate_fn=Folder.collate, num_workers=workers))
        assert torch.equal(torch.cat([b.images for b in batches if len(b.images)]), loaded.images)
        assert torch.cat([b.labels for b in batches]).tolist() == loaded.labels.tolist()
        assert sum((b.skipped for b in batches), ()) == loaded.skipped
        assert torch.cat([b.indices for b in batches]).tolist() == [0, 1, 5, 6]
    assert Folder.collate([folder[2]]).images.shape[0] == 0


@proves("datasets.Folder", "pickle")
def test_pickles_and_prints_briefly(root):
    folder = Folder(root, 16)
    again = pickle.loads(pickle.dumps(folder))
    assert again == folder
    assert again.paths == folder.paths
    assert len(repr(folder)) < 300


def test_without_labels(root):
    loaded = Folder(root, 16, labels=None).load()
    assert loaded.labels.tolist() == [-1] * 4
    assert loaded.classes == ()


def test_every_kind_of_picture_comes_out_as_rgb(tmp_path):
    grey = picture(32, 32).convert("L")
    clear = picture(32, 32).convert("RGBA")
    clear.putalpha(0)
    deep = Image.new("I;16", (32, 32), 32768)
    palette = picture(32, 32).convert("P", palette=Image.Palette.ADAPTIVE)
    see_through = palette.copy()
    see_through.info["transparency"] = see_through.getpixel((0, 0))
    kinds = {
        "bits.png": (picture(32, 32).convert("1"), None),
        "clear.png": (clear, (255, 255, 255)),
        "cmyk.jpg": (picture(32, 32).convert("CMYK"), (255, 0, 0)),
        "deep.png": (deep, (127, 127, 127)),
        "grey.png": (grey, (76, 76, 76)),
        "grey_clear.png": (Image.new("LA", (32, 32), (90, 255)), (90, 90, 90)),
        "palette.png": (palette, (255, 0, 0)),
        "palette_clear.png": (see_through, (255, 255, 255)),
    }
    for name, (image, _) in kinds.items():
        image.save(tmp_path / name)
    loaded = Folder(tmp_path, 32).load()
    assert loaded.skipped == ()
    for image, (_, colour) in zip(loaded.images, kinds.values(), strict=True):
        if colour is not None:
            assert (image[:, 16, 4].int() - torch.tensor(colour)).abs().max() <= 8


def test_exif_turns_the_picture_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter clockwise
    picture(32, 32).save(tmp_path / "turned.png", exif=exif)
    image = Folder(tmp_path, 32).load().images[0]
    assert torch.equal(image[:, 4, 16], torch.tensor([255, 0, 0], dtype=torch.uint8))  # left has become top
    assert torch.equal(image[:, 28, 16], torch.tensor([0, 0, 255], dtype=torch.uint8))


@proves("datasets.Folder", "errors")
def test_wrong_input(tmp_path):
    with pytest.raises(ValueError, match=r"Folder: got root '.*', no picture in it; expected a \.jpg, \.jpeg, \.png file\. To mend"):
        Folder(tmp_path, 16)
    with pytest.raises(ValueError, match="which is no folder"):
        Folder(tmp_path / "missing", 16)
    with pytest.raises(ValueError, match="got size=0"):
        Folder(tmp_path, 0)
    with pytest.raises(ValueError, match="got labels='name'"):
        Folder(tmp_path, 16, labels="name")
    (tmp_path / "x.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"Folder\.load: got no readable picture, 1 broken, first .*x\.png"):
        Folder(tmp_path, 16).load()
