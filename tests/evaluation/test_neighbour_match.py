"""NN match accuracy against a loop; its official numbers stand in tests/modules/test_support_set.py."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkit.evaluation import neighbour_match_accuracy
from sslkit.testing import proves, run_in_processes

NAME = "evaluation.neighbour_match_accuracy"


@proves(NAME, "loop", "property")
@given(batch=st.integers(0, 9), k=st.integers(0, 3), seed=st.integers(0, 99))
def test_equals_a_loop(batch, k, seed):
    generator = torch.Generator().manual_seed(seed)
    near = torch.randint(-1, 3, (batch, k) if k else (batch,), generator=generator)
    labels = torch.randint(-1, 3, (batch,), generator=generator)
    met = [int(one == label and label >= 0) for row, label in zip(near.view(batch, -1).tolist() if batch else [], labels, strict=True)
           for one in row]  # fmt: skip
    got = neighbour_match_accuracy(near, labels)
    assert got.item() == pytest.approx(sum(met) / max(len(met), 1), abs=1e-6)
    assert got.shape == ()


def test_limits():
    labels = torch.tensor([1, 1, -1])
    assert neighbour_match_accuracy(labels[:2], labels[:2]) == 1
    assert neighbour_match_accuracy(torch.tensor([2, 0]), labels[:2]) == 0
    assert neighbour_match_accuracy(labels[2:], labels[2:]) == 0  # unknown is no class


def share(near, labels, *, group):
    rank = torch.distributed.get_rank(group)
    near, labels = (x.tensor_split([1])[rank] for x in (near, labels))
    return neighbour_match_accuracy(near, labels, group=group)


def test_unequal_batches_on_two_processes_equal_one():
    near, labels = torch.tensor([[0, 1], [1, 1], [2, 0]]), torch.tensor([0, 1, 1])
    for got in run_in_processes(share, 2, near, labels):
        torch.testing.assert_close(got, neighbour_match_accuracy(near, labels))


@proves(NAME, "errors")
def test_wrong_input():
    labels = torch.arange(3)
    with pytest.raises(ValueError, match=r"neighbour_match_accuracy: got labels \[2\] with batch=2; expected batch=3"):
        neighbour_match_accuracy(labels, labels[:2])
    with pytest.raises(ValueError, match=r"got neighbour_labels \[3, 0\]; expected at least one neighbour. To mend: ask for k=1"):
        neighbour_match_accuracy(labels[:, None][:, :0], labels)
    with pytest.raises(TypeError, match="labels of dtype torch.float32"):
        neighbour_match_accuracy(labels, labels.float())
