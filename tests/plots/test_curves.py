import math

import pytest
import torch
from PIL import Image

from sslkit.plots import curves
from sslkit.testing import proves

pytest.importorskip("matplotlib")


def dark(path):
    with Image.open(path) as image:
        return image.size, sum(image.convert("L").histogram()[:200])


@proves("plots.curves", "property")
def test_draws_every_line(tmp_path):
    x = list(range(20))
    one = curves({"loss": (x, [1 / (1 + i) for i in x])}, tmp_path / "one.png", title="t", x_label="step", y_label="loss")
    two = curves({"loss": (x, [1 / (1 + i) for i in x]), "other": (torch.arange(20), torch.linspace(0, 1, 20))}, tmp_path / "a" / "two.png")
    assert dark(one)[0] == dark(two)[0] == (800, 500)
    assert dark(one)[1] > 1000
    assert dark(two)[1] > 1000


def test_gaps_logarithm_range_and_single_points(tmp_path):
    data = {"gap": ([0, 1, 2], [1.0, math.nan, 100.0]), "point": ([1], [10.0])}
    path = curves(data, tmp_path / "x.png", log_y=True, y_range=(0.5, 200), width=400, height=300)
    assert dark(path)[0] == (400, 300)


@proves("plots.curves", "errors")
def test_wrong_input(tmp_path):
    with pytest.raises(ValueError, match="curves: got no curve"):
        curves({}, tmp_path / "x.png")
    with pytest.raises(ValueError, match="got 'a' with 2 x and 1 y; expected equally many"):
        curves({"a": ([1, 2], [1])}, tmp_path / "x.png")
