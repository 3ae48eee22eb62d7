"""What is in a picture of `Scenes`, as numbers: one row per picture, each a function of (seed, split, index, options)."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sslkit import counter
from sslkit.datasets._backgrounds import FAMILIES, TILES, tile_side
from sslkit.datasets._shapes import extents, reach

Pose = Literal["upright", "free", "quarters"]
PRESETS = {"default": (0.18, 0.36), "easy": (0.24, 0.42), "tiny": (0.14, 0.28)}
CONTRAST = 0.28  # least distance between the mean luminances of object and background
_OTHER_BACKGROUND = 10_000_019  # added to the index: whose background a swapped picture gets


@dataclass(frozen=True, eq=False)
class Parameters:
    """Tensors over [batch]; floating ones float64. Lengths in half sides, x to the right, y down, 0 in the middle; angles in
    rad."""

    label: Tensor
    family: Tensor
    tile: Tensor
    x_offset: Tensor  # of the crop in its tile, pixels
    y_offset: Tensor
    hue: Tensor
    colour: Tensor  # [batch, 3], the object's
    colour_low: Tensor  # [batch, 3], the background's where its tile is 0
    colour_high: Tensor  # [batch, 3], the background's where its tile is 255
    luminance: Tensor  # the object's
    background_luminance: Tensor  # mean over both colours
    scale: Tensor
    angle: Tensor  # counter-clockwise
    x: Tensor
    y: Tensor
    quarter: Tensor
    texture: Tensor
    texture_tile: Tensor  # 0 .. families * tiles - 1
    light: Tensor


def colours(luminance: Tensor, hue: Tensor, chroma: Tensor) -> Tensor:
    """[batch] each -> [batch, 3]: channel c = luminance + 1.2 chroma cos(2 pi (hue - c / 3))."""
    channel = torch.arange(3, dtype=torch.float64)
    return luminance[:, None] + 1.2 * chroma[:, None] * (2 * math.pi * (hue[:, None] - channel / 3)).cos()


def make_room(luminance: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Moves the background's two luminances so that their mean is at least `CONTRAST` from the object's. All [batch].

    The background gives way, so that the object is the same on every background. Its mean goes away from the object, or, where
    that would leave [0.1, 0.9], to the object's other side; the two come closer together only where one would leave [0, 1].
    """
    mean = (low + high) / 2
    side = torch.where(mean < luminance, -1.0, 1.0).to(mean)
    moved = luminance + CONTRAST * side
    moved = torch.where((moved < 0.1) | (moved > 0.9), luminance - CONTRAST * side, moved)
    mean = torch.where((mean - luminance).abs() < CONTRAST, moved, mean)
    half = torch.minimum(((high - low) / 2).abs(), torch.minimum(mean, 1 - mean)) * torch.where(high < low, -1.0, 1.0)
    return mean - half, mean + half


def draw(
    index: Tensor,
    *,
    size: int,
    seed: int,
    split: int,
    preset: str,
    pose: Pose,
    background_correlation: float,
    swapped: bool,
    classes: int,
    amplitude: float = 0.0,
) -> Parameters:
    """The parameters of the pictures `index` [batch] int64. `amplitude`: how far a video's object moves to all sides, in half
    sides."""
    own = counter.keys(index, counter.stream(seed, split))
    back = counter.keys(index + _OTHER_BACKGROUND, counter.stream(seed, split)) if swapped else own

    def u(slot: int, low: float = 0.0, high: float = 1.0, key: Tensor = own) -> Tensor:
        return low + (high - low) * counter.uniform(key, slot, torch.float64)

    label = counter.integer(own, 0, classes)
    families = len(FAMILIES)
    family = torch.where(u(2) < background_correlation, label % families, counter.integer(own, 1, families))
    if swapped:
        step = counter.integer(counter.keys(index, seed * 1000003 + 4242), 0, families - 1)
        family = (family + 1 + step) % families

    angle = u(10, 0, 2 * math.pi) if pose == "free" else u(10, -0.35, 0.35)
    scale = 2 * u(9, *PRESETS[preset])
    # corners of a turned outline reach beyond its half extent, and nothing may be cut: their room counts as the object's.
    extent_x, extent_y = extents(label, angle) if amplitude == 0 else (reach(label), reach(label))
    scale = torch.minimum(scale, (1 - amplitude) / torch.maximum(extent_x, extent_y))
    room_x, room_y = (1 - e.clamp(min=0.95) * scale - amplitude for e in (extent_x, extent_y))

    luminance, hue = u(7, 0.15, 0.9), u(6)
    low, high = make_room(luminance, 0.1 + 0.8 * u(14, key=back), 0.1 + 0.8 * u(15, key=back))
    offsets = tile_side(size) - size + 1
    return Parameters(
        label=label,
        family=family,
        tile=counter.integer(back, 3, TILES),
        x_offset=counter.integer(back, 4, offsets),
        y_offset=counter.integer(back, 5, offsets),
        hue=hue,
        colour=colours(luminance, hue, u(8, 0.16, 0.30)),
        colour_low=colours(low, u(16, key=back), u(18, 0, 0.18, back)),
        colour_high=colours(high, u(17, key=back), u(19, 0, 0.18, back)),
        luminance=luminance,
        background_luminance=(low + high) / 2,
        scale=scale,
        angle=angle,
        x=u(11, -1, 1) * room_x.clamp(min=0),
        y=u(12, -1, 1) * room_y.clamp(min=0),
        quarter=counter.integer(own, 13, 4) if pose == "quarters" else torch.zeros_like(label),
        texture=u(20, 0, 0.35),
        texture_tile=counter.integer(own, 21, families * TILES),
        light=u(22, 0.15, 0.35),
    )
