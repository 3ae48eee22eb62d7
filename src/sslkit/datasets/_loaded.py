"""Pictures in memory, and the way from a picture file to a square tensor."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sslkit._checks import wrong


@dataclass(frozen=True, eq=False)
class LoadedImages(Dataset[tuple[Tensor, int]]):
    """A small data set held in memory; indexing gives (image, label).

    images: [n, channels, size, size]; uint8, or, from `digits`, float32 in [0, 1].
    labels: [n] int64; -1 where there is none.
    classes: the labels' names; empty if unknown.
    paths: where the pictures came from; empty if not from files.
    skipped: (name, reason) of what could not be read.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


@dataclass(frozen=True)
class Broken:
    """In place of a picture that could not be read."""

    name: str
    reason: str


def square(picture: Any, size: int) -> Tensor:
    """A PIL picture of any mode -> uint8 [3, size, size]: upright by its EXIF tag, short side resized to `size` (bicubic), centre
    cut out.

    Grey is repeated, palettes are looked up, 16-bit grey is scaled to 8, CMYK converted, and what is transparent shows white.
    """
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        # PIL's own conversion would cut 16-bit values off at 255.
        picture = picture.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = ImageOps.fit(picture.convert("RGB"), (size, size), method=Image.Resampling.BICUBIC)
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(size, size, 3).permute(2, 0, 1).contiguous()


def read_square(path: str, size: int) -> Tensor | Broken:
    """The file as uint8 [3, size, size], or why not."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return square(picture, size)
    # decoders answer damaged bytes with nearly any exception: OSError, SyntaxError, ValueError, struct.error, EOFError, ...
    except Exception as error:
        return Broken(path, f"{type(error).__name__}: {error}")


def listed(where: str, root: str, suffixes: tuple[str, ...], what: str) -> tuple[str, ...]:
    """The files below a folder that end in one of the suffixes, in the order of their paths; links to folders are not followed."""
    if not os.path.isdir(root):
        raise wrong(where, given=f"root {root!r}, which is no folder", expected=f"a folder of {what}s", mend="check the path")
    found = [os.path.join(at, name) for at, _, names in os.walk(root) for name in names if name.lower().endswith(suffixes)]
    if not found:
        raise wrong(where, given=f"root {root!r}, no {what} in it", expected=f"a {', '.join(suffixes)} file",
                    mend=f"check the path, or convert the {what}s")  # fmt: skip
    # by parts, not by characters: "a/z.png" comes before "a-b/a.png" on every system.
    return tuple(sorted(found, key=lambda path: os.path.relpath(path, root).split(os.sep)))


def subfolder(path: str, root: str | os.PathLike[str]) -> str:
    """First folder of a path below the root, or an empty string."""
    parts = os.path.relpath(path, root).split(os.sep)
    return parts[0] if len(parts) > 1 else ""


def gather(where: str, parts: Iterable[tuple[Tensor | Broken, int, str]], *, mend: str, classes: tuple[str, ...] = ()) -> LoadedImages:
    """Stacks (image or Broken, label, path) into `LoadedImages`. Raises a ValueError if nothing could be read."""
    images, labels, paths, skipped = [], [], [], []
    for image, label, path in parts:
        if isinstance(image, Broken):
            skipped.append((image.name, image.reason))
        else:
            images.append(image)
            labels.append(label)
            paths.append(path)
    if not images:
        first = f", first {skipped[0][0]} ({skipped[0][1]})" if skipped else ""
        raise wrong(where, given=f"no readable picture, {len(skipped)} broken{first}", expected="at least one", mend=mend)
    return LoadedImages(torch.stack(images), torch.tensor(labels), classes, tuple(paths) if any(paths) else (), tuple(skipped))
