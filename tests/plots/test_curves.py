import math

import pytest
import torch
from PIL import Image

from sslkit.plots import curve_panels, curves
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


def colours(path, lefts):
    """Of the panels, given by where they begin: which of matplotlib's first colours are in them, and how many pixels."""
    cycle = {"blue": (31, 119, 180), "orange": (255, 127, 14), "green": (44, 160, 44)}
    with Image.open(path) as image:
        pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)
    above = pixels[: int(0.8 * len(pixels))]  # the legend lies below
    parts = [above[:, left:right] for left, right in zip(lefts, [*lefts[1:], above.shape[1]], strict=True)]
    return [{name for name, rgb in cycle.items() if (part == torch.tensor(rgb)).all(dim=-1).sum() > 20} for part in parts]


@proves("plots.curve_panels", "property")
def test_a_name_has_one_colour_in_all_panels(tmp_path):
    x = list(range(20))
    a, b, c = ((x, [float(k)] * 20) for k in (1, 2, 3))  # three level lines: pure colours, none hidden by another
    panels = {"left": {"a": a, "b": b}, "middle": {"c": c}, "right": {"b": b, "a": a}}
    path = curve_panels(panels, tmp_path / "x.png", title="t", x_label="step", width=900, height=400)
    assert dark(path)[0] == (900, 400)
    assert colours(path, [0, 300, 600]) == [{"blue", "orange"}, {"green"}, {"blue", "orange"}]


def test_a_level_is_a_line_of_its_panel(tmp_path):
    data = {"one": {"a": ([0, 1], [0.0, 1.0])}, "two": {"a": ([0, 1], [0.0, 1.0])}}
    grey = []
    for levels in (None, {"two": {"most": 0.5}}):
        with Image.open(curve_panels(data, tmp_path / "x.png", levels=levels, width=600, height=300)) as image:
            halves = [image.crop((left, 0, left + 300, 300)).convert("L").histogram() for left in (0, 300)]
        grey.append([histogram[140] for histogram in halves])  # 0.55
    assert grey[1][0] == grey[0][0]
    assert grey[1][1] > grey[0][1] + 50


@proves("plots.curve_panels", "errors")
def test_wrong_panels(tmp_path):
    for panels, levels, message in [
        ({}, None, r"curve_panels: got panels \[\] and levels of \[\]; expected one panel or more"),
        ({"a": {"x": ([1], [1])}}, {"b": {"y": 1.0}}, r"got panels \['a'\] and levels of \['b'\]; expected"),
        ({"a": {}}, None, "curve_panels: got no curve"),
        ({"a": {"x": ([1, 2], [1])}}, None, "curve_panels: got 'x' with 2 x and 1 y; expected equally many"),
    ]:
        with pytest.raises(ValueError, match=message):
            curve_panels(panels, tmp_path / "x.png", levels=levels)
