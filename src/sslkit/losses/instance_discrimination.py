"""Every picture a class of its own, against a bank of all pictures: noise-contrastive estimation (InstDist)."""

import math

import torch
from torch import Tensor

from sslkit._checks import bind_axes, need_floating, need_positive, need_whole, wrong
from sslkit.distributed import Group, gather, global_mean, row_count


def nce_loss(similarity: Tensor, normalizer: Tensor | float, size: int, *, temperature: float = 0.07,
             group: Group | None = None) -> Tensor:  # fmt: skip
    """Noise-contrastive estimation: is this row of the bank the picture's own, or one of m drawn at random?

        P[b, k] = exp(similarity[b, k] / temperature) / normalizer                    k = 0: its own, 1..m: drawn
        loss = mean over b of  - log( P[b, 0] / (P[b, 0] + m / size) )  -  sum over k > 0 of log( (m / size) / (P[b, k] + m / size) )

    computed as logistic regression on log P - log(m / size), which neither overflows nor needs the authors' 1e-7.

    Args:
        similarity: [batch, 1 + drawn], cosines of a projection and rows of the bank, its own first; floating.
        normalizer: above 0, the sum over the bank of exp(similarity / temperature), estimated once: `nce_normalizer` of the first step.
            A number, or a tensor without axes, which may be wider than `similarity`.
        size: pictures in the bank.
        temperature: above 0.
        group: the mean is over the rows of all these processes (see `sslkit.distributed`).

    Returns:
        Scalar, float32 or wider, at least 0. 0 for an empty batch. A tensor as normalizer is not looked at: below 0 it gives nan, at 0 inf.

    Raises:
        ValueError: the axes, no drawn row, a normalizer with axes, a number as normalizer, a temperature or a size that is not positive.
        TypeError: not floating.

    Source: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", eq. 3 to 7.
    """
    batch, candidates = bind_axes("nce_loss", similarity=(similarity, "batch candidates")).values()
    need_floating("nce_loss", similarity=similarity)
    need_positive("nce_loss", temperature=temperature, normalizer=normalizer)
    need_whole("nce_loss", size=size, drawn=candidates - 1)
    wide = torch.promote_types(similarity.dtype, torch.float32)
    total = _log(normalizer, wide) if isinstance(normalizer, Tensor) else math.log(normalizer)
    odds = similarity.to(wide) / temperature - total - math.log((candidates - 1) / size)  # log of P over m / size
    own, drawn = odds[:, 0], odds[:, 1:]
    loss = torch.nn.functional.softplus(-own).sum() + torch.nn.functional.softplus(drawn).sum()
    return global_mean(loss, row_count(batch, group), group)


def _log(normalizer: Tensor, wide: torch.dtype) -> Tensor:
    """Of the number as it came, which may be past float32, as its logarithm is not."""
    if normalizer.ndim:
        raise wrong("nce_loss", given=f"normalizer {list(normalizer.shape)}", expected="one number, [], for all rows",
                    mend="pass normalizer.squeeze(), or nce_normalizer(similarity, size)")  # fmt: skip
    return normalizer.to(torch.promote_types(normalizer.dtype, wide)).log().to(wide)


@torch.no_grad()
def nce_normalizer(similarity: Tensor, size: int, *, temperature: float = 0.07, group: Group | None = None) -> Tensor:
    """The authors' estimate of NCE's normalising constant, made at the first step and kept.

        normalizer = size * mean over b, k of exp(similarity[b, k] / temperature)

    Args:
        similarity: [batch, 1 + drawn], as `nce_loss` takes it; floating.
        size: pictures in the bank.
        temperature: above 0.
        group: the mean is over the rows of all these processes, and the same on every one.

    Returns:
        Scalar, float64: of a million pictures finite down to a temperature of 0.0015, where float32 would end at 0.014.

    Raises:
        ValueError: the axes, no row on any process, a temperature or size that is not positive.
        TypeError: not floating.

    Source: Wu et al. 2018, eq. 8.
    """
    bind_axes("nce_normalizer", similarity=(similarity, "batch candidates"))
    need_floating("nce_normalizer", similarity=similarity)
    need_positive("nce_normalizer", temperature=temperature)
    rows = gather(similarity, group).rows  # [global batch, 1 + drawn]
    need_whole("nce_normalizer", size=size, values=rows.numel())
    return ((rows.double() / temperature).logsumexp(dim=(0, 1)) + math.log(size / rows.numel())).exp()
