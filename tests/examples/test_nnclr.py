"""NNCLR's draw of one of k neighbours: whose numbers it takes."""

from types import SimpleNamespace

import pytest
import tests.examples.runs  # noqa: F401  # puts the folder of the examples on the path
import torch

from sslkit.counter import integer, keys, stream
from sslkit.modules import SupportSet

import nnclr  # isort: skip

OPTIONS = SimpleNamespace(topk=7, neighbour="hard", positive="nn", temperature=0.1, seed=5)


def drawn(support, z, view, indices, epoch):
    """Which of the seven neighbours each picture got."""
    ids = nnclr.positives(support, z, view, OPTIONS, indices, epoch)[1].ids
    return (support.nearest(z, OPTIONS.topk).ids == ids[:, None]).nonzero()[:, 1]


@pytest.mark.parametrize("epoch", [0, 3, 999, 1000, 1007])
def test_a_neighbour_is_drawn_by_picture_and_epoch_from_numbers_of_its_own(epoch, generator):
    """Not from those of data sets (parts of a seed below 1000), nor from the first slots of an epoch's, which are the views'."""
    support, indices = SupportSet(64, 8, generator=generator), torch.randperm(900, generator=generator)[:200]
    z = torch.randn(200, 8, generator=generator)
    first, second = (drawn(support, z, view, indices, epoch) for view in range(2))
    assert torch.equal(torch.cat([drawn(support, z[part], 0, indices[part], epoch) for part in (slice(0, 9), slice(9, 200))]), first)
    assert first.bincount(minlength=7).min() > 10
    others = [second, drawn(support, z, 0, indices, epoch + 1)]
    others += [integer(keys(indices, stream(OPTIONS.seed, part)), slot, 7) for part in (epoch, 1000 + epoch) for slot in range(2)]
    assert all((other == first).float().mean() < 0.3 for other in others)  # by chance 1/7
