"""Robust background detection (RBD): background is what is well connected to the border."""

import torch
from torch import Tensor

from sslkit.saliency._graph import BAND, all_pairs, half_up, regions, scales, shortest_paths, stretched, weight


@torch.no_grad()
def robust_background_saliency(images: Tensor, *, superpixels: Tensor | None = None) -> Tensor:
    """A least-squares compromise between background, contrast and smoothness.

        G = least sums of max(0, D - clip) along ways over neighbours and the border;  S = w(G, sigma_geo)
        con[i] = sum over border j of S[i, j] / sqrt(sum over j of S[i, j])            boundary connectivity
        bg[i] = 1 - exp(-con[i]^2 / 2)
        ctr[i] = sum over j of D[i, j] w(P[i, j], 0.4) bg[j],  stretched to [0, 1], 0 below Otsu's threshold
        s = argmin  sum of 5 b[i] s[i]^2 + ctr[i] (s[i] - 1)^2 + sum over pairs of smooth[i, j] (s[i] - s[j])^2,  stretched
        b = bg, 1000 where con > 3;  smooth = w(D, sigma_nei) within two steps and over the border, + 0.1 on neighbours
        w(d, sigma) = exp(-d^2 / (2 sigma^2)), 0 from 3 sigma on

    The minimum is the solution of a symmetric positive definite system, by Cholesky.

    Args:
        images: [batch, 3, height, width], uint8 or floating in [0, 1], sRGB. float64 is computed in float64.
        superpixels: [batch, height, width], integers from 0 on; None: `superpixels(images)`, one per 600 pixels, at least 200;
            of stride 2 where one has 64 pixels or more.

    Returns:
        [batch, 1, height, width] in [0, 1], float32 or wider; 0 for an image of one colour.

    Raises:
        ValueError: the axes, not three channels, or superpixels that are no integers.

    Source: Zhu et al. 2014, "Saliency Optimization from Robust Background Detection", eq. 3 to 9, with the constants of the authors' code,
    whose neighbours count once here (there, twice where two scan directions meet).
    """
    graph = regions("robust_background_saliency", images, superpixels, lab_first=False, diagonal=False, band=BAND)
    distance, scale, real = graph.distance, scales(graph), graph.real
    around = all_pairs(graph.border)
    costs = (distance - scale.clip[:, None, None]).clamp(min=0).masked_fill(~(graph.edges | around), torch.inf)
    similar = weight(shortest_paths(costs), scale.geodesic[:, None, None])  # [batch, n, n]; 0 at inf
    area = similar.sum(dim=2)
    connectivity = torch.where(graph.border[:, None, :], similar, 0).sum(dim=2) / area.sqrt()  # [batch, n]
    background = torch.where(real, 1 - (-connectivity.square() / 2).exp(), 0)
    contrast = stretched((distance * weight(graph.apart, 0.4) * background[:, None, :]).sum(dim=2), real)
    contrast = torch.where(contrast >= _otsu(contrast, real)[:, None], contrast, 0)
    smooth = torch.where(graph.near | around, weight(distance, scale.neighbour.clamp(min=1e-12)[:, None, None]), 0)
    smooth = smooth + 0.1 * graph.edges.to(smooth.dtype)
    b = torch.where(connectivity > 3, 1000, background)
    diagonal = torch.where(real, smooth.sum(dim=2) + 5 * b + contrast, 1)
    system = torch.diag_embed(diagonal) - smooth
    s = torch.cholesky_solve(contrast[..., None], torch.linalg.cholesky(system))[..., 0]
    return graph.paint(stretched(s, real))


def _otsu(values: Tensor, real: Tensor) -> Tensor:
    """Otsu's threshold of values in [0, 1], in 256 bins; among equals their mean: [batch]."""
    level = half_up(255 * values).long()
    hist = values.new_zeros(len(values), 256).scatter_add_(1, level, real.to(values.dtype))
    share = hist / hist.sum(dim=1, keepdim=True).clamp(min=1)
    step = torch.arange(256, device=values.device, dtype=values.dtype)
    omega, mu = share.cumsum(dim=1), (share * (step + 1)).cumsum(dim=1)
    between = (mu[:, -1:] * omega - mu).square() / (omega * (1 - omega))
    between = torch.where(between.isfinite(), between, -1)
    best = between == between.amax(dim=1, keepdim=True)
    return (best * step).sum(dim=1) / best.sum(dim=1) / 255
