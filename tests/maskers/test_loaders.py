"""Masks drawn in a DataLoader's collate function: the same ones for any number of workers, and after a resume in the middle."""

from dataclasses import dataclass

import pytest
import torch
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from sslkit.counter import permutation
from sslkit.maskers import (
    BlockwiseMasker,
    CellMasker,
    CubeMasker,
    FrameMasker,
    GridMasker,
    MultiBlockMasker,
    RandomMasker,
    TubeMasker,
)
from sslkit.testing import proves, run_in_processes

CLIP, BATCH, SAMPLES = (4, 6, 8), 3, 14
MASKERS = [
    (RandomMasker(), CLIP),
    (GridMasker(), CLIP),
    (BlockwiseMasker(min_patches=4), CLIP[1:]),
    (BlockwiseMasker(min_patches=4, exact=False), CLIP[1:]),
    (TubeMasker(0.5, BlockwiseMasker(min_patches=4)), CLIP),
    (FrameMasker(), CLIP),
    (CubeMasker(), CLIP),
    (CellMasker(), CLIP),
    (MultiBlockMasker(), CLIP[1:]),
]


def leaves(masks):
    """Mask and ids of each TokenMask; of ragged rows the mask alone."""
    return tree_leaves(masks)


@dataclass(frozen=True)
class Collate:
    """Indices of samples -> the masks of all maskers."""

    epoch: int = 0

    def __call__(self, indices):
        indices = torch.tensor(indices)
        return indices, [masker.for_indices(indices, grid, seed=5, epoch=self.epoch) for masker, grid in MASKERS]


def batches(workers, order, context=None):
    loader = DataLoader(range(SAMPLES), BATCH, sampler=order, collate_fn=Collate(1), num_workers=workers, multiprocessing_context=context)
    return [leaves(batch) for batch in loader]


def equal(a, b):
    return len(a) == len(b) and all(len(x) == len(y) and all(map(torch.equal, x, y)) for x, y in zip(a, b, strict=True))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_gives_the_same_masks(workers):
    order = permutation(SAMPLES, seed=5, epoch=1).tolist()
    expected = batches(0, order)
    assert len(expected) == 5
    assert len(expected[0]) == 1 + 2 * (len(MASKERS) - 2) + 1 + 2 * 5  # ragged: no ids; MultiBlockMasker: a context and four targets
    assert equal(batches(workers, order, "fork"), expected)


def test_a_resume_in_the_middle_goes_on_with_the_same_masks():
    order = permutation(SAMPLES, seed=5, epoch=1).tolist()
    assert equal(batches(0, order[2 * BATCH :]), batches(0, order)[2:])


def test_a_sample_has_the_same_mask_in_any_batch():
    """But for MultiBlockMasker's sizes, which are the epoch's, nothing of a batch enters: one by one they are the rows of a batch."""
    _, together = Collate()(list(range(SAMPLES)))
    for index in range(SAMPLES):
        _, alone = Collate()([index])
        for a, b in zip(leaves(alone), leaves(together), strict=True):
            assert torch.equal(a[0], b[index])


def draw(indices, *, group):
    return leaves(Collate()(indices))


@proves("maskers.BlockwiseMasker", "pickle")
@proves("maskers.TubeMasker", "pickle")
@proves("maskers.FrameMasker", "pickle")
@proves("maskers.CubeMasker", "pickle")
@proves("maskers.CellMasker", "pickle")
@proves("maskers.MultiBlockMasker", "pickle")
def test_a_spawned_process_draws_the_same():
    (elsewhere,) = run_in_processes(draw, 1, [3, 1, 4])
    assert all(map(torch.equal, elsewhere, draw([3, 1, 4], group=None)))
    maskers = [masker for masker, _ in MASKERS]
    assert run_in_processes(received, 1, maskers) == [maskers]


def received(maskers, *, group):
    return maskers
