"""Superpixels: regions of like colour, all images of a batch at once (after SLIC)."""

import math
from dataclasses import dataclass

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

    SLIC's last step, which gives stray pixels to their surroundings, is left out: its estimates of saliency hardly need it. A pixel that
    is equally near to two centres counts in the means of both; its label is the first.

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
    place = torch.stack(torch.meshgrid(y - height / 2, x - width / 2, indexing="ij")).to(lab.dtype) * (compactness / side)
    points = torch.cat([lab, place.expand(batch, -1, -1, -1), torch.ones_like(lab[:, :1])], dim=1).flatten(2)  # [batch, 6, pixels]
    cell = ((y * rows // height)[:, None] * columns + x * columns // width).flatten()  # [pixels]
    cells = _Cells.of(cell, rows, columns, -(-height // rows) * -(-width // columns))
    at_once = max(1, _PIXELS // (height * width)) if lab.device.type == "cpu" else max(1, batch)  # what stays in a processor's cache
    labels = [cells.cluster(part, iterations) for part in torch.split(points, at_once)]
    return torch.cat(labels).view(batch, height, width) if labels else cell.new_zeros(0, height, width)


_PIXELS = 2**16
_FAR = -1e30  # finite: times the 0 of a place without a pixel it is 0


@dataclass(frozen=True)
class _Cells:
    """A grid of n cells with up to m pixels each, so that |p - c|^2 of all pixels to nine centres is one product of small matrices."""

    pixels: Tensor  # [n, m] int64; where a cell has fewer, any
    inside: Tensor  # [n, m] bool
    near: Tensor  # [n, 9] int64: the cells around and itself
    again: Tensor  # [n, 9] bool: named before, at the edge

    @staticmethod
    def of(cell: Tensor, rows: int, columns: int, widest: int) -> "_Cells":
        """cell: [pixels] int64, row by row in the grid; widest: pixels of the largest cell."""
        each = torch.arange(rows * columns, device=cell.device)
        size = cell.bincount(minlength=len(each))
        slot = torch.arange(widest, device=cell.device)
        first = size.cumsum(0) - size
        pixels = cell.argsort(stable=True)[(first[:, None] + slot).clamp(max=len(cell) - 1)]
        near = torch.stack([_neighbour(each, rows, columns, i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)], dim=1)
        again = (near[:, :, None] == near[:, None, :]).tril(-1).any(dim=2)
        return _Cells(pixels, slot < size[:, None], near, again)

    def cluster(self, points: Tensor, iterations: int) -> Tensor:
        """points [batch, 6, pixels], the last 1 -> labels [batch, pixels].

        |p - c|^2 is least where p.c - |c|^2 / 2 is largest; the 1 of a pixel takes up the second part, and counts it in the sums.
        """
        p = points[:, :, self.pixels] * self.inside  # [batch, 6, n, m]
        p = p.movedim(2, 1).contiguous()  # [batch, n, 6, m]
        sums = p.sum(dim=3)
        centres = sums[:, :, :5] / sums[:, :, 5:].clamp(min=1)  # [batch, n, 5]
        to = self.near.flatten()[:, None].expand(len(p), -1, 6)
        for step in range(iterations):
            half = centres.square().sum(dim=2, keepdim=True) / -2
            around = torch.cat([centres, half], dim=2)[:, self.near]  # [batch, n, 9, 6]
            around[..., 5].masked_fill_(self.again, _FAR)
            score = around @ p  # [batch, n, 9, m]
            if step == iterations - 1:
                break
            chosen = score.eq_(score.amax(dim=2, keepdim=True))  # 1 or 0
            parts = (chosen @ p.mT).flatten(1, 2)  # [batch, 9 n, 6]
            sums = torch.zeros_like(sums).scatter_add_(1, to, parts)
            centres = torch.where(sums[:, :, 5:] > 0, sums[:, :, :5] / sums[:, :, 5:].clamp(min=1), centres)
        best = score.max(dim=2).indices  # [batch, n, m]; faster than argmax
        labels = self.near.expand(len(p), -1, -1).gather(2, best)
        out = labels.new_empty(len(points), points.shape[2])
        out[:, self.pixels[self.inside]] = labels[:, self.inside]
        return out


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
