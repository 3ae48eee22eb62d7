"""Superpixels: regions of like colour, all images of a batch at once (after SLIC)."""

import math

import torch
from kornia.color import rgb_to_lab
from torch import Tensor

from sslkit._checks import bind_axes, need_positive, need_whole, wrong


def superpixels(images: Tensor, *, count: int = 200, compactness: float = 20.0, iterations: int = 10) -> Tensor:
    """k-means of colour and place, in which a pixel knows only the nine centres around its cell of a regular grid.

        side = sqrt(height * width / count), rows x columns cells of about that side, a centre in each
        `iterations` times:
            label[p] = argmin over the 9 centres around p's cell of  |lab[p] - lab of c|^2 + (compactness / side)^2 |xy[p] - xy of c|^2
            centres = means of their pixels                          an empty one stays where it was

    SLIC's last step, which gives stray pixels to their surroundings, is left out: its estimates of saliency hardly need it.

    Args:
        images: [batch, 3, height, width], uint8 or floating in [0, 1], sRGB.
        count: cells, about.
        compactness: of Lab units against pixels; larger: squarer regions.
        iterations: rounds, 1 or more.

    Returns:
        int64 [batch, height, width], labels from 0 to rows * columns - 1, row by row in the grid; one may have no pixel.

    Raises:
        ValueError: the axes, not three channels, a number that is not positive.

    Source: Achanta et al. 2012, "SLIC Superpixels Compared to State-of-the-Art Superpixel Methods", algorithm 1.
    """
    need_whole("superpixels", count=count, iterations=iterations)
    need_positive("superpixels", compactness=compactness)
    batch, _, height, width = bind_axes("superpixels", images=(images, "batch channels height width")).values()
    lab = to_lab("superpixels", images)  # [batch, 3, height, width]
    side = math.sqrt(height * width / count)
    rows, columns = max(1, round(height / side)), max(1, round(width / side))
    y, x = torch.arange(height, device=lab.device), torch.arange(width, device=lab.device)
    place = torch.stack(torch.meshgrid(y, x, indexing="ij")).to(lab.dtype) * (compactness / side)
    points = torch.cat([lab, place.expand(batch, -1, -1, -1)], dim=1).flatten(2)  # [batch, 5, pixels]
    cell = ((y * rows // height)[:, None] * columns + x * columns // width).flatten()  # [pixels]
    around = torch.stack([_neighbour(cell, rows, columns, i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)])  # [9, pixels]
    labels = cell.expand(batch, -1)
    centres = _means(points, labels, rows * columns, points.new_zeros(batch, 5, rows * columns))
    for _ in range(iterations):
        best, labels = points.new_full(labels.shape, torch.inf), labels.clone()
        for near in around:
            distance = (points - centres[:, :, near]).square().sum(dim=1)  # [batch, pixels]
            closer = distance < best
            best, labels = torch.where(closer, distance, best), torch.where(closer, near, labels)
        centres = _means(points, labels, rows * columns, centres)
    return labels.view(batch, height, width)


def to_lab(where: str, images: Tensor) -> Tensor:
    """sRGB [batch, 3, height, width] -> CIE Lab under D65, L in [0, 100], float32 or wider."""
    channels = bind_axes(where, images=(images, "batch channels height width"))["channels"]
    if channels != 3 or not (images.is_floating_point() or images.dtype == torch.uint8):
        raise wrong(where, given=f"images {list(images.shape)} of {images.dtype}", expected="[batch, 3, height, width], uint8 or floating",
                    mend="repeat a grey channel three times, or divide your levels by their maximum")  # fmt: skip
    out: Tensor = rgb_to_lab(as_floats(images))
    return out


def as_floats(images: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1]; 16 bit -> float32; else as it is."""
    if images.dtype == torch.uint8:
        return images.float() / 255
    return images.to(torch.promote_types(images.dtype, torch.float32))


def _neighbour(cell: Tensor, rows: int, columns: int, down: int, right: int) -> Tensor:
    row, column = (cell // columns + down).clamp(0, rows - 1), (cell % columns + right).clamp(0, columns - 1)
    return row * columns + column


def _means(points: Tensor, labels: Tensor, count: int, before: Tensor) -> Tensor:
    """[batch, 5, count]: the mean point of each label; what has no pixel stays as before."""
    index = labels[:, None].expand_as(points)
    sums = points.new_zeros(len(points), 5, count).scatter_add_(2, index, points)
    pixels = points.new_zeros(len(points), count).scatter_add_(1, labels, torch.ones_like(points[:, 0]))[:, None]
    return torch.where(pixels > 0, sums / pixels.clamp(min=1), before)
