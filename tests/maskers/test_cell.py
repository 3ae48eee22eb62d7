"""Cell masks: whole squares, as often as each other, on images and clips."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.maskers.laws import deviation, planes, same, seeded, tells_one_story

from sslkit.maskers import CellMasker, RandomMasker, TokenMask
from sslkit.testing import grids, proves

NAME = "maskers.CellMasker"


@proves(NAME, "loop", "property")
@settings(max_examples=60)
@given(
    cells=grids(side=(1, 6)),
    cell=st.integers(1, 4),
    ratio=st.floats(0, 1, exclude_max=True),
    batch=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_hides_whole_squares_the_stated_number_of_them(cells, cell, ratio, batch, seed):
    grid = (*cells[:-2], cell * cells[-2], cell * cells[-1])
    m = CellMasker(ratio, cell)(batch, grid, generator=seeded(seed))
    tells_one_story(m, cell**2 * round(ratio * math.prod(cells)))
    coarse = RandomMasker(ratio)(batch, cells, generator=seeded(seed)).mask.view(batch, math.prod(cells[:-2]), *cells[-2:])
    flags = m.mask.view(batch, math.prod(cells[:-2]), *grid[-2:])
    for b, t, i, j in torch.cartesian_prod(*(torch.arange(n) for n in flags.shape)).tolist():
        assert flags[b, t, i, j] == coarse[b, t, i // cell, j // cell]


@proves(NAME, "property")
def test_every_cell_and_every_pair_is_as_likely():
    n = 20_000
    hidden = planes(CellMasker(0.5)(n, (4, 6), generator=seeded(1)))[:, ::2, ::2].flatten(1).double()
    assert deviation(hidden.mean(dim=0), torch.full((6,), 0.5), n) < 4.5
    pairs = (hidden.T @ hidden / n)[~torch.eye(6, dtype=torch.bool)]
    assert deviation(pairs, torch.full((30,), 3 * 2 / 30), n) < 4.5


@proves(NAME, "property")
def test_for_indices_is_a_function_of_seed_epoch_and_index():
    whole = CellMasker().for_indices(torch.arange(20), (4, 6), seed=3, epoch=5)
    order = torch.tensor([7, 0, 19, 7])
    same(CellMasker().for_indices(order, (4, 6), seed=3, epoch=5), TokenMask.from_ids_keep(whole.ids_keep[order], (4, 6)))
    assert not torch.equal(CellMasker().for_indices(torch.arange(20), (4, 6), seed=3, epoch=6).mask, whole.mask)


@proves(NAME, "compile")
def test_compiles_in_one_graph_to_the_same_masks():
    torch.compiler.reset()
    compiled = torch.compile(lambda i: CellMasker().for_indices(i, (4, 6), seed=1), fullgraph=True, backend="aot_eager")
    same(compiled(torch.arange(5)), CellMasker().for_indices(torch.arange(5), (4, 6), seed=1))


@proves(NAME, "pickle")
def test_copies_are_equal():
    masker = CellMasker(0.7, 3)
    for other in (copy.deepcopy(masker), pickle.loads(pickle.dumps(masker))):
        assert other == masker
        same(other(2, (6, 9), generator=seeded()), masker(2, (6, 9), generator=seeded()))


@proves(NAME, "errors")
def test_wrong_options_and_calls():
    with pytest.raises(ValueError, match="CellMasker: got ratio=60"):
        CellMasker(60)
    for cell in (0, 1.5, True):
        with pytest.raises(ValueError, match="CellMasker: got cell=.*; expected a whole cell from 1 on"):
            CellMasker(cell=cell)
    for grid in [(7, 8), (8, 7), (2, 3, 4)]:
        with pytest.raises(ValueError, match="CellMasker: got grid .* with cell=2; expected height and width in multiples of 2"):
            CellMasker()(1, grid)
