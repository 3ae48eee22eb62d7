"""Superpixels: regions of like colour, all images of a batch at once (after SLIC)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sslkit._checks import bind_axes, need_positive, need_whole, wrong
from sslkit.saliency._lab import to_lab


def superpixels(images: Tensor, *, count: int = 200, compactness: float = 20.0, iterations: int = 10, stride: int = 1) -> Tensor:
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
        stride: all rounds but the last, which labels, see one row and one column in so many; 2 takes about two thirds of the time.

    Returns:
        int64 [batch, height, width], labels from 0 to rows * columns - 1, row by row in the grid; one may have no pixel.

    Raises:
        ValueError: the axes, not three channels, a number that is not positive, a stride of more than a cell's rows or columns.

    Source: Achanta et al. 2012, "SLIC Superpixels Compared to State-of-the-Art Superpixel Methods", algorithm 1.
    """
    need_whole("superpixels", count=count, iterations=iterations, stride=stride)
    need_positive("superpixels", compactness=compactness)
    batch, _, height, width = bind_axes("superpixels", images=(images, "batch channels height width")).values()
    lab = to_lab("superpixels", images)  # [batch, 3, height, width]
    side = math.sqrt(height * width / count)
    rows, columns = max(1, round(height / side)), max(1, round(width / side))
    if stride > 1 and stride > min(height // rows, width // columns):
        raise wrong("superpixels", given=f"stride {stride}, cells of {height // rows} x {width // columns} pixels",
                    expected="a pixel in each cell", mend=f"pass a smaller stride, or a count below {count}")  # fmt: skip
    y, x = torch.arange(height, device=lab.device), torch.arange(width, device=lab.device)
    place = torch.stack(torch.meshgrid(y - height / 2, x - width / 2, indexing="ij")).to(lab.dtype) * (compactness / side)
    points = torch.cat([lab, place.expand(batch, -1, -1, -1), torch.ones_like(lab[:, :1])], dim=1)  # [batch, 6, height, width]
    cell = (y * rows // height)[:, None] * columns + x * columns // width  # [height, width]
    all_of = _Cells.of(cell, rows, columns)
    some_of = all_of if stride == 1 else _Cells.of(cell[::stride, ::stride], rows, columns)
    at_once = max(1, _PIXELS // (height * width)) if lab.device.type == "cpu" else max(1, batch)  # what stays in a processor's cache
    labels = []
    for part in torch.split(points, at_once):
        everything = all_of.take(part)
        seen = everything if stride == 1 else some_of.take(part[:, :, ::stride, ::stride])
        labels.append(all_of.label(everything, some_of.centres(seen, iterations - 1)))
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
    def of(cell: Tensor, rows: int, columns: int) -> "_Cells":
        """cell: the number of each pixel's, row by row in the grid."""
        widest = -(-cell.shape[0] // rows) * -(-cell.shape[1] // columns)
        cell, each = cell.flatten(), torch.arange(rows * columns, device=cell.device)
        size = cell.bincount(minlength=len(each))
        slot = torch.arange(widest, device=cell.device)
        first = size.cumsum(0) - size
        pixels = cell.argsort(stable=True)[(first[:, None] + slot).clamp(max=len(cell) - 1)]
        near = torch.stack([_neighbour(each, rows, columns, i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)], dim=1)
        again = (near[:, :, None] == near[:, None, :]).tril(-1).any(dim=2)
        return _Cells(pixels, slot < size[:, None], near, again)

    def take(self, points: Tensor) -> Tensor:
        """points [batch, 6, height, width], the last 1 -> [batch, n, 6, m], 0 where a cell has no pixel."""
        taken = points.flatten(2).gather(2, self.pixels.flatten().expand(*points.shape[:2], -1))
        return (taken.view(*points.shape[:2], *self.pixels.shape) * self.inside).movedim(2, 1).contiguous()

    def centres(self, p: Tensor, rounds: int) -> Tensor:
        """[batch, n, 6, m] -> [batch, n, 5]: after so many rounds of k-means from the cells' means."""
        to = self.near.flatten()[:, None].expand(len(p), -1, 6)
        sums = p.sum(dim=3)
        centres = sums[:, :, :5] / sums[:, :, 5:].clamp(min=1)
        for _ in range(rounds):
            score = self._score(p, centres)
            chosen = score.eq_(score.amax(dim=2, keepdim=True))  # 1 or 0
            parts = (chosen @ p.mT).flatten(1, 2)  # [batch, 9 n, 6]
            sums = torch.zeros_like(sums).scatter_add_(1, to, parts)
            centres = torch.where(sums[:, :, 5:] > 0, sums[:, :, :5] / sums[:, :, 5:].clamp(min=1), centres)
        return centres

    def label(self, p: Tensor, centres: Tensor) -> Tensor:
        """The nearest centre of each pixel: [batch, pixels]."""
        score = self._score(p, centres)
        chosen = score.eq_(score.amax(dim=2, keepdim=True))
        best = 9 - chosen.mul_(torch.arange(9, 0, -1, device=p.device)[:, None]).amax(dim=2).long()  # the first; faster than argmax
        labels = self.near.expand(len(p), -1, -1).gather(2, best)[:, self.inside]  # cell by cell
        out = torch.empty_like(labels)
        out[:, self.pixels[self.inside]] = labels
        return out

    def _score(self, p: Tensor, centres: Tensor) -> Tensor:
        """[batch, n, 9, m], largest for the nearest of the nine.

        |p - c|^2 is least where p.c - |c|^2 / 2 is largest; the 1 of a pixel takes up the second part, and counts it in the sums.
        """
        half = centres.square().sum(dim=2, keepdim=True) / -2
        around = torch.cat([centres, half], dim=2)[:, self.near]  # [batch, n, 9, 6]
        around[..., 5].masked_fill_(self.again, _FAR)
        return around @ p


def _neighbour(cell: Tensor, rows: int, columns: int, down: int, right: int) -> Tensor:
    row, column = (cell // columns + down).clamp(0, rows - 1), (cell % columns + right).clamp(0, columns - 1)
    return row * columns + column
