import pytest
import torch
from PIL import Image

from sslkit.plots import mask_sheet
from sslkit.plots.masks import HIDDEN, VISIBLE, _strip
from sslkit.testing import proves

pytest.importorskip("matplotlib")


def counted(path, colour):
    with Image.open(path) as image:
        colours = image.convert("RGB").getcolors(image.width * image.height)
        return image.size, {found: n for n, found in colours}.get(colour, 0)


@proves("plots.mask_sheet", "property")
@pytest.mark.parametrize("grid", [(3, 5), (2, 3, 4)])
def test_every_hidden_token_is_a_dark_square(tmp_path, generator, grid):
    flags = torch.rand(50, *grid, generator=generator) < 0.4
    size, dark = counted(mask_sheet({"a": flags, "b\nc": ~flags}, tmp_path / "x.png", samples=2, cell=6, title="t"), HIDDEN)
    _, light = counted(tmp_path / "x.png", VISIBLE)
    assert dark == light == flags[:2].numel() * 25  # of 6 x 6 pixels, one line and one column are the grid's
    wider, _ = counted(mask_sheet({"a": flags}, tmp_path / "y.png", samples=4, cell=6), HIDDEN)
    assert wider[0] > size[0]
    assert wider[1] < size[1]


def test_a_strip_has_its_frames_from_left_to_right():
    flags = torch.zeros(2, 2, 3, dtype=torch.bool)
    flags[1, 0, 2] = True
    strip = _strip(flags, 4)
    assert strip.shape == (8, 12 + 4 + 12, 3)
    found = (strip == torch.tensor(HIDDEN)).all(dim=2).nonzero()
    assert found.min(dim=0).values.tolist() == [1, 12 + 4 + 9]
    assert found.max(dim=0).values.tolist() == [3, 12 + 4 + 11]


def test_frequencies_go_from_dark_to_bright():
    strip = _strip(torch.tensor([[0.0, 0.5, 1.0]]), 4)[2, 2::4].int().sum(dim=1)
    assert strip[0] < strip[1] < strip[2]


@proves("plots.mask_sheet", "errors")
@pytest.mark.parametrize(
    "masks",
    [
        {},
        {"a": torch.zeros(4, 2, 2)},
        {"a": torch.zeros(4, 2, dtype=torch.bool)},
        {"a": torch.zeros(3, 2, 2, dtype=torch.bool)},
        {"a": torch.zeros(4, 2, 2, dtype=torch.bool), "b": torch.zeros(4, 2, 3, dtype=torch.bool)},
    ],
)
def test_wrong_masks(tmp_path, masks):
    with pytest.raises(ValueError, match=r"mask_sheet: got \{.*\}; expected bool \[draws, h, w\] or \[draws, t, h, w\], 4 draws or more"):
        mask_sheet(masks, tmp_path / "x.png")


@proves("plots.mask_sheet", "errors")
def test_wrong_options(tmp_path):
    for options, message in [({"samples": 0}, "got samples=0"), ({"cell": 1}, r"got cell=1; expected cell in \[2, 100\]")]:
        with pytest.raises(ValueError, match="mask_sheet: " + message):
            mask_sheet({"a": torch.zeros(4, 2, 2, dtype=torch.bool)}, tmp_path / "x.png", **options)
