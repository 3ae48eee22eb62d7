import pytest
import torch

from sslkit.plots import reconstruction_sheet
from sslkit.testing import proves

NAME = "plots.reconstruction_sheet"


def cells(sheet, rows, columns, side):
    """The pictures of a sheet with titles, [rows, columns, 3, side, side]."""
    return torch.stack(
        [
            torch.stack([sheet[:, 15 + r * (side + 15) :, 2 + c * (side + 2) :][:, :side, :side] for c in range(columns)])
            for r in range(rows)
        ]
    )


@proves(NAME, "property")
@pytest.mark.parametrize("overlay", [False, True])
def test_hidden_tokens_are_grey_on_the_left_and_painted_in_the_middle(overlay, generator):
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=generator)
    painted = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=generator)
    mask = torch.tensor([[True, False, True, True], [False] * 4, [True] * 4])
    hidden = mask.view(3, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3).expand(3, 3, 8, 8)
    sheet = reconstruction_sheet(images, painted, mask, 4, overlay=overlay, triplets=1, side=8)
    found = cells(sheet, 3, 3, 8)
    assert torch.equal(found[:, 0], torch.where(hidden, 127, images))
    assert torch.equal(found[:, 1], torch.where(hidden, painted, images) if overlay else painted)
    assert torch.equal(found[:, 2], images)
    twice = reconstruction_sheet(images / 255, painted / 255, mask, 4, overlay=overlay, triplets=1, side=15)
    assert torch.equal(cells(twice, 3, 3, 16)[..., ::2, ::2], found)


@proves(NAME, "errors")
def test_errors():
    images, mask = torch.zeros(2, 1, 8, 8), torch.zeros(2, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"reconstruction_sheet: got mask \[2, 9\] of dtype torch.bool; expected bool \[batch, 4\]"):
        reconstruction_sheet(images, images, torch.zeros(2, 9, dtype=torch.bool), 4)
    with pytest.raises(ValueError, match="To mend: pass mask.mask of the TokenMask"):
        reconstruction_sheet(images, images, mask.float(), 4)
    with pytest.raises(ValueError, match="painted"):
        reconstruction_sheet(images, images[:1], mask, 4)
    with pytest.raises(ValueError, match="multiple of 3"):
        reconstruction_sheet(images, images, mask, 3)
