import math

import pytest
import torch

from sslkit.plots import hog_glyphs
from sslkit.plots.hog import strokes
from sslkit.targets import hog
from sslkit.testing import proves

NAME = "plots.hog_glyphs"


@proves(NAME, "property")
def test_strokes_lie_along_the_edges():
    """A picture that changes along a direction has strokes across it, within half a bin: ramps in every direction."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    for degrees in range(0, 180, 10):
        turn = math.radians(degrees + 5)  # from the vertical; off the limits of the bins
        ramp = (math.sin(turn) * x + math.cos(turn) * y)[None, None]
        picture = hog_glyphs(hog(ramp, patch=16), (2, 2), channels=1, side=15)
        inner = picture[0, 0, 15:30, 15:30]  # a cell without border
        at = torch.arange(15.0) - 7
        inertia_x, inertia_y = (inner * at**2).sum(), (inner * at[:, None] ** 2).sum()
        product = (inner * at * at[:, None]).sum()
        along = 0.5 * math.atan2(2 * product, inertia_x - inertia_y)  # of the stroke, from the x axis
        normal = (math.pi / 2 - (along + math.pi / 2)) % math.pi  # of the stroke, from the y axis
        difference = (normal - turn + math.pi / 2) % math.pi - math.pi / 2
        assert abs(difference) <= math.pi / 18 + 0.02


@proves(NAME, "property")
def test_every_cell_stands_in_its_place():
    """Token (i, j), cell (r, s), bin k alone full: its stroke there, black elsewhere."""
    for token, cell, k in [(0, 0, 0), (3, 2, 4), (5, 3, 8)]:
        values = torch.zeros(1, 6, 2, 9, 2, 2)
        values[0, token, :, k].flatten(1)[:, cell] = 1
        picture = hog_glyphs(values.flatten(2), (2, 3), channels=2, side=5)
        row, column = 2 * (token // 3) + cell // 2, 2 * (token % 3) + cell % 2
        expected = torch.zeros(1, 1, 20, 30)
        expected[..., 5 * row : 5 * row + 5, 5 * column : 5 * column + 5] = strokes(9, 5)[k]
        assert torch.equal(picture, expected)
    assert hog_glyphs(torch.full((1, 1, 9), -1.0), (1, 1), channels=1).eq(0).all()
    assert hog_glyphs(torch.full((1, 1, 9), 9.0), (1, 1), channels=1).max() == 1


@proves(NAME, "errors")
def test_wrong_input():
    values = torch.zeros(2, 4, 108)
    for arguments, options, message in [
        ((values, (2, 3)), {}, r"hog_glyphs: got values \[2, 4, 108\] for grid \(2, 3\), bins=9, channels=3; expected \[batch, 6, 27 \* n"),
        ((values, (2, 2)), {"bins": 8}, "bins=8"),
        ((values, (2, 2)), {"side": 0}, "got side=0; expected a whole side from 1 on"),
        ((values[0], (2, 2)), {}, "3 axes|2 axes"),
    ]:
        with pytest.raises(ValueError, match=message):
            hog_glyphs(*arguments, **options)
