"""Curves: how something goes with something."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from sslkit._checks import need_positive, wrong
from sslkit.plots._figure import new_figure, save_figure

Numbers = Sequence[float] | Tensor


def curves(
    data: Mapping[str, tuple[Numbers, Numbers]],
    path: str | os.PathLike[str],
    *,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    y_range: tuple[float, float] | None = None,
    log_y: bool = False,
    width: int = 800,
    height: int = 500,
) -> Path:
    """Draws one line per entry of {name: (x, y)} and writes a PNG file.

    Args:
        data: names and equally long number rows; NaN leaves a gap.
        path: the file.
        title: over the picture.
        x_label: under the axis.
        y_label: beside the axis.
        y_range: lowest and highest y; None: what the numbers need.
        log_y: logarithmic y axis.
        width: of the file, in pixels.
        height: of the file, in pixels.

    Returns:
        The path.

    Raises:
        ValueError: no curve, or an x and a y of different length; ImportError: matplotlib is missing.
    """
    rows = _rows("curves", data)
    need_positive("curves", width=width, height=height)
    figure = new_figure("curves", width, height)
    axes = figure.add_subplot()
    for name, (x, y) in rows.items():
        axes.plot(x, y, label=name, marker="o" if len(x) == 1 else None)  # a single point has no line to see
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    if log_y:
        axes.set_yscale("log")
    if y_range is not None:
        axes.set_ylim(*y_range)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.set_layout_engine("tight")
    return save_figure(figure, path)


def curve_panels(
    panels: Mapping[str, Mapping[str, tuple[Numbers, Numbers]]],
    path: str | os.PathLike[str],
    *,
    title: str = "",
    x_label: str = "",
    levels: Mapping[str, Mapping[str, float]] | None = None,
    width: int = 1100,
    height: int = 430,
) -> Path:
    """Draws panels beside each other, {title: {name: (x, y)}}, and writes a PNG file. A name has one colour in all, told once, below.

    Args:
        panels: the curves of each; NaN leaves a gap.
        path: the file.
        title: over the picture.
        x_label: under every axis.
        levels: {title of a panel: {name: y}}, dashed lines across it with their names beside them.
        width: of the file, in pixels.
        height: of the file, in pixels.

    Returns:
        The path.

    Raises:
        ValueError: no panel or an empty one, an x and a y of different length, or levels of an unknown panel; ImportError: matplotlib is
            missing.
    """
    levels = levels or {}
    if not panels or set(levels) - set(panels):
        raise wrong("curve_panels", given=f"panels {list(panels)} and levels of {list(levels)}",
                    expected="one panel or more, levels of these alone", mend="give both the titles of the panels")  # fmt: skip
    rows = {panel: _rows("curve_panels", data) for panel, data in panels.items()}
    need_positive("curve_panels", width=width, height=height)
    figure = new_figure("curve_panels", width, height)
    names = list(dict.fromkeys(name for data in rows.values() for name in data))
    lines = {}
    for axes, (panel, data) in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows.items(), strict=True):
        for name, level in levels.get(panel, {}).items():
            axes.axhline(level, color="0.55", linewidth=1, linestyle="--")
            axes.annotate(name, (1, level), xycoords=("axes fraction", "data"), xytext=(-2, 3), textcoords="offset points", ha="right",
                          color="0.4", fontsize=9)  # fmt: skip
        for name, (x, y) in data.items():
            (lines[name],) = axes.plot(x, y, color=f"C{names.index(name)}", linewidth=1.8, marker="o" if len(x) == 1 else None)
        axes.set_title(panel, loc="left", fontsize=11)
        axes.set_xlabel(x_label)
        axes.grid(alpha=0.25)
        axes.margins(x=0.01, y=0.07)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=12)
    figure.legend([lines[name] for name in names], names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.set_layout_engine("constrained")
    return save_figure(figure, path)


def _rows(where: str, data: Mapping[str, tuple[Numbers, Numbers]]) -> dict[str, tuple[list[float], list[float]]]:
    if not data:
        raise wrong(where, given="no curve", expected="{name: (x, y)}", mend="pass at least one")
    rows = {name: (_floats(x), _floats(y)) for name, (x, y) in data.items()}
    for name, (x, y) in rows.items():
        if len(x) != len(y):
            raise wrong(where, given=f"{name!r} with {len(x)} x and {len(y)} y", expected="equally many", mend="pass one y per x")
    return rows


def _floats(numbers: Numbers) -> list[float]:
    return [float(number) for number in (numbers.detach().cpu().flatten() if isinstance(numbers, Tensor) else numbers)]
