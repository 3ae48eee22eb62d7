"""Three-part errors: what was given, what was expected, how to mend it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkit._checks import bind_axes, need_between, need_positive


@given(shape=st.lists(st.integers(0, 5), min_size=3, max_size=3))
def test_bind_axes_returns_the_sizes(shape):
    a, b, c = shape
    sizes = bind_axes(
        "f", x=(torch.empty(a, b, c), "batch tokens dim"), m=(torch.empty(a, b), "batch tokens"), y=(torch.empty(7, 9, c), "... dim")
    )
    assert sizes == {"batch": a, "tokens": b, "dim": c}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"mask": (torch.empty(4, 49), "batch tokens"), "x": (torch.empty(4, 196, 3), "batch tokens dim")},
         r"f: got x \[4, 196, 3\] with tokens=196; expected tokens=49 as in mask. To mend: pass mask and x with equal tokens."),
        ({"x": (torch.empty(4, 1), "batch 3")}, r"f: got x \[4, 1\] with an axis=1; expected an axis=3. To mend: make that axis 3."),
        ({"x": (torch.empty(4), "... tokens dim")}, r"f: got x \[4\], 1 axes; expected the axes \[..., tokens, dim\]"),
        ({"x": (torch.empty(4), "batch"), "y": (torch.empty(4, device="meta"), "batch")},
         r"f: got y on meta; expected cpu, where x is. To mend: move it"),
    ],
)  # fmt: skip
def test_messages(tensors, message):
    with pytest.raises(ValueError, match=message):
        bind_axes("f", **tensors)


def test_numbers():
    need_positive("f", temperature=torch.tensor(-1.0))  # values of tensors are never read
    with pytest.raises(ValueError, match="f: got ratio=1.5; expected ratio in \\[0, 1\\]. To mend"):
        need_between("f", 0, 1, ratio=1.5)
