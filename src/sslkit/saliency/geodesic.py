"""Geodesic saliency (GS): how far a region is from the border, counted in colours that are passed."""

import torch
from torch import Tensor

from sslkit.saliency._graph import BAND, Regions, all_pairs, half_up, regions, scales, shortest_paths, stretched


@torch.no_grad()
def geodesic_saliency(images: Tensor, *, superpixels: Tensor | None = None) -> Tensor:
    """The cheapest way from every superpixel to the background at the border.

        cost[i, j] = max(0, D[i, j] - clip)          neighbours, and all pairs of the border; D: distance of mean colours in Lab
        s[i] = min over background j of the least sum of costs along a way from i to j
        saliency = s / (its value at the 2nd percentile from above), cut at 1, stretched to [0, 1]

    Background is the border, or, where some of it stands out, the half that does not: those with
    v[i] = mean of the 5 n / 200 smallest D[i, j] / (1 + 3 P[i, j]) to other border regions, P their distance in space.

    Args:
        images: [batch, 3, height, width], uint8 or floating in [0, 1], sRGB. float64 is computed in float64.
        superpixels: [batch, height, width], integers from 0 on; None: `superpixels(images)`, one per 600 pixels, at least 200;
            of stride 2 where one has 64 pixels or more.

    Returns:
        [batch, 1, height, width] in [0, 1], float32 or wider; 0 for an image of one colour.

    Raises:
        ValueError: the axes, not three channels, or superpixels that are no integers.

    Source: Wei et al. 2012, "Geodesic Saliency Using Background Priors", in the form of the authors of RBD (Zhu et al. 2014).
    """
    graph = regions("geodesic_saliency", images, superpixels, lab_first=False, diagonal=False, band=BAND)
    background = _background(graph)
    costs = (graph.distance - scales(graph).clip[:, None, None]).clamp(min=0)
    ways = shortest_paths(costs.masked_fill(~(graph.edges | all_pairs(graph.border)), torch.inf))
    s = ways.masked_fill(~background[:, None, :], torch.inf).amin(dim=2)
    s = torch.where(s.isfinite(), s, 0)  # what no way leads to
    rank = half_up(0.02 * graph.real.sum(dim=1).to(s.dtype)).clamp(min=1).long() - 1
    high = s.masked_fill(~graph.real, -torch.inf).sort(dim=1, descending=True).values.gather(1, rank[:, None])
    s = torch.where(high > 0, (s / torch.where(high > 0, high, 1)).clamp(max=1), 0)
    return graph.paint(stretched(s, graph.real))


def _background(graph: Regions) -> Tensor:
    """[batch, n] bool: the border without what stands out of it."""
    distance, border, real = graph.distance, graph.border, graph.real
    unlike = (distance / (1 + 3 * graph.apart)).masked_fill(~all_pairs(border), torch.inf).sort(dim=2).values  # [batch, n, n]
    count = half_up(5 * real.sum(dim=1).to(distance.dtype) / 200).clamp(min=1)
    count = torch.minimum(count, (border.sum(dim=1) - 1).to(count.dtype)).clamp(min=1)  # [batch]
    chosen = torch.arange(unlike.shape[2], device=unlike.device) < count[:, None, None]
    value = torch.where(chosen, unlike, 0).sum(dim=2) / count[:, None]
    known = border & value.isfinite()  # a border of one region has no other to be compared with
    low = value.masked_fill(~known, torch.inf).amin(dim=1, keepdim=True)
    high = value.masked_fill(~known, -torch.inf).amax(dim=1, keepdim=True)
    quiet = ~known | ((value - low) <= 0.5 * (high - low))
    return border & (quiet | (high - low <= 1))
