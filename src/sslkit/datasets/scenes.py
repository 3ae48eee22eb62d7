"""`Scenes`: generated pictures of one object on one background, with everything a photograph does not tell.

The class is the object's shape. Colour, texture, pose, place and background are drawn apart from it, so any accuracy above chance
is knowledge of shape; background, hue, quarter turn and the exact mask are there as ground truth.
"""

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sslkit._checks import need_between, wrong
from sslkit.datasets._parameters import PRESETS, Parameters, Pose, draw
from sslkit.datasets._render import render
from sslkit.datasets._shapes import CLASSES

SMALLEST = 24  # below this an outline is not recognisable


@dataclass(frozen=True, eq=False)
class SceneBatch:
    """Pictures and what is known about them; all but `scale`, `angle` and `centre` describes the picture after its quarter turn.

    images: [batch, 3, size, size] float32 in [0, 1].
    labels: [batch] int64, the class: the shape.
    masks: [batch, size, size] float32 in [0, 1], the share of each pixel that the object covers.
    family: [batch] int64, the kind of background, see `FAMILIES`.
    hue: [batch] float32 in [0, 1), the object's.
    hue_bin: [batch] int64, floor(8 hue).
    quarter: [batch] int64 in 0..3: the finished picture was turned by quarter * 90 degrees counter-clockwise.
    scale: [batch] float32, the object's half extent in half sides.
    angle: [batch] float32, the object's turn, rad, counter-clockwise.
    centre: [batch, 2] float32, (x, y) of the object in half sides from the middle, y down.
    indices: [batch] int64, as asked for.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor
    family: Tensor
    hue: Tensor
    hue_bin: Tensor
    quarter: Tensor
    scale: Tensor
    angle: Tensor
    centre: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def boxes(self) -> Tensor:
        """[batch, 4] int64: left, top, right, bottom of the pixels covered by half or more; right and bottom lie outside."""
        inside = self.masks >= 0.5
        columns, rows = inside.any(dim=1).int(), inside.any(dim=2).int()  # argmax finds the first of equals
        size = self.masks.shape[-1]
        left, top = columns.argmax(dim=1), rows.argmax(dim=1)
        right, bottom = size - columns.flip(1).argmax(dim=1), size - rows.flip(1).argmax(dim=1)
        return torch.stack([left, top, right, bottom], dim=1)


@dataclass(frozen=True)
class Split:
    """A stretch of an endless row of pictures: its stream, start and usual length, and the `limit` that keeps splits apart."""

    stream: int
    start: int
    count: int
    limit: int


@dataclass(frozen=True)
class Scenes(Dataset[tuple[Tensor, int]]):
    """Pictures drawn on request: picture i is a function of (seed, split, i, the options below) and of nothing else.

        batch = Scenes("train", 64).batch(range(256))         everything known
        image, label = Scenes("test", 64)[7]                  what a DataLoader asks for

    Args:
        split: "train" (8000 pictures), "probe" (2000 more of the same kind, for labelled use) or "test" (4000, on backgrounds
            drawn anew).
        size: side in pixels, at least 24. The same scene is drawn at every size.
        seed: another seed, other pictures and other backgrounds.
        count: number of pictures; None: the split's own.
        preset: the object's half extent as a share of the side: "default" .18 to .36, "easy" .24 to .42, "tiny" .14 to .28.
        pose: "upright" turns objects by up to .35 rad, "free" by any angle, "quarters" turns the upright picture as a whole.
        background_correlation: probability that the background's family is class mod 8, a shortcut; otherwise it is drawn freely.
        swapped: the same objects, pixel for pixel where the mask is 1, on backgrounds of another family.
        classes: the first so many of `CLASSES`, 2 to 12.

    Raises:
        ValueError: an option is out of its range; IndexError: an index is not in 0..len-1.

    The object lies wholly inside the picture. Where the luminances of object and background are too close, the background gives
    way.
    """

    splits: ClassVar[dict[str, Split]] = {
        "train": Split(stream=0, start=0, count=8000, limit=1_000_000),
        "probe": Split(stream=0, start=1_000_000, count=2000, limit=9_000_000),
        "test": Split(stream=1, start=0, count=4000, limit=10_000_000),
    }

    split: str = "train"
    size: int = 64
    _: KW_ONLY
    seed: int = 0
    count: int | None = None
    preset: Literal["default", "easy", "tiny"] = "default"
    pose: Pose = "upright"
    background_correlation: float = 0.0
    swapped: bool = False
    classes: int = len(CLASSES)

    def __post_init__(self) -> None:
        check_scene_options("Scenes", self.split, self.size, self.count, self.preset, self.classes)
        if self.pose not in get_args(Pose):
            raise wrong("Scenes", given=f"pose={self.pose!r}", expected="'upright', 'free' or 'quarters'", mend="pass one of these")
        need_between("Scenes", 0, 1, background_correlation=self.background_correlation)

    def __len__(self) -> int:
        return self.splits[self.split].count if self.count is None else self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """image [3, size, size] float32 and its class. Negative indices count from the end."""
        return self.__getitems__([index + len(self) if index < 0 else index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """What a DataLoader's fetcher calls, if there: one batch drawn at once."""
        batch = self.batch(indices)
        return list(zip(batch.images, batch.labels.tolist(), strict=True))

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return (self[index] for index in range(len(self)))

    def batch(self, indices: Sequence[int] | Tensor) -> SceneBatch:
        """The pictures at `indices` [batch], integers in 0..len-1, in that order."""
        index = scene_indices("Scenes.batch", indices, len(self))
        p = self._parameters(index)
        images, masks = render(p, self.size, self.seed, self.splits[self.split].stream)
        hue = p.hue.float()
        return SceneBatch(
            images=images,
            labels=p.label,
            masks=masks,
            family=p.family,
            hue=hue,
            hue_bin=(8 * p.hue).long(),
            quarter=p.quarter,
            scale=p.scale.float(),
            angle=p.angle.float(),
            centre=torch.stack([p.x, p.y], dim=1).float(),
            indices=index,
        )

    def backgrounds(self, indices: Sequence[int] | Tensor) -> Tensor:
        """[batch, 3, size, size] float32: the same pictures without their objects."""
        p = self._parameters(scene_indices("Scenes.backgrounds", indices, len(self)))
        return render(p, self.size, self.seed, self.splits[self.split].stream, with_objects=False)[0]

    def _parameters(self, index: Tensor) -> Parameters:
        split = self.splits[self.split]
        return draw(
            index + split.start,
            size=self.size,
            seed=self.seed,
            split=split.stream,
            preset=self.preset,
            pose=self.pose,
            background_correlation=self.background_correlation,
            swapped=self.swapped,
            classes=self.classes,
        )


def check_scene_options(where: str, split: str, size: int, count: int | None, preset: str, classes: int) -> None:
    """What `Scenes` and `SceneVideos` ask of the options they share."""
    if split not in Scenes.splits:
        raise wrong(where, given=f"split={split!r}", expected=f"one of {', '.join(map(repr, Scenes.splits))}", mend="pass one of these")
    if size < SMALLEST:
        raise wrong(where, given=f"size={size}", expected=f"at least {SMALLEST}", mend="draw larger and shrink the pictures")
    if preset not in PRESETS:
        raise wrong(where, given=f"preset={preset!r}", expected=f"one of {', '.join(map(repr, PRESETS))}", mend="pass one of these")
    limit = Scenes.splits[split].limit
    if count is not None and not 1 <= count <= limit:
        raise wrong(
            where,
            given=f"count={count}",
            expected=f"1 to {limit} for split {split!r}",
            mend="pass a count in that range, or another seed",
        )
    if not 2 <= classes <= len(CLASSES):
        raise wrong(where, given=f"classes={classes}", expected=f"2 to {len(CLASSES)}", mend="pass a number of classes in that range")


def scene_indices(where: str, indices: Sequence[int] | Tensor, count: int) -> Tensor:
    """Checked indices as an int64 tensor [batch] on the CPU, where all pictures are drawn."""
    index = torch.as_tensor(indices if isinstance(indices, Tensor) else list(indices))
    if index.ndim != 1 or (index.numel() and (index.is_floating_point() or index.dtype == torch.bool)):
        raise wrong(
            where,
            given=f"indices {list(index.shape)} of dtype {index.dtype}",
            expected="integers [batch]",
            mend="pass a list, a range or an int64 tensor",
            kind=TypeError,
        )
    index = index.long().cpu()
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < count:
        outside = index[(index < 0) | (index >= count)][0].item()
        raise wrong(
            where,
            given=f"index {outside}",
            expected=f"0 to {count - 1}",
            mend="pass a larger count=, or indices below it",
            kind=IndexError,
        )
    return index
