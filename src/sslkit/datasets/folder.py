"""A folder of JPEG and PNG files as a data set."""

import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sslkit._checks import need_positive, wrong
from sslkit.datasets._loaded import Broken, LoadedImages, gather, listed, read_square, subfolder

SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class FolderItem:
    """One file: its picture as uint8 [3, size, size], or `Broken`; its label, -1 without labels; its place in `Folder.paths`."""

    image: Tensor | Broken
    label: int
    index: int


@dataclass(frozen=True, eq=False)
class FolderBatch:
    """What could be read of a batch, and what not.

    images: [batch, 3, size, size] uint8.
    labels: [batch] int64, -1 without labels.
    indices: [batch] int64, places in `Folder.paths`.
    skipped: (path, reason) of the files left out.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Folder(Dataset[FolderItem]):
    """All JPEG and PNG files below `root`, in the order of their paths. The folder is listed once, files are read on request.

        images = Folder("pictures", 96).load()                                              small: everything in memory
        DataLoader(Folder("pictures", 96), 64, collate_fn=Folder.collate, num_workers=4)    large: FolderBatch by FolderBatch

    Args:
        root: the folder; links to folders are not followed.
        size: side of the square pictures: short side resized to it, centre cut out.
        labels: "subfolder": the name of the first folder below `root`, numbered in the order of the names, -1 for files directly
            in `root`; None: no labels.

    A file that cannot be read is named, left out and counted in `skipped`; it never ends a run.

    Raises:
        ValueError: no such folder, no picture in it, or an option out of its range.
    """

    root: str | os.PathLike[str]
    size: int
    _: KW_ONLY
    labels: Literal["subfolder"] | None = "subfolder"
    paths: tuple[str, ...] = field(init=False, repr=False, compare=False)
    classes: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        need_positive("Folder", size=self.size)
        if self.labels not in ("subfolder", None):
            raise wrong("Folder", given=f"labels={self.labels!r}", expected="'subfolder' or None", mend="pass one of these")
        paths = listed("Folder", os.fspath(self.root), SUFFIXES, "picture")
        names = sorted({name for name in (subfolder(path, self.root) for path in paths) if name}) if self.labels else []
        object.__setattr__(self, "paths", paths)
        object.__setattr__(self, "classes", tuple(names))

    def label(self, index: int) -> int:
        """The label of file `index`; -1 without one."""
        name = subfolder(self.paths[index], self.root)
        return self.classes.index(name) if name in self.classes else -1

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> FolderItem:
        return FolderItem(read_square(self.paths[index], self.size), self.label(index), index)

    def load(self) -> LoadedImages:
        """Every readable picture, in memory. Raises a ValueError if there is none."""
        items = (self[index] for index in range(len(self)))
        return gather("Folder.load", ((item.image, item.label, self.paths[item.index]) for item in items),
                      mend=f"check the files in {os.fspath(self.root)!r}", classes=self.classes)  # fmt: skip

    @staticmethod
    def collate(items: Sequence[FolderItem]) -> FolderBatch:
        """A DataLoader's `collate_fn`. A batch of broken files only is empty, [0, 3, 0, 0]."""
        images = [item.image for item in items if isinstance(item.image, Tensor)]
        good = [item for item in items if isinstance(item.image, Tensor)]
        skipped = tuple((item.image.name, item.image.reason) for item in items if isinstance(item.image, Broken))
        stacked = torch.stack(images) if images else torch.empty(0, 3, 0, 0, dtype=torch.uint8)
        labels, indices = (torch.tensor(numbers, dtype=torch.int64) for numbers in ([i.label for i in good], [i.index for i in good]))
        return FolderBatch(stacked, labels, indices, skipped)
