"""Entropies and divergence of targets: a loop, the two collapses, processes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkit.evaluation import collapse_report
from sslkit.testing import proves, run_in_processes

NAME = "evaluation.collapse_report"


def probs(rows=6, classes=5, seed=0, dtype=torch.float64):
    logits = torch.randn(2, rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return tuple(logits.softmax(-1).to(dtype))


@proves(NAME, "loop", "property")
@given(rows=st.integers(1, 6), classes=st.integers(1, 6), seed=st.integers(0, 99))
def test_equals_a_loop(rows, classes, seed):
    teacher, student = probs(rows, classes, seed)
    report = collapse_report(teacher, student)
    entropy = sum(-p * math.log(p) for row in teacher.tolist() for p in row) / rows
    kl = sum(t * math.log(t / s) for t_row, s_row in zip(teacher.tolist(), student.tolist(), strict=True)
             for t, s in zip(t_row, s_row, strict=True)) / rows  # fmt: skip
    mean = [sum(column) / rows for column in zip(*teacher.tolist(), strict=True)]
    mean_entropy = sum(-p * math.log(p) for p in mean)
    expected = {"entropy": entropy, "divergence": kl, "mean_entropy": mean_entropy, "information": mean_entropy - entropy,
                "largest_share": max(mean), "uniform": math.log(classes)}  # fmt: skip
    assert report.to_dict() == pytest.approx(expected, abs=1e-9)
    assert report.loss == pytest.approx(entropy + kl, abs=1e-9)
    assert report.information >= -1e-9
    assert report.mean_entropy <= report.uniform + 1e-9


@proves(NAME, "property")
def test_the_two_collapses_and_the_ideal():
    flat, one, each = torch.full((5, 5), 0.2), torch.eye(5)[:1].expand(5, -1), torch.eye(5)
    for targets, entropy, mean_entropy in [(flat, math.log(5), math.log(5)), (one, 0, 0), (each, 0, math.log(5))]:
        report = collapse_report(targets, targets)
        assert (report.entropy, report.mean_entropy) == pytest.approx((entropy, mean_entropy), abs=1e-6)
        assert report.divergence == pytest.approx(0, abs=1e-6)
    assert collapse_report(each, one).divergence == math.inf
    assert "largest class 20.0 %" in str(collapse_report(each, each))
    assert collapse_report(each, each).to_dict()["uniform"] == pytest.approx(math.log(5))


def rank_report(teacher, student, *, group):
    rows = [slice(0, 1), slice(1, 6)][torch.distributed.get_rank(group)]
    return collapse_report(teacher[rows], student[rows], group=group)


@proves(NAME, "property")
def test_two_processes_equal_one():
    teacher, student = probs(dtype=torch.float32)
    expected = collapse_report(teacher, student).to_dict()
    for report in run_in_processes(rank_report, 2, teacher, student):
        assert report.to_dict() == pytest.approx(expected, abs=1e-6)


@proves(NAME, "half")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits(dtype):
    teacher, student = probs(dtype=dtype)
    assert collapse_report(teacher, student) == collapse_report(teacher.float(), student.float())


@proves(NAME, "errors")
def test_wrong_input():
    teacher, student = probs()
    with pytest.raises(ValueError, match="with classes=4; expected classes=5"):
        collapse_report(teacher, student[:, :4])
    with pytest.raises(TypeError, match="expected a floating dtype"):
        collapse_report(teacher.long(), student)
