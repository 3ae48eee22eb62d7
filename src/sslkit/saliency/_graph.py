"""What all estimators share: superpixels of a batch as graphs of one padded size.

Nodes without a pixel (padding, where images have different numbers) have no edge, and are in no mean, minimum or maximum.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from kornia.color import rgb_to_linear_rgb
from torch import Tensor

from sslkit._checks import bind_axes, wrong
from sslkit.saliency._lab import as_floats, linear_to_lab, to_lab
from sslkit.saliency.superpixels import superpixels

_NODES = 2**17  # numbers of graphs that are worked on at once, so that they stay in a processor's cache
BAND = 8  # pixels from the edge that make a superpixel one of the border


@dataclass(frozen=True)
class Regions:
    """Graphs of a batch; n nodes each, of which `real` have pixels."""

    labels: Tensor  # [batch, height, width] int64
    real: Tensor  # [batch, n] bool
    colour: Tensor  # [batch, n, 3], Lab
    place: Tensor  # [batch, n, 2]: mean row / height, mean column / width, counted from 1
    edges: Tensor  # [batch, n, n] bool, symmetric, no diagonal
    border: Tensor  # [batch, n] bool

    @cached_property
    def distance(self) -> Tensor:
        """Of colours: [batch, n, n]."""
        return _distances(self.colour)

    @cached_property
    def apart(self) -> Tensor:
        """Of places: [batch, n, n]."""
        return _distances(self.place)

    @cached_property
    def near(self) -> Tensor:
        """Pairs that are one or two edges apart, without the diagonal: [batch, n, n] bool."""
        return two_steps(self.edges)

    def paint(self, values: Tensor) -> Tensor:
        """[batch, n] -> [batch, 1, height, width]."""
        return values.gather(1, self.labels.flatten(1)).view(self.labels.shape)[:, None]


def _distances(rows: Tensor) -> Tensor:
    """[batch, n, few] -> [batch, n, n]: exact for near ones, too, and faster than cdist for so few coordinates."""
    squares = rows.new_zeros(*rows.shape[:2], rows.shape[1])
    for x in rows.unbind(2):
        step = x[:, :, None] - x[:, None, :]
        squares.addcmul_(step, step)
    return squares.sqrt_()


def regions(where: str, images: Tensor, labels: Tensor | None, *, lab_first: bool, diagonal: bool, band: int) -> Regions:
    """The graphs of images [batch, 3, height, width]; labels given, or made here.

    lab_first: colours are means of Lab; else the Lab of means of RGB. diagonal: pixels that touch at a corner are neighbours, too.
    """
    if labels is None:
        area = images.shape[-2] * images.shape[-1]
        count = max(200, area // 600)
        labels = superpixels(images, count=count, stride=2 if area >= 64 * count else 1)  # 64 pixels: so that 16 remain
    sizes = bind_axes(where, images=(images, "batch channels height width"), superpixels=(labels, "batch height width"))
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise wrong(where, given=f"superpixels of dtype {labels.dtype}", expected="integers from 0 on", mend="pass labels.long()")
    labels = labels.long()
    batch, height, width = (sizes[name] for name in ("batch", "height", "width"))
    n = int(labels.max()) + 1 if labels.numel() else 1
    flat = labels.flatten(1)
    pixels = to_lab(where, images) if lab_first else as_floats(images)
    rows, columns = torch.arange(1, height + 1, device=labels.device), torch.arange(1, width + 1, device=labels.device)
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).to(pixels.dtype)
    sums = torch.cat([pixels, places.expand(batch, -1, -1, -1), torch.ones_like(pixels[:, :1])], dim=1).flatten(2)  # [batch, 6, pixels]
    total = sums.new_zeros(batch, 6, n).scatter_add_(2, flat[:, None].expand_as(sums), sums)
    real = total[:, 5] > 0
    means = total[:, :5] / total[:, 5:].clamp(min=1)
    colour = means[:, :3] if lab_first else linear_to_lab(rgb_to_linear_rgb(means[:, :3, :, None]))[..., 0]
    size = means.new_tensor([height, width])  # two Python numbers
    return Regions(labels, real, colour.mT, means[:, 3:].mT / size, touching(labels, n, diagonal), on_edge(labels, n, band))


def touching(labels: Tensor, n: int, diagonal: bool) -> Tensor:
    """[batch, n, n] bool: which labels have pixels side by side."""
    pairs = [(labels[:, :, :-1], labels[:, :, 1:]), (labels[:, :-1], labels[:, 1:])]
    if diagonal:
        pairs += [(labels[:, :-1, :-1], labels[:, 1:, 1:]), (labels[:, :-1, 1:], labels[:, 1:, :-1])]
    return linked(pairs, n)


def linked(pairs: list[tuple[Tensor, Tensor]], n: int) -> Tensor:
    """[batch, n, n] bool of pairs of labels, both ways, without the diagonal."""
    batch = len(pairs[0][0])
    edges = torch.zeros(batch, n * n, dtype=torch.bool, device=pairs[0][0].device)
    for a, b in pairs:
        edges.scatter_(1, (a * n + b).flatten(1), True)
    edges = edges.view(batch, n, n)
    return (edges | edges.mT) & ~torch.eye(n, dtype=torch.bool, device=edges.device)


def on_edge(labels: Tensor, n: int, band: int) -> Tensor:
    """[batch, n] bool: which labels have a pixel within `band` pixels of the edge."""
    edge = torch.ones(labels.shape[1:], dtype=torch.bool, device=labels.device)
    edge[band:-band, band:-band] = False
    return torch.zeros(len(labels), n, dtype=torch.bool, device=labels.device).scatter_(1, labels[:, edge], True)


def two_steps(edges: Tensor) -> Tensor:
    """Pairs that are one or two edges apart, without the diagonal."""
    wide = edges.float()
    near = edges | (wide @ wide > 0)
    return near & ~torch.eye(edges.shape[-1], dtype=torch.bool, device=edges.device)


def all_pairs(mask: Tensor) -> Tensor:
    """[batch, n] -> [batch, n, n]: both in the set, and different."""
    return mask[:, :, None] & mask[:, None, :] & ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)


def shortest_paths(costs: Tensor) -> Tensor:
    """Floyd and Warshall: [batch, n, n], inf where there is no edge -> the least sums of costs along any way."""
    out, n = costs.clone(), costs.shape[1]
    out.diagonal(dim1=1, dim2=2).zero_()
    at_once = max(1, _NODES // (n * n)) if costs.device.type == "cpu" else max(1, len(costs))
    for best in torch.split(out, at_once):  # a view each
        through = torch.empty_like(best)
        for into, out_of in zip(torch.split(best, 1, dim=2), torch.split(best, 1, dim=1), strict=True):
            torch.minimum(best, torch.add(into, out_of, out=through), out=best)
    return out


def weight(distance: Tensor, sigma: Tensor | float) -> Tensor:
    """exp(-d^2 / 2 sigma^2), 0 from 3 sigma on."""
    return distance.square().div_(-2 * sigma**2).exp_().masked_fill_(distance > 3 * sigma, 0)


def half_up(x: Tensor) -> Tensor:
    """Rounds, halves upwards."""
    return (x + 0.5).floor()


def stretched(values: Tensor, real: Tensor) -> Tensor:
    """[batch, n] to [0, 1] over the real nodes, 0 elsewhere; all 0 where all are equal."""
    low = values.masked_fill(~real, torch.inf).amin(dim=1, keepdim=True)
    high = values.masked_fill(~real, -torch.inf).amax(dim=1, keepdim=True)
    span = high - low
    return torch.where(real & (span > 0), (values - low) / torch.where(span > 0, span, 1), 0)


def mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """[batch, n] -> [batch], over the mask; 0 where it is empty."""
    return torch.where(mask, values, 0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


@dataclass(frozen=True)
class Scales:
    """Of an image's colour differences, [batch] each."""

    clip: Tensor
    geodesic: Tensor
    neighbour: Tensor


def scales(graph: Regions) -> Scales:
    """The authors' parameters, from the image.

    m1 = mean over i of min over neighbours j of D[i, j]       m2 = likewise over neighbours within two steps
    top = mean of the largest hundredth of D over edges
    clip = m2      sigma_geo = max(5, min(10, 3 m1, top / 10))      sigma_nei = min(3 m1, 0.2 top, 20)
    """
    distance, far, n = graph.distance, torch.inf, graph.edges.shape[1]
    connected = graph.edges.any(dim=2)
    near = distance.masked_fill(~graph.edges, far).amin(dim=2)
    wider = distance.masked_fill(~graph.near, far).amin(dim=2)
    m1, m2 = mean_over(near, connected), mean_over(wider, connected)
    upper = graph.edges.triu()
    counted = half_up(0.01 * upper.sum(dim=(1, 2)).to(distance.dtype)).clamp(min=1)
    most = int(0.01 * n * (n - 1) / 2 + 0.5)  # if all were neighbours
    falling = distance.masked_fill(~upper, -far).flatten(1).topk(min(most + 1, n * n), dim=1).values
    chosen = torch.arange(falling.shape[1], device=falling.device) < counted[:, None]
    top = mean_over(falling, chosen & falling.isfinite())
    geodesic = torch.minimum(3 * m1, top / 10).clamp(max=10).clamp(min=5)
    return Scales(m2, geodesic, torch.minimum(3 * m1, 0.2 * top).clamp(max=20))
