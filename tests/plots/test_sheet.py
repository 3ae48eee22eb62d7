import pytest
import torch
from PIL import Image

from sslkit.plots import GREEN, RED, contact_sheet, save_picture
from sslkit.testing import proves


def pixels(path):
    with Image.open(path) as image:
        size = image.size
        return torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8).view(size[1], size[0], 3).permute(2, 0, 1)


@proves("plots.contact_sheet", "property")
def test_pictures_stand_in_rows(generator):
    images = torch.randint(0, 256, (5, 3, 6, 8), dtype=torch.uint8, generator=generator)
    sheet = contact_sheet(images, columns=3, margin=1)
    assert sheet.dtype == torch.uint8
    assert sheet.shape == (3, 2 * 7 + 1, 3 * 9 + 1)
    for i in range(5):
        top, left = 1 + i // 3 * 7, 1 + i % 3 * 9
        assert torch.equal(sheet[:, top : top + 6, left : left + 8], images[i])
    assert torch.all(sheet[:, 8:, 20:] == 255)  # the empty place
    assert torch.equal(contact_sheet(images / 255, columns=3, margin=1), sheet)


def test_frames_go_around_the_picture():
    images = torch.zeros(3, 1, 6, 6)
    sheet = contact_sheet(images, columns=3, frames=[GREEN, RED, None], margin=2)
    assert sheet.shape == (3, 16, 3 * 14 + 2)
    assert tuple(sheet[:, 3, 3].tolist()) == GREEN
    assert tuple(sheet[:, 3, 17].tolist()) == RED
    assert tuple(sheet[:, 3, 31].tolist()) == (255, 255, 255)
    assert torch.all(sheet[:, 5:11, 5:11] == 0)


def test_titles_are_written_above():
    sheet = contact_sheet(torch.zeros(2, 3, 10, 60), columns=2, titles=["disc", "a very long title that does not fit in its cell"])
    assert sheet.shape == (3, 27, 126)
    assert (sheet[:, 2:15, 2:62] < 128).any()
    assert torch.all(sheet[:, 2:15, 62:64] == 255)


def test_odd_values_have_a_defined_colour():
    sheet = contact_sheet(torch.tensor([float("nan"), -1, 2, 0.5]).view(1, 1, 1, 4), columns=1, margin=0)
    assert sheet[0, 0].tolist() == [0, 0, 255, 128]


def test_saving_and_reading_back(tmp_path, generator):
    picture = torch.randint(0, 256, (3, 7, 9), dtype=torch.uint8, generator=generator)
    path = save_picture(picture, tmp_path / "new" / "x.png")
    assert path == tmp_path / "new" / "x.png"
    assert torch.equal(pixels(path), picture)
    assert torch.equal(pixels(save_picture(torch.full((1, 4, 4), 0.5), path)), torch.full((3, 4, 4), 128, dtype=torch.uint8))


@proves("plots.contact_sheet", "errors")
def test_wrong_input():
    images = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"contact_sheet: got 1 titles; expected 2, one a picture"):
        contact_sheet(images, titles=["x"])
    with pytest.raises(ValueError, match="got no picture; expected at least one"):
        contact_sheet(images[:0])
    with pytest.raises(ValueError, match="channels 1 or 3"):
        contact_sheet(torch.zeros(2, 2, 4, 4))
    with pytest.raises(TypeError, match=r"got images of dtype torch\.int64"):
        contact_sheet(images.long())
    with pytest.raises(ValueError, match="got columns=0"):
        contact_sheet(images, columns=0)
