"""The twelve outlines of `Scenes`, as signed distances.

Object coordinates: x to the right, y up, 1 = the half extent. A distance is negative inside, in the same unit.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

CLASSES = ("disc", "square", "triangle", "star", "ring", "plus", "crescent", "heart", "arrow", "T", "L", "Z")
ORIENTED = (2, 6, 7, 8, 9, 10)  # classes that show every quarter turn: triangle, crescent, heart, arrow, T, L

ATLAS_SIZE = 96  # samples per side
ATLAS_REACH = 1.25  # the atlas covers [-1.25, 1.25]^2

_Points = tuple[tuple[float, float], ...]


def _tips(count: int, radii: tuple[float, ...]) -> _Points:
    """Points around the centre, the first straight up, at these radii in turn."""
    turns = [math.pi / 2 + 2 * math.pi * k / count for k in range(count)]
    return tuple((radii[k % len(radii)] * math.cos(a), radii[k % len(radii)] * math.sin(a)) for k, a in enumerate(turns))


_POLYGONS: dict[str, _Points] = {
    "square": ((-0.76, -0.76), (0.76, -0.76), (0.76, 0.76), (-0.76, 0.76)),
    "triangle": _tips(3, (1.0,)),
    "star": _tips(10, (1.0, 0.42)),
    "plus": (
        (-0.3, 0.92), (0.3, 0.92), (0.3, 0.3), (0.92, 0.3), (0.92, -0.3), (0.3, -0.3),
        (0.3, -0.92), (-0.3, -0.92), (-0.3, -0.3), (-0.92, -0.3), (-0.92, 0.3), (-0.3, 0.3),
    ),
    "heart": ((-0.84, 0.10), (0.0, -0.95), (0.84, 0.10), (0.0, 0.62)),
    "arrow": ((0.0, 1.0), (0.75, 0.15), (0.28, 0.15), (0.28, -0.95), (-0.28, -0.95), (-0.28, 0.15), (-0.75, 0.15)),
    "T": ((-0.85, 0.9), (0.85, 0.9), (0.85, 0.4), (0.27, 0.4), (0.27, -0.95), (-0.27, -0.95), (-0.27, 0.4), (-0.85, 0.4)),
    "L": ((-0.7, 0.95), (-0.15, 0.95), (-0.15, -0.4), (0.75, -0.4), (0.75, -0.95), (-0.7, -0.95)),
    "Z": (
        (-0.8, 0.9), (0.8, 0.9), (0.8, 0.5), (-0.22, -0.5), (0.8, -0.5),
        (0.8, -0.9), (-0.8, -0.9), (-0.8, -0.5), (0.22, 0.5), (-0.8, 0.5),
    ),
}  # fmt: skip
# (x, y, radius) of the circles that bound an outline; with the polygon's corners (radius 0) they give its extent.
_CIRCLES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "disc": ((0.0, 0.0, 0.85),),
    "ring": ((0.0, 0.0, 0.91),),
    "crescent": ((0.0, 0.0, 0.95),),
    "heart": ((-0.42, 0.35, 0.5), (0.42, 0.35, 0.5)),
}


def _circle(x: Tensor, y: Tensor, at: tuple[float, float, float]) -> Tensor:
    return torch.hypot(x - at[0], y - at[1]) - at[2]


def _polygon(x: Tensor, y: Tensor, corners: _Points) -> Tensor:
    """Distance to the nearest side; inside, if a ray to the right crosses an odd number of sides."""
    nearest = torch.full_like(x, math.inf)
    inside = torch.zeros_like(x, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        ex, ey = bx - ax, by - ay
        along = (((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        nearest = torch.minimum(nearest, torch.hypot(x - ax - along * ex, y - ay - along * ey))
        if ey != 0:
            inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * ex / ey)
    return torch.where(inside, -nearest, nearest)


def signed_distance(name: str, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance from the points (x, y), of any one shape, to the outline of class `name`; negative inside.

    Exact but for the crescent and the heart, which join two outlines by min or max: there the sign is exact and the size a bound.
    """
    if name == "ring":
        return _circle(x, y, (0.0, 0.0, 0.68)).abs() - 0.23
    if name == "crescent":
        return torch.maximum(_circle(x, y, (0.0, 0.0, 0.95)), -_circle(x, y, (0.0, 0.48, 0.72)))
    parts = [_circle(x, y, at) for at in _CIRCLES.get(name, ())]
    if name in _POLYGONS:
        parts.append(_polygon(x, y, _POLYGONS[name]))
    return torch.stack(parts).amin(dim=0)


@lru_cache(maxsize=1)
def atlas() -> tuple[Tensor, ...]:
    """One [96, 96] float32 a class: distances at evenly spaced points of [-1.25, 1.25]^2, ends included; row 0 is the *lowest*
    y."""
    at = torch.linspace(-ATLAS_REACH, ATLAS_REACH, ATLAS_SIZE, dtype=torch.float64)
    y, x = torch.meshgrid(at, at, indexing="ij")
    return torch.stack([signed_distance(name, x, y) for name in CLASSES]).float().unbind()


@lru_cache(maxsize=1)
def _hulls() -> Tensor:
    """[classes, points, (x, y, radius)] float64: discs whose hull contains the outline; short lists repeat their first disc."""
    rows = [[*_CIRCLES.get(name, ()), *((x, y, 0.0) for x, y in _POLYGONS.get(name, ()))] for name in CLASSES]
    longest = max(len(row) for row in rows)
    return torch.tensor([row + row[:1] * (longest - len(row)) for row in rows], dtype=torch.float64)


def extents(cls: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """How far the outline of class `cls` [batch], turned by `angle` [batch] (rad, counter-clockwise), reaches in |x| and in
    |y|."""
    hull = _hulls()[cls]  # [batch, points, 3]
    cos, sin = angle.double().cos()[:, None], angle.double().sin()[:, None]
    x, y, radius = hull.unbind(dim=-1)
    return ((cos * x - sin * y).abs() + radius).amax(dim=1), ((sin * x + cos * y).abs() + radius).amax(dim=1)


def reach(cls: Tensor) -> Tensor:
    """How far the outline of class `cls` [batch] reaches from its centre, whatever its pose. float64 [batch]."""
    x, y, radius = _hulls()[cls].unbind(dim=-1)
    return (torch.hypot(x, y) + radius).amax(dim=1)
