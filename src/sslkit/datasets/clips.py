"""A folder of videos as a data set of clips."""

import os
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sslkit import counter
from sslkit._checks import need_whole, wrong
from sslkit.datasets._loaded import Broken, listed, square, subfolder

_SLOT = 1 << 20  # beyond those of augmentations and maskers, which draw for the same samples
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi")


def uniform_frames(total: int, count: int) -> list[int]:
    """ViViT's uniform frame sampling: `count` frames, evenly inside of a video of `total`.

        i * total / (count + 1)  for i = 1 .. count, rounded (half to even), at most total - 1;  all frames if count >= total

    uniform_frames(16, 4) is [3, 6, 10, 13].

    Raises:
        ValueError: a number is not a whole one from 1 on.

    Source: Arnab et al. 2021 (ViViT), sec. 3.1, and the authors' code; computed from i, not by adding up floats, which may give one more.
    """
    need_whole("uniform_frames", total=total, count=count)
    if count >= total:
        return list(range(total))
    return [min(round(i * total / (count + 1)), total - 1) for i in range(1, count + 1)]


@dataclass(frozen=True)
class ClipItem:
    """One file: its clip as uint8 [3, frames, size, size], or `Broken`; its label, -1 without labels; its place in `ClipFolder.paths`."""

    clip: Tensor | Broken
    label: int
    index: int


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """What could be read of a batch, and what not.

    clips: [batch, 3, frames, size, size] uint8.
    labels: [batch] int64, -1 without labels.
    indices: [batch] int64, places in `ClipFolder.paths`.
    skipped: (path, reason) of the files left out.
    """

    clips: Tensor
    labels: Tensor
    indices: Tensor
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ClipFolder(Dataset[ClipItem]):
    """All videos below `root`, in the order of their paths, one clip of each. Files are read on request, by PyAV.

        loader = DataLoader(ClipFolder("videos", 112, 16, frame_stride=4), 8, collate_fn=ClipFolder.collate, num_workers=4)
        for epoch in range(epochs): folder = dataclasses.replace(folder, seed=0, epoch=epoch)         other starts every epoch

    Args:
        root: the folder; links to folders are not followed. Files: .mp4, .mov, .mkv, .webm, .avi.
        size: side of the square frames: short side resized to it, centre cut out.
        frames: of a clip.
        frame_stride: from one frame of the clip to the next, in frames of the video.
        sampling: "dense": frames s, s + stride, ...; "uniform": `uniform_frames` over the whole video, frame_stride 1.
        labels: "subfolder": the name of the first folder below `root`, numbered in the order of the names; None: no labels.
        seed: None: dense clips lie in the middle of their video; a number: where they start is drawn for (seed, epoch, index).
        epoch: see seed.

    A file that cannot be read, has too few frames, or whose clip rests on a damaged one, is named, left out and counted in `skipped`;
    it never ends a run.

    Raises:
        ValueError: no such folder, no video in it, or an option out of its range.
        ModuleNotFoundError: PyAV is not installed, when the first file is read.
    """

    root: str | os.PathLike[str]
    size: int
    frames: int
    _: KW_ONLY
    frame_stride: int = 1
    sampling: Literal["dense", "uniform"] = "dense"
    labels: Literal["subfolder"] | None = "subfolder"
    seed: int | None = None
    epoch: int = 0
    paths: tuple[str, ...] = field(init=False, repr=False, compare=False)
    classes: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        need_whole("ClipFolder", size=self.size, frames=self.frames, frame_stride=self.frame_stride)
        for name, value, known in (("labels", self.labels, ("subfolder", None)), ("sampling", self.sampling, ("dense", "uniform"))):
            if value not in known:
                raise wrong("ClipFolder", given=f"{name}={value!r}", expected=" or ".join(map(repr, known)), mend="pass one of these")
        if self.sampling == "uniform" and self.frame_stride != 1:
            raise wrong("ClipFolder", given=f"sampling='uniform', frame_stride={self.frame_stride}", expected="frame_stride=1",
                        mend="leave it out: the whole video is spread over the clip")  # fmt: skip
        paths = listed("ClipFolder", os.fspath(self.root), SUFFIXES, "video")
        names = sorted({name for name in (subfolder(path, self.root) for path in paths) if name}) if self.labels else []
        object.__setattr__(self, "paths", paths)
        object.__setattr__(self, "classes", tuple(names))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> ClipItem:
        index = range(len(self))[index]
        name = subfolder(self.paths[index], self.root)
        label = self.classes.index(name) if name in self.classes else -1
        return ClipItem(read_clip(self.paths[index], self.size, lambda total: self.places(total, index)), label, index)

    def places(self, total: int, index: int) -> list[int]:
        """The frames of clip `index` in a video of `total` frames.

        Raises:
            ValueError: the video has too few.
        """
        span = (self.frames - 1) * self.frame_stride + 1
        if total < span:
            raise ValueError(f"{total} frames, {span} needed for {self.frames} at stride {self.frame_stride}")
        if self.sampling == "uniform":
            return uniform_frames(total, self.frames)
        start = (total - span) // 2
        if self.seed is not None:
            (draw,) = counter.uniforms(1, 1, indices=torch.tensor([index]), seed=self.seed, epoch=self.epoch, offset=_SLOT)[0].tolist()
            start = int(draw * (total - span + 1))
        return list(range(start, start + span, self.frame_stride))

    @staticmethod
    def collate(items: Sequence[ClipItem]) -> ClipBatch:
        """A DataLoader's `collate_fn`. A batch of broken files only is empty, [0, 3, 0, 0, 0]."""
        good = [item for item in items if isinstance(item.clip, Tensor)]
        clips = [item.clip for item in items if isinstance(item.clip, Tensor)]
        skipped = tuple((item.clip.name, item.clip.reason) for item in items if isinstance(item.clip, Broken))
        stacked = torch.stack(clips) if clips else torch.empty(0, 3, 0, 0, 0, dtype=torch.uint8)
        labels, indices = (torch.tensor(numbers, dtype=torch.int64) for numbers in ([i.label for i in good], [i.index for i in good]))
        return ClipBatch(stacked, labels, indices, skipped)


def read_clip(path: str, size: int, places: Callable[[int], list[int]]) -> Tensor | Broken:
    """The frames places(total) of a video as uint8 [3, frames, size, size], or why not. Only these are converted, none beyond the last."""
    try:
        import av
    except ImportError as error:
        raise wrong("ClipFolder", given="no PyAV", expected="PyAV, which decodes videos", mend='pip install "sslkit[video]"',
                    kind=ModuleNotFoundError) from error  # fmt: skip
    try:
        with av.open(path) as container:  # packets are counted first, without decoding: headers do not always know
            total = sum(1 for packet in container.demux(video=0) if packet.size)
        wanted = places(total)
        found: dict[int, Tensor] = {}
        damaged = False  # the decoder guesses what it cannot read and goes on; frames build on one another up to the next key frame
        with av.open(path) as container:
            frames: Any = container.decode(video=0)
            for number, frame in enumerate(frames):
                damaged = frame.is_corrupt or (damaged and not frame.key_frame)
                if number in wanted:
                    if damaged:
                        return Broken(path, f"frame {number} of {total} is damaged")
                    found[number] = square(frame.to_image(), size)
                if number == wanted[-1]:
                    break
        lost = [number for number in wanted if number not in found]
        if lost:
            return Broken(path, f"frame {lost[0]} of {total} cannot be decoded")
        return torch.stack([found[number] for number in wanted], dim=1)
    # as with pictures, damaged bytes are answered with nearly any exception
    except Exception as error:
        return Broken(path, f"{type(error).__name__}: {error}")
