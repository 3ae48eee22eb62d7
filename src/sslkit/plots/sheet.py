"""Many pictures on one sheet."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sslkit._checks import bind_axes, need_positive, wrong

GREEN, RED = (40, 170, 60), (215, 45, 40)
Colour = tuple[int, int, int]
_TITLE = 13  # pixels for a line of text


def contact_sheet(
    images: Tensor,
    *,
    columns: int | None = None,
    titles: Sequence[str] | None = None,
    frames: Sequence[Colour | None] | None = None,
    margin: int = 2,
    background: Colour = (255, 255, 255),
) -> Tensor:
    """Lays pictures out in rows, from left to right.

    Args:
        images: [count, channels, height, width], channels 1 or 3; uint8, or floating in [0, 1] (cut off there; NaN shows black).
        columns: pictures a row; None: about as many columns as rows.
        titles: one text a picture, set above it; what is too long for its cell is cut off.
        frames: one colour (red, green, blue; 0..255) a picture, or None for no frame; 3 pixels wide, around the picture, not over
            it.
        margin: pixels between pictures.
        background: colour of the sheet.

    Returns:
        uint8 [3, sheet height, sheet width].

    Raises:
        ValueError: no picture, an unknown number of channels, or not one title or frame a picture.
    """
    count, _, height, width = bind_axes("contact_sheet", images=(images, "count channels height width")).values()
    for name, each in (("titles", titles), ("frames", frames)):
        if each is not None and len(each) != count:
            raise wrong(
                "contact_sheet",
                given=f"{len(each)} {name}",
                expected=f"{count}, one a picture",
                mend=f"pass {name} of that length",
            )
    if count == 0:
        raise wrong("contact_sheet", given="no picture", expected="at least one", mend="pass images [count, channels, height, width]")
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    need_positive("contact_sheet", columns=columns)
    pictures = as_bytes(images)
    border = 3 if frames is not None else 0
    head = _TITLE if titles is not None else 0
    cell_height, cell_width = height + 2 * border + head + margin, width + 2 * border + margin
    sheet = torch.tensor(background, dtype=torch.uint8)[:, None, None].repeat(
        1, math.ceil(count / columns) * cell_height + margin, min(columns, count) * cell_width + margin
    )
    for number, picture in enumerate(pictures):
        top, left = margin + number // columns * cell_height + head, margin + number % columns * cell_width
        frame = frames[number] if frames is not None else None
        if frame is not None:
            colour = torch.tensor(frame, dtype=torch.uint8)[:, None, None]
            sheet[:, top : top + height + 2 * border, left : left + width + 2 * border] = colour
        sheet[:, top + border : top + border + height, left + border : left + border + width] = picture
        if titles is not None:
            sheet[:, top - head : top, left : left + cell_width - margin] = _text(titles[number], cell_width - margin, background)
    return sheet


def as_bytes(images: Tensor) -> Tensor:
    """[..., channels, height, width], 1 or 3 channels, uint8 or floating in [0, 1] -> uint8 [..., 3, height, width] on the
    CPU."""
    if images.ndim < 3 or images.shape[-3] not in (1, 3):
        raise wrong("pictures", given=f"images {list(images.shape)}", expected="[..., channels, height, width], channels 1 or 3",
                    mend="choose one or three channels, and put them before height and width")  # fmt: skip
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise wrong("pictures", given=f"images of dtype {images.dtype}", expected="uint8 in 0..255, or floating in [0, 1]",
                    mend="pass images.to(torch.uint8)", kind=TypeError)  # fmt: skip
    images = images.detach().cpu()
    if images.is_floating_point():
        images = (images.float().nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    return images.expand(*images.shape[:-3], 3, *images.shape[-2:])


def save_picture(picture: Tensor, path: str | os.PathLike[str]) -> Path:
    """Writes one picture [channels, height, width], as `contact_sheet` takes them, to a PNG file; makes its folder; returns the
    path."""
    from PIL import Image

    bind_axes("save_picture", picture=(picture, "channels height width"))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    values = as_bytes(picture).permute(1, 2, 0).contiguous()
    Image.frombytes("RGB", (values.shape[1], values.shape[0]), bytes(values.flatten().tolist())).save(path, format="PNG")
    return path


def _text(text: str, width: int, background: Colour) -> Tensor:
    """One line, black on `background`, uint8 [3, 13, width]."""
    from PIL import Image, ImageDraw, ImageFont

    line = Image.new("RGB", (width, _TITLE), background)
    ImageDraw.Draw(line).text((1, 0), text, fill="black", font=ImageFont.load_default())
    return torch.frombuffer(bytearray(line.tobytes()), dtype=torch.uint8).view(_TITLE, width, 3).permute(2, 0, 1)
