"""The picture that tells what training did: who is near whom, before and after."""

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from sslkit._checks import bind_axes, wrong
from sslkit.plots._figure import new_figure, save_figure
from sslkit.plots.sheet import GREEN, RED, as_bytes


def neighbour_picture(
    query_images: Tensor,
    database_images: Tensor,
    before: Tensor,
    after: Tensor,
    path: str | os.PathLike[str],
    *,
    query_labels: Tensor | None = None,
    database_labels: Tensor | None = None,
    titles: tuple[str, str, str] = ("query", "nearest before", "nearest after"),
    width: int = 900,
    height: int = 580,
) -> Path:
    """Queries on the left, beside each its nearest pictures before and after; green frame = same class, red = another.

    Under the halves stands how many of all neighbours share their query's class, as "4/30" and "4/30 -> 17/30".

    Args:
        query_images: [queries, channels, query_height, query_width]; uint8 or floating in [0, 1], 1 or 3 channels.
        database_images: [database, channels, height, width], the same.
        before: [queries, neighbours] int64 rows of the database, the nearest first.
        after: [queries, neighbours], the same.
        path: the PNG file to write.
        query_labels: [queries] integers; None: no frames and no counts.
        database_labels: [database] integers, with `query_labels`.
        titles: over the queries and the two halves.
        width: of the file, in pixels.
        height: of the file, in pixels.

    Returns:
        The path.

    Raises:
        ValueError: the axes disagree; ImportError: matplotlib is missing.
    """
    if (query_labels is None) != (database_labels is None):
        raise wrong("neighbour_picture", given="labels of one side only", expected="query_labels and database_labels, or neither",
                    mend="pass both")  # fmt: skip
    labels = {} if query_labels is None or database_labels is None else {
        "query_labels": (query_labels, "queries"), "database_labels": (database_labels, "database")}  # fmt: skip
    sizes = bind_axes("neighbour_picture", query_images=(query_images, "queries channels query_height query_width"),
                      database_images=(database_images, "database channels height width"),
                      before=(before, "queries neighbours"), after=(after, "queries neighbours"), **labels)  # fmt: skip
    queries, neighbours = sizes["queries"], sizes["neighbours"]
    asked, stored = as_bytes(query_images), as_bytes(database_images)
    same: list[Tensor] = []
    if query_labels is not None and database_labels is not None:
        same = [(database_labels[rows] == query_labels[:, None]).cpu() for rows in (before, after)]
    found = [f"{int(each.sum())}/{each.numel()}" for each in same]

    figure = new_figure("neighbour_picture", width, height)
    head, foot, gap = 36 / height, 40 / height, 0.4  # the gap between queries and halves, in cells
    across, down = 1 / (1 + 2 * neighbours + 2 * gap + 0.2), (1 - head - foot) / queries
    starts = (0.1 * across, (1.1 + gap) * across, (1.1 + 2 * gap + neighbours) * across)

    def show(left: float, row: int, picture: Tensor, colour: tuple[int, int, int] | None) -> None:
        axes = figure.add_axes((left + 0.05 * across, 1 - head - (row + 0.95) * down, 0.9 * across, 0.9 * down))
        axes.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(visible=colour is not None, color=[part / 255 for part in colour or GREEN], linewidth=3)

    for row in range(queries):
        show(starts[0], row, asked[row], None)
        for half, ids in enumerate((before, after)):
            for rank in range(neighbours):
                colour = (GREEN if bool(same[half][row, rank]) else RED) if same else None
                show(starts[1 + half] + rank * across, row, stored[int(ids[row, rank])], colour)

    text: dict[str, Any] = {"ha": "center", "va": "center"}
    middles = [starts[0] + across / 2, *(start + neighbours * across / 2 for start in starts[1:])]
    for title, middle in zip(titles, middles, strict=True):
        figure.text(middle, 1 - head / 2, title, fontsize=12, **text)
    for middle, count in zip(middles[1:], (found[0], f"{found[0]} → {found[1]}") if found else (), strict=bool(found)):
        figure.text(middle, foot / 2, f"same class: {count}", fontsize=13, **text)
    return save_figure(figure, path)
