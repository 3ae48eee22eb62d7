"""What holds on every device: no masker looks at a value, and masks lie where they are asked for."""

import pytest
import torch
from tests.maskers.laws import planes, seeded
from tests.maskers.test_loaders import MASKERS
from torch.utils._pytree import tree_leaves

from sslkit.maskers import BlockwiseMasker, MultiBlockMasker


@pytest.mark.parametrize(("masker", "grid"), MASKERS, ids=str)
def test_nothing_looks_at_a_value(masker, grid):
    """Fake tensors have shapes alone: reading one, or a shape that depends on one, raises. So nothing waits for a device."""
    if isinstance(masker, MultiBlockMasker):
        numbers = [0.3, 0.6, 0.9]  # the sizes, which the host draws
        real = masker._blocks(torch.arange(2), grid, numbers, None)
        with torch._subclasses.FakeTensorMode():
            fake = masker._blocks(torch.arange(2), grid, numbers, None)
    else:
        real = masker(2, grid, generator=seeded())
        with torch._subclasses.FakeTensorMode():
            fake = masker(2, grid)
    assert [x.shape for x in tree_leaves(fake)] == [x.shape for x in tree_leaves(real)]
    assert not any(x.requires_grad for x in tree_leaves(real))


@pytest.mark.parametrize(("masker", "grid"), MASKERS, ids=str)
def test_masks_lie_where_they_are_asked_for(masker, grid):
    for masks in (masker(2, grid, device="meta"), masker.for_indices(torch.arange(2), grid, seed=1, device="meta")):
        assert {x.device.type for x in tree_leaves(masks)} == {"meta"}
    assert {x.device.type for x in tree_leaves(masker(2, grid, device="cpu"))} == {"cpu"}


def test_without_numpys_bit_count_the_masks_are_the_same(monkeypatch):
    import numpy as np

    masker = BlockwiseMasker(min_patches=4)
    expected = planes(masker(5, (6, 7), generator=seeded()))
    monkeypatch.delattr(np, "bitwise_count")  # numpy 1
    assert torch.equal(planes(masker(5, (6, 7), generator=seeded())), expected)
