"""Pictures from their parameters.

    t = the tile's crop in [0, 1]        background = low + (high - low) * t
    d = the outline's signed distance    mask = clamp(1/2 - d * scale * size / 2, 0, 1)           one pixel of smooth edge
    shade = 1 - light * (y - y0) / scale + texture * (texture tile - 1/2)
    picture = clamp(background * (1 - mask) + colour * shade * mask, 0, 1)

A picture's bits depend neither on its neighbours in the batch nor on the number of threads: only single products, sums and
comparisons run over pixels. Fused operations such as lerp round otherwise in a vector loop than in its scalar rest.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkit.datasets._backgrounds import FAMILIES, TILES, tile_bank, tile_side
from sslkit.datasets._parameters import Parameters
from sslkit.datasets._shapes import ATLAS_REACH, ATLAS_SIZE, atlas


def chunk_length(size: int) -> int:
    """Pictures drawn at once, 16 up to 96 x 96, then fewer: they should fit the processor's cache and share the cost of calls."""
    return max(4, min(16, 16 * 96 * 96 // (size * size)))


@lru_cache(maxsize=4)
def textures(seed: int, split: int) -> tuple[Tensor, ...]:
    """families * 16 surfaces [96, 96] float32 in [-1/2, 1/2]: what an object shows, over the same square as the atlas."""
    tiles = tile_bank(ATLAS_SIZE * 2 // 3, seed, split).view(len(FAMILIES) * TILES, ATLAS_SIZE, ATLAS_SIZE)
    return (tiles.float() / 255 - 0.5).unbind()


def backgrounds(p: Parameters, rows: slice, bank: Tensor, out: Tensor) -> Tensor:
    """Writes the pictures without their objects, not clamped, to `out` [rows, 3, size, size] float32."""
    size = out.shape[-1]
    side = tile_side(size)
    start = (((p.family * TILES + p.tile) * side + p.y_offset) * side + p.x_offset)[rows].tolist()
    crops = torch.stack([bank.as_strided((size, size), (side, 1), at) for at in start]).float()  # one contiguous copy each
    low = p.colour_low[rows].float()
    span = ((p.colour_high[rows] - p.colour_low[rows]) / 255).float()
    return torch.mul(crops[:, None], span[:, :, None, None], out=out).add_(low[:, :, None, None])


def objects(p: Parameters, rows: slice, size: int, surface: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """[rows, size, size] float32 each: mask, and shade * mask."""
    at = (torch.arange(size, dtype=torch.float64) * 2 + 1) / size - 1  # pixel centres
    scale, angle = p.scale[rows, None], p.angle[rows, None]
    right, down = (at - p.x[rows, None]) / scale, (at - p.y[rows, None]) / scale  # [rows, size], in half extents
    cos, sin = angle.cos() / ATLAS_REACH, angle.sin() / ATLAS_REACH
    # picture -> object turns clockwise; the object's y points up. The sum of a row and a column: one addition a pixel.
    grid = torch.empty(right.shape[0], size, size, 2)
    torch.add((cos * right).float()[:, None, :], (-sin * down).float()[:, :, None], out=grid[..., 0])
    torch.add((-sin * right).float()[:, None, :], (-cos * down).float()[:, :, None], out=grid[..., 1])
    shapes, pairs = atlas(), zip(p.label[rows].tolist(), p.texture_tile[rows].tolist(), strict=True)
    look = torch.stack([part for label, tile in pairs for part in (shapes[label], surface[tile])])
    look = look.view(-1, 2, ATLAS_SIZE, ATLAS_SIZE)  # [rows, (distance, texture), 96, 96]
    distance, texture = F.grid_sample(look, grid, mode="bilinear", padding_mode="border", align_corners=True).unbind(dim=1)
    mask = (distance * (scale * (-size / 2)).float()[:, :, None]).add_(0.5).clamp_(0, 1)
    shade = (texture * p.texture[rows, None, None].float()).add_((1 - p.light[rows, None] * down).float()[:, :, None])
    return mask, shade.mul_(mask)


def compose(background: Tensor, colour: Tensor, mask: Tensor, shaded: Tensor) -> Tensor:
    """Puts objects on backgrounds [..., 3, size, size], in place: exact where the mask is 0 or 1. colour [..., 3]."""
    background.mul_((1 - mask)[..., None, :, :])
    return background.add_(shaded[..., None, :, :] * colour[..., :, None, None]).clamp_(0, 1)


def turn(pictures: Tensor, quarter: Tensor) -> Tensor:
    """Turns each picture [batch, ..., size, size] by quarter * 90 degrees counter-clockwise."""
    if not bool(quarter.any()):
        return pictures
    out = pictures.clone()
    for k in (1, 2, 3):
        out[quarter == k] = pictures[quarter == k].rot90(k, dims=(-2, -1))
    return out


def render(p: Parameters, size: int, seed: int, split: int, *, with_objects: bool = True) -> tuple[Tensor, Tensor]:
    """images [batch, 3, size, size] and masks [batch, size, size], float32 in [0, 1]."""
    bank, surface = tile_bank(size, seed, split), textures(seed, split)
    batch, step = len(p.label), chunk_length(size)
    images = torch.empty(batch, 3, size, size)
    masks = torch.empty(batch, size, size) if with_objects else torch.zeros(batch, size, size)
    for start in range(0, batch, step):
        rows = slice(start, start + step)
        background = backgrounds(p, rows, bank, images[rows])
        if with_objects:
            masks[rows], shaded = objects(p, rows, size, surface)
            compose(background, p.colour[rows].float(), masks[rows], shaded)
        else:
            background.clamp_(0, 1)
    return turn(images, p.quarter), turn(masks, p.quarter)
