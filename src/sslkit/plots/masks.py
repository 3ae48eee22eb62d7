"""What a masker does, at a glance: some of its masks, and how often it hides each token."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslkit._checks import need_between, need_whole, wrong
from sslkit.plots._figure import new_figure, save_figure

HIDDEN, VISIBLE, LINE = (43, 63, 107), (226, 228, 232), (255, 255, 255)
_LABEL, _GAP, _HEAD, _ROW, _MARGIN = 176, 22, 46, 26, 14  # pixels: names on the left, between pictures, titles, between rows, the rim
_BAR, _CAPTION = 12, 150  # pixels: the colour bar's width, the least for a row of numbers


def mask_sheet(masks: Mapping[str, Tensor], path: str | os.PathLike[str], *, samples: int = 4, cell: int = 7, title: str = "") -> Path:
    """One row a masker: its first masks, then, over all of them, how often each token is hidden. Clips are strips of their frames.

    Args:
        masks: name -> bool [draws, h, w] or [draws, t, h, w], True = hidden; `mask.mask.view(-1, *mask.grid)` of a TokenMask. A name may
            have several lines.
        path: the PNG file to write.
        samples: masks to show of each.
        cell: side of a token in pixels, one of which is the line between tokens; from 2 on.
        title: over the sheet.

    Returns:
        The path.

    Raises:
        ValueError: no masks, fewer draws than samples, or masks that are not bool [draws, (t,) h, w] with one grid; ImportError:
            matplotlib is missing.
    """
    need_whole("mask_sheet", samples=samples)
    need_between("mask_sheet", 2, 100, cell=cell)
    grids = {tuple(flags.shape[1:]) for flags in masks.values()}
    if len(grids) != 1 or any(flags.dtype != torch.bool or flags.ndim not in (3, 4) or len(flags) < samples for flags in masks.values()):
        given = {name: f"{str(flags.dtype).removeprefix('torch.')} {list(flags.shape)}" for name, flags in masks.items()}
        raise wrong("mask_sheet", given=str(given), mend="pass mask.mask.view(-1, *mask.grid), and one sheet a grid",
                    expected=f"bool [draws, h, w] or [draws, t, h, w], {samples} draws or more, of one grid")  # fmt: skip
    rows = {name: (flags[:samples].cpu(), flags.float().mean(dim=0).cpu()) for name, flags in masks.items()}
    high, wide, _ = _strip(next(iter(rows.values()))[1], cell).shape
    width = 2 * _MARGIN + _LABEL + samples * (wide + _GAP) + max(wide, _CAPTION) + 2 * _BAR + 3 * _GAP
    height = 2 * _MARGIN + _HEAD + len(rows) * (high + _ROW)
    figure = new_figure("mask_sheet", width, height)
    text: dict[str, Any] = {"ha": "left", "va": "center"}
    lefts = [_MARGIN + _LABEL + n * (wide + _GAP) for n in range(samples)] + [_MARGIN + _LABEL + samples * (wide + _GAP) + _GAP]
    figure.text(_MARGIN / width, 1 - (_MARGIN + 8) / height, title, fontsize=11, weight="bold", **text)
    figure.text(lefts[0] / width, 1 - (_MARGIN + 30) / height, "masks, dark = hidden", fontsize=9, **text)
    figure.text(lefts[-1] / width, 1 - (_MARGIN + 30) / height, "how often hidden", fontsize=9, **text)

    def show(left: float, top: float, picture: Tensor) -> None:
        axes = figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))
        axes.imshow(picture.numpy(), interpolation="nearest")
        axes.axis("off")

    for number, (name, (some, frequency)) in enumerate(rows.items()):
        top = _MARGIN + _HEAD + number * (high + _ROW)
        figure.text(_MARGIN / width, 1 - (top + high / 2) / height, name, fontsize=9, linespacing=1.4, **text)
        for left, flags in zip(lefts, some, strict=False):
            show(left, top, _strip(flags, cell))
        show(lefts[-1], top, _strip(frequency, cell))
        found = f"{frequency.min():.2f} to {frequency.max():.2f}, mean {frequency.mean():.3f}"
        figure.text(lefts[-1] / width, 1 - (top + high + 9) / height, found, fontsize=7, color="0.35", **text)
    _colour_bar(figure, lefts[-1] + max(wide, _CAPTION) + _GAP, width, height)
    return save_figure(figure, path)


def _strip(values: Tensor, cell: int) -> Tensor:
    """[h, w] or [t, h, w], bool or frequencies -> uint8 [rows, columns, 3]: a square a token, frames from left to right."""
    frames = values[None] if values.ndim == 2 else values
    colours = _scale(frames.float()) if frames.is_floating_point() else torch.tensor([VISIBLE, HIDDEN])[frames.long()]  # [t, h, w, 3]
    colours = colours.to(torch.uint8).repeat_interleave(cell, dim=1).repeat_interleave(cell, dim=2)
    colours[:, ::cell], colours[:, :, ::cell] = (torch.tensor(LINE, dtype=torch.uint8) for _ in range(2))
    between = torch.full((colours.shape[1], cell, 3), 255, dtype=torch.uint8)
    strip = [part for frame in colours for part in (frame, between)][:-1]
    return torch.cat(strip, dim=1)


def _scale(share: Tensor) -> Tensor:
    """matplotlib's viridis at 0..1, [..., 3] in 0..255."""
    from matplotlib import colormaps

    return torch.from_numpy(colormaps["viridis"](share.numpy())[..., :3] * 255)


def _colour_bar(figure: Any, left: float, width: int, height: int) -> None:
    high = min(120, height - 2 * _MARGIN - _HEAD)
    axes = figure.add_axes((left / width, 1 - (_MARGIN + _HEAD + high) / height, _BAR / width, high / height))
    axes.imshow(_scale(torch.linspace(1, 0, high)[:, None]).to(torch.uint8).numpy(), aspect="auto", extent=(0, 1, 0, 1))
    axes.set(xticks=[], yticks=[0, 0.5, 1])
    axes.yaxis.tick_right()
    axes.tick_params(labelsize=7, length=2)
