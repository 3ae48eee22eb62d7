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
    if not data:
        raise wrong("curves", given="no curve", expected="{name: (x, y)}", mend="pass at least one")
    need_positive("curves", width=width, height=height)
    rows = {name: (_floats(x), _floats(y)) for name, (x, y) in data.items()}
    for name, (x, y) in rows.items():
        if len(x) != len(y):
            raise wrong("curves", given=f"{name!r} with {len(x)} x and {len(y)} y", expected="equally many", mend="pass one y per x")
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


def _floats(numbers: Numbers) -> list[float]:
    return [float(number) for number in (numbers.detach().cpu().flatten() if isinstance(numbers, Tensor) else numbers)]
