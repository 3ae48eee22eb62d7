"""`SceneVideos`: the object of a scene in periodic motion, before a background at rest.

A single frame does not tell the motion: place and pose in any one frame have nearly the same law for all six.
"""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sslkit import counter
from sslkit._checks import wrong
from sslkit.datasets._backgrounds import tile_bank
from sslkit.datasets._parameters import Parameters, draw
from sslkit.datasets._render import backgrounds, chunk_length, compose, objects, textures
from sslkit.datasets._shapes import CLASSES
from sslkit.datasets.scenes import Scenes, check_scene_options, scene_indices

MOTIONS = ("sway in x", "sway in y", "circle clockwise", "circle counter-clockwise", "spin clockwise", "spin counter-clockwise")
AMPLITUDE = 0.28  # of sway and circle, half sides


@dataclass(frozen=True, eq=False)
class VideoBatch:
    """Clips and what is known about them.

    clips: [batch, 3, time, size, size] float32 in [0, 1].
    masks: [batch, time, size, size] float32 in [0, 1], the share of each pixel that the object covers.
    labels: [batch] int64, the shape.
    motion: [batch] int64, see `MOTIONS`.
    family: [batch] int64, the kind of background.
    indices: [batch] int64, as asked for.
    """

    clips: Tensor
    masks: Tensor
    labels: Tensor
    motion: Tensor
    family: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def joint(self) -> Tensor:
        """[batch] int64: shape and motion as one class, labels * 6 + motion."""
        return self.labels * len(MOTIONS) + self.motion


@dataclass(frozen=True)
class SceneVideos(Dataset[tuple[Tensor, int]]):
    """Clips drawn on request: clip i is a function of (seed, split, i, the options) and of nothing else.

        s(t) = p + 2 pi f t / frames,  p = 2 pi u,  f in .75 .. 1.25 periods a clip,  A = .28 half sides,  y down
        sway:    A sin s(t) along one axis
        circle:  (A cos s(t), +-A sin s(t)), + is clockwise on the screen
        spin:    the pose turns by -+ pi f t / frames
        an axis without motion keeps a constant offset of the same law, A sin(2 pi r)

    Args:
        split, size, seed, count, preset, classes: as for `Scenes`. Objects start in any pose.
        frames: 1 or more.

    Objects whose path would leave the picture are made smaller, so that it just fits.
    """

    split: str = "train"
    size: int = 64
    frames: int = 8
    _: KW_ONLY
    seed: int = 0
    count: int | None = None
    preset: Literal["default", "easy", "tiny"] = "default"
    classes: int = len(CLASSES)

    def __post_init__(self) -> None:
        check_scene_options("SceneVideos", self.split, self.size, self.count, self.preset, self.classes)
        if self.frames < 1:
            raise wrong("SceneVideos", given=f"frames={self.frames}", expected="at least 1", mend="pass a positive number of frames")

    def __len__(self) -> int:
        return Scenes.splits[self.split].count if self.count is None else self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """clip [3, time, size, size] float32 and its joint class. Negative indices count from the end."""
        return self.__getitems__([index + len(self) if index < 0 else index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        batch = self.batch(indices)
        return list(zip(batch.clips, batch.joint.tolist(), strict=True))

    def batch(self, indices: Sequence[int] | Tensor) -> VideoBatch:
        """The clips at `indices` [batch], integers in 0..len-1, in that order."""
        index = scene_indices("SceneVideos.batch", indices, len(self))
        split = Scenes.splits[self.split]
        p = draw(
            index + split.start,
            size=self.size,
            seed=self.seed,
            split=split.stream,
            preset=self.preset,
            pose="upright",
            background_correlation=0.0,
            swapped=False,
            classes=self.classes,
            amplitude=AMPLITUDE,
        )
        motion, x, y, angle = paths(counter.keys(index + split.start, self.seed * 1000003 + 77 + split.stream), self.frames)
        bank, surface = tile_bank(self.size, self.seed, split.stream), textures(self.seed, split.stream)
        clips = torch.empty(len(index), self.frames, 3, self.size, self.size)
        masks = torch.empty(len(index), self.frames, self.size, self.size)
        step = max(1, chunk_length(self.size) // self.frames)
        for start in range(0, len(index), step):
            rows = slice(start, start + step)
            still = backgrounds(p, rows, bank, torch.empty(len(p.label[rows]), 3, self.size, self.size))
            moving = _frames(p, rows, x[rows], y[rows], angle[rows])
            mask, shaded = (part.view(-1, self.frames, self.size, self.size) for part in objects(moving, slice(None), self.size, surface))
            clips[rows] = still[:, None]
            compose(clips[rows], p.colour[rows, None].float(), mask, shaded)
            masks[rows] = mask
        # drawn frame by frame, handed out with channels in front of time.
        return VideoBatch(clips.transpose(1, 2).contiguous(), masks, p.label, motion, p.family, index)


def paths(key: Tensor, frames: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """key [batch] -> motion [batch] int64, and offsets in x and y and the angle, each [batch, frames] float64."""

    def u(slot: int) -> Tensor:
        return counter.uniform(key, slot, torch.float64)[:, None]

    motion = counter.integer(key, 40, len(MOTIONS))
    m = motion[:, None]
    turn = (0.75 + 0.5 * u(41)) * torch.arange(frames, dtype=torch.float64) / frames  # periods since the first frame
    phase = 2 * math.pi * u(42)
    s = phase + 2 * math.pi * turn
    rest = AMPLITUDE * (2 * math.pi * u(45)).sin().expand_as(s)
    wave, cosine = AMPLITUDE * s.sin(), AMPLITUDE * s.cos()
    circle = (m == 2) | (m == 3)
    x = torch.where(circle, cosine, torch.where(m == 0, wave, rest))
    held = torch.where(m == 0, rest, AMPLITUDE * phase.sin().expand_as(s))  # sway in x, and both spins
    y = torch.where(m == 3, -wave, torch.where((m == 1) | (m == 2), wave, held))
    spin = (m == 5).double() - (m == 4).double()
    return motion, x, y, 2 * math.pi * u(44) + spin * math.pi * turn


def _frames(p: Parameters, rows: slice, x: Tensor, y: Tensor, angle: Tensor) -> Parameters:
    """The objects `rows`, once per frame: [rows * frames] of everything that `objects` reads."""
    frames = x.shape[1]

    def each(value: Tensor) -> Tensor:
        return value[rows].repeat_interleave(frames, dim=0)

    return replace(
        p,
        label=each(p.label),
        scale=each(p.scale),
        angle=angle.flatten(),
        x=(p.x[rows, None] + x).flatten(),
        y=(p.y[rows, None] + y).flatten(),
        texture=each(p.texture),
        texture_tile=each(p.texture_tile),
        light=each(p.light),
    )
