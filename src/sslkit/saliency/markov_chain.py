"""Saliency by an absorbing Markov chain (MC): how long a random walk takes to the border."""

import torch
from torch import Tensor

from sslkit.saliency._graph import linked, on_edge, regions, stretched, touching, two_steps


@torch.no_grad()
def markov_chain_saliency(images: Tensor, *, superpixels: Tensor | None = None) -> Tensor:
    """The expected time of a random walk over superpixels until it is absorbed by a copy of the border.

        pairs within two steps of: neighbours (corners count), and what faces each other across the image
        W[i, j] = exp(-10 d[i, j]) + 1e-5,  d: distance of mean Lab, stretched to [0, 1] over the pairs;  W[i, i] = 1
        (diag(deg + absorb) - W) y = deg + absorb         deg[i] = sum over j of W[i, j], absorb[i] = sum over border e of W[i, e]
        saliency = y, stretched;  where it is large in the middle of its range, of a walk that starts evenly instead

    An image with a frame, whose border resembles nothing inside of it, loses the frame first. Superpixels that resemble nothing at all
    are left out, and shown where a neighbour is salient.

    Args:
        images: [batch, 3, height, width], uint8 or floating in [0, 1], sRGB. float64 is computed in float64.
        superpixels: [batch, height, width], integers from 0 on; None: `superpixels(images)`, one per 600 pixels, at least 200;
            of stride 2 where one has 64 pixels or more.

    Returns:
        [batch, 1, height, width] in [0, 1], float32 or wider; 0 for an image of one colour.

    Raises:
        ValueError: the axes, not three channels, or superpixels that are no integers.

    Source: Jiang et al. 2013, "Saliency Detection via Absorbing Markov Chain", eq. 1 to 12, and the authors' code.
    """
    graph = regions("markov_chain_saliency", images, superpixels, lab_first=True, diagonal=True, band=1)
    n, distance, real = graph.real.shape[1], graph.distance, graph.real
    labels, itself = graph.labels, torch.eye(graph.real.shape[1], dtype=torch.bool, device=images.device)
    pairs = two_steps(graph.edges | linked([(labels[:, :1], labels[:, -1:]), (labels[:, :, :1], labels[:, :, -1:])], n))
    d, alike = _stretched_pairs(distance, pairs)
    w = torch.where(pairs, (-10 * d).exp() + 1e-5, 0)
    w = torch.where(itself, real.to(w.dtype)[:, None, :], w)  # [batch, n, n]
    border = on_edge(labels, n, 1)
    second = (graph.edges & border[:, :, None]).any(dim=1) & ~border  # inner neighbours of the border
    framed = (w * (graph.edges & border[:, :, None] & second[:, None, :])).sum(dim=(1, 2)) <= 13
    frame = border & framed[:, None]
    border = torch.where(framed[:, None], second, border)
    degree = w.sum(dim=2)
    outlier = real & (degree < 1.1) & ~frame
    kept = real & ~frame & ~outlier
    absorb = torch.where((border & kept)[:, None, :], w, 0).sum(dim=2)
    both = kept[:, :, None] & kept[:, None, :]
    rate = torch.where(kept, degree + absorb, 1)  # [batch, n]
    factor = torch.linalg.cholesky(torch.diag_embed(rate) - torch.where(both, w, 0))
    y = stretched(torch.cholesky_solve((rate * kept)[..., None], factor)[..., 0], kept)
    even = torch.where(kept, 1 / degree.clamp(min=1), 0)
    even = even / even.sum(dim=1, keepdim=True).clamp(min=1e-12)
    again = stretched(torch.cholesky_solve((rate * even)[..., None], factor)[..., 0], kept)
    y = torch.where((_middle(y, kept) < 2)[:, None], y, again)
    near = (touching(labels, n, True) & (y > 0.3)[:, None, :]).any(dim=2)
    y = torch.where(outlier, near.to(y.dtype), y)
    return graph.paint(torch.where(alike[:, None], 0, y))


def _stretched_pairs(distance: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Distances of the pairs in [0, 1], and which images have but one: [batch, n, n], [batch] bool."""
    low = distance.masked_fill(~pairs, torch.inf).amin(dim=(1, 2), keepdim=True)
    high = distance.masked_fill(~pairs, -torch.inf).amax(dim=(1, 2), keepdim=True)
    alike = ~(high > low)
    return torch.where(alike, 0, (distance - low) / torch.where(alike, 1, high - low)), alike[:, 0, 0]


def _middle(y: Tensor, kept: Tensor) -> Tensor:
    """sum over ten bins b = 1..10 of their share * min(b, 11 - b): [batch], from 1 (all at the ends) to 5."""
    bins = (10 * y).long().clamp(max=9)
    hist = y.new_zeros(len(y), 10).scatter_add_(1, bins, kept.to(y.dtype))
    height = torch.arange(1, 11, device=y.device).to(y.dtype)
    return (hist * torch.minimum(height, 11 - height)).sum(dim=1) / kept.sum(dim=1).clamp(min=1)
