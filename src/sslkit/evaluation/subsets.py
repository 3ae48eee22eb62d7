"""Which samples are labelled: class-balanced subsets that grow without exchanging members."""

import math

import torch
from torch import Tensor

from sslkit._checks import bind_axes, wrong
from sslkit.evaluation._accuracy import need_labels


def semi_supervised_subset(labels: Tensor, fraction: float, generator: torch.Generator | None = None) -> Tensor:
    """Ids of a class-balanced subset, as in the 1 % and 10 % protocols of semi-supervised learning.

        r[i]   = place of sample i in a random order of its class, from 0
        subset = the floor(fraction * samples) samples with the smallest r; equal r in random order

    So counts per class differ by at most one until a class is used up, whatever the class sizes: 1 % of ImageNet's 1,281,167
    is 12,811, with 12 or 13 per class. A smaller fraction drawn with the same seed is contained in a larger one.

    Args:
        labels: [samples], integer.
        fraction: in (0, 1].
        generator: of the device of `labels`; None draws from PyTorch's own, as torch.randperm does.

    Returns:
        Ids, int64, ascending.

    Raises:
        TypeError: `labels` are not integers.
        ValueError: the fraction is out of range, or holds fewer samples than there are classes.

    Source: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", the 1 % and
    10 % protocol. Its published lists are one such draw, which no seed here repeats.
    """
    where = "semi_supervised_subset"
    samples = bind_axes(where, labels=(labels, "samples"))["samples"]
    need_labels(where, labels=labels)
    if not 0 < fraction <= 1:
        raise wrong(where, given=f"fraction={fraction}", expected="a fraction in (0, 1]", mend="write 0.01 for 1 %")
    # the small term: 0.29 * 100 lies a little below 29 in floating point.
    total = math.floor(fraction * samples + 1e-6)
    rank, noise = class_ranks(labels, generator)
    classes = int((rank == 0).sum())
    if total < classes:
        raise wrong(where, given=f"fraction={fraction} of {samples} samples, {total}",
                    expected=f"at least one for each of {classes} classes",
                    mend=f"pass a fraction of {classes / max(samples, 1):.3g} or more")  # fmt: skip
    by_noise = noise.argsort(stable=True)
    order = by_noise[rank[by_noise].argsort(stable=True)]  # by rank, then by noise
    return order[:total].sort().values


def class_ranks(labels: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """The place of every sample in a random order of its class, int64 [samples], and the noise [samples] that made the order."""
    noise = torch.rand(len(labels), generator=generator, device=labels.device, dtype=torch.float64)
    by_noise = noise.argsort(stable=True)
    order = by_noise[labels[by_noise].argsort(stable=True)]  # by class, random inside
    _, counts = torch.unique(labels, return_counts=True)
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(labels), device=labels.device) - starts.repeat_interleave(counts)
    return torch.empty_like(place).scatter_(0, order, place), noise
