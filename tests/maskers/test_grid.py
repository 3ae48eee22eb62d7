"""Grid masks against a loop, and the ratios that a stride expresses."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkit.maskers import GridMasker
from sslkit.testing import grids, proves, run_in_processes

NAME = "maskers.GridMasker"


@proves(NAME, "loop", "property")
@settings(max_examples=60)
@given(grid=grids(), batch=st.integers(0, 3), stride=st.integers(1, 5))
def test_equals_a_loop(grid, batch, stride):
    m = GridMasker(stride)(batch, grid)
    t, (h, w) = math.prod(grid[:-2]), grid[-2:]
    expected = [i % stride != 0 or j % stride != 0 for _ in range(t) for i in range(h) for j in range(w)]
    assert m.mask.tolist() == [expected] * batch
    assert m.ids_keep.shape == (batch, t * math.ceil(h / stride) * math.ceil(w / stride))
    assert m.ids_keep.tolist() == [[n for n, hidden in enumerate(expected) if not hidden]] * batch


@proves(NAME, "property")
def test_ratios_that_a_stride_expresses():
    assert GridMasker().stride == 2
    for stride in range(1, 6):
        ratio = 1 - 1 / stride**2
        masker = GridMasker(ratio=ratio)
        assert masker.stride == stride
        grid = (3 * stride, 2 * stride)
        m = masker(2, grid)
        assert m.mask.sum(dim=1).tolist() == [round(ratio * math.prod(grid))] * 2
        assert GridMasker(stride, ratio=ratio) == masker
        assert torch.equal(masker.for_indices(torch.tensor([5, 1]), grid, seed=0).mask, m.mask)  # the same for every sample
    assert GridMasker(ratio=0.8889).stride == 3


@proves(NAME, "errors")
@pytest.mark.parametrize("options", [{"ratio": 0.5}, {"ratio": 0.7}, {"ratio": 0.75, "stride": 3}, {"ratio": 0.9}])
def test_ratios_that_no_stride_expresses(options):
    with pytest.raises(ValueError, match=r"GridMasker: got ratio=.*; expected 1 - 1 / stride\*\*2, .* To mend: pass stride= alone"):
        GridMasker(**options)


@proves(NAME, "errors")
def test_wrong_input():
    for stride in (0, -2, 1.5, True):
        with pytest.raises(ValueError, match="expected a whole number from 1 on. To mend: pass stride=2"):
            GridMasker(stride)
    with pytest.raises(ValueError, match=r"got ratio=1; expected a ratio in \[0, 1\)"):
        GridMasker(ratio=1)
    with pytest.raises(ValueError, match=r"got grid \(4, 7\) with ratio=0.75; expected sides in multiples of 2. To mend: pass stride=2"):
        GridMasker(ratio=0.75)(1, (4, 7))
    with pytest.raises(ValueError, match="positive whole numbers"):
        GridMasker()(1, (4,))


@proves(NAME, "compile")
def test_compiles_in_one_graph():
    torch.compiler.reset()
    masker = GridMasker()
    got = torch.compile(lambda: masker(3, (5, 6)), fullgraph=True, backend="aot_eager")()
    assert torch.equal(got.mask, masker(3, (5, 6)).mask)
    assert torch.equal(got.ids_keep, masker(3, (5, 6)).ids_keep)


def draw(masker, *, group):
    return masker(2, (4, 6)).ids_keep


@proves(NAME, "pickle")
def test_copies_draw_the_same():
    masker = GridMasker()
    for other in (copy.deepcopy(masker), pickle.loads(pickle.dumps(masker))):
        assert other == masker
        assert torch.equal(draw(other, group=None), draw(masker, group=None))
    (elsewhere,) = run_in_processes(draw, 1, masker)
    assert torch.equal(elsewhere, draw(masker, group=None))
