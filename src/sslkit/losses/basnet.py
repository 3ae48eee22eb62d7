"""Pixels, patches and the whole map against a mask: what BASNet is trained by."""

import torch
from torch import Tensor
from torch.nn import functional

from sslkit._checks import bind_axes, need_floating

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2  # of SSIM, for values in [0, 1]


def basnet_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross-entropy, structural similarity and overlap, of every output.

        p = sigmoid(logits)
        loss = sum over outputs of   BCE(p, m)  +  1 - SSIM(p, m)  +  1 - IoU(p, m)

        BCE = mean over pixels of  - m log p - (1 - m) log(1 - p)
        SSIM = mean over pixels of  (2 mu_p mu_m + C1) (2 cov + C2) / ((mu_p^2 + mu_m^2 + C1) (var_p + var_m + C2))
               mu, var, cov under a Gaussian of 11 x 11 and sigma 1.5, zeros around the map
        IoU = mean over images of  sum p m / (sum p + sum m - sum p m);   1 where both are empty

    Args:
        logits: [batch, outputs, height, width], floating, of `saliency.BASNet`.
        masks: [batch, 1, height, width], 1 the object, values in [0, 1]: bool or floating; no gradient flows into them.

    Returns:
        Scalar, float32 or wider.

    Raises:
        ValueError: the axes disagree.
        TypeError: logits are not floating, or masks are neither floating nor bool: levels of 255 would pass for [0, 1].

    Source: Qin et al. 2019, "BASNet: Boundary-Aware Salient Object Detection", eq. 1 to 6; the constants are SSIM's (Wang et al. 2003).
    """
    bind_axes("basnet_loss", logits=(logits, "batch outputs height width"), masks=(masks, "batch 1 height width"))
    masks = masks.to(logits.dtype) if masks.dtype == torch.bool else masks
    need_floating("basnet_loss", logits=logits, masks=masks)
    with torch.autocast(logits.device.type, enabled=False):
        x = logits.to(torch.promote_types(logits.dtype, torch.float32))
        m = masks.detach().to(x.dtype)
        bce = functional.binary_cross_entropy_with_logits(x, m.expand_as(x), reduction="none").mean(dim=(0, 2, 3))  # [outputs]
        p = x.sigmoid()
        both = (p * m).sum(dim=(2, 3))
        either = p.sum(dim=(2, 3)) + m.sum(dim=(2, 3)) - both  # [batch, outputs]
        overlap = torch.where(either > 0, both / torch.where(either > 0, either, 1), 1).mean(dim=0)
        return (bce + (1 - _ssim(p, m)) + (1 - overlap)).sum()


def _ssim(p: Tensor, m: Tensor) -> Tensor:
    """Of p [batch, outputs, height, width] with m [batch, 1, height, width]: the mean over images and pixels, [outputs]."""
    mu_p, mu_m = _blurred(p), _blurred(m)
    var_p, var_m, cov = _blurred(p * p) - mu_p**2, _blurred(m * m) - mu_m**2, _blurred(p * m) - mu_p * mu_m
    similar = (2 * mu_p * mu_m + C1) * (2 * cov + C2) / ((mu_p**2 + mu_m**2 + C1) * (var_p + var_m + C2))
    return similar.mean(dim=(0, 2, 3))


def _blurred(x: Tensor) -> Tensor:
    """Gaussian means over rows and columns, zeros around the map: two banded matrices, several times a convolution of one channel."""
    down, across = (_taps(side, x) for side in x.shape[2:])
    return down @ x @ across


def _taps(side: int, like: Tensor) -> Tensor:
    """[side, side], symmetric: the weight of place j in the mean around place i."""
    offset = torch.arange(-(WINDOW // 2), WINDOW // 2 + 1, device=like.device, dtype=like.dtype)
    total = (-offset.square() / (2 * SIGMA**2)).exp().sum()
    place = torch.arange(side, device=like.device, dtype=like.dtype)
    apart = place[:, None] - place
    return torch.where(apart.abs() <= WINDOW // 2, (-apart.square() / (2 * SIGMA**2)).exp() / total, 0)
