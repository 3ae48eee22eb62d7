"""A matplotlib figure without pyplot: nothing global is touched, and no window is ever opened."""

import os
from pathlib import Path
from typing import Any

from sslkit._checks import wrong


def new_figure(where: str, width: int, height: int) -> Any:
    """An empty white `matplotlib.figure.Figure` of width x height pixels, drawn by Agg.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise wrong(where, given="no matplotlib", expected="the package", mend='pip install "sslkit[plots]"', kind=ImportError) from error
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: str | os.PathLike[str]) -> Path:
    """Writes the figure as a PNG file of exactly its size; makes its folder; returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=figure.dpi)
    return path
