"""The kernels' benchmark, without a GPU and without a clock: its forms agree, its floors are floors, its counts are counts."""

from dataclasses import replace

import pytest
import torch
from benchmarks.harness import Quartiles
from benchmarks.kernels import CASES
from benchmarks.kernels.measure import Machine, machine, measure
from benchmarks.kernels.page import PAGE, page
from benchmarks.kernels.traffic import traffic
from torch._subclasses import FakeTensorMode

CPU = torch.device("cpu")
every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def without_kernel(case):
    """The case on a machine that cannot run its kernel: the definition in its place."""

    def forms(device, small):
        made = case.forms(device, small)
        return made | {"fused": made["reference"]}

    return replace(case, forms=forms)


@every
def test_all_forms_give_the_same(case):
    result = measure(without_kernel(case), CPU, Machine("m", 1.0, 1.0, 1e9), lambda call: Quartiles(1, 2, 3), small=True, compiled=False,
                     instructions=5e6)  # fmt: skip
    assert [row.form for row in result.rows] == ["fused", "reference", "public"]
    assert result.rows[0].us == Quartiles(1000, 2000, 3000)
    assert result.byte_floor_us == case.floor_bytes(True) / 1e3  # at 1 GB/s, a byte is a nanosecond
    assert result.issue_floor_us == 5000
    assert result.floor_us == max(result.byte_floor_us, 5000)


@every
def test_no_form_moves_less_than_the_floor(case):
    with FakeTensorMode():
        for form, call in case.forms(CPU, False).items():
            if form != "fused":
                assert traffic(call)[0] >= case.floor_bytes(False), form


def test_a_form_that_differs_is_refused():
    answers = {"fused": torch.ones(2), "reference": torch.ones(2), "public": torch.tensor([1.0, float("nan")])}
    case = replace(CASES[0], forms=lambda device, small: {form: lambda a=answer: a for form, answer in answers.items()})
    with pytest.raises(AssertionError, match=r"gather_tokens: public differs from the reference by nan, allowed 0"):
        measure(case, CPU, Machine("m", 1, 1, 1), lambda call: Quartiles(1, 1, 1), small=True, compiled=False)


def test_bytes_are_counted_once_per_operation():
    with FakeTensorMode():
        x, row, ids = torch.empty(10, 4), torch.empty(4), torch.empty(3, dtype=torch.int64)
        assert traffic(lambda: x + row) == (160 + 16 + 160, 1)
        assert traffic(lambda: x[2:].t()) == (0, 0)  # views move nothing
        assert traffic(lambda: x + row.expand(10, 4)) == (336, 1)  # what is expanded lies there once
        assert traffic(lambda: x.index_select(0, ids)) == (48 + 24 + 48, 1)  # three rows of ten
        assert traffic(lambda: torch.zeros(5)) == (20, 1)
        assert traffic(lambda: x.index_copy_(0, ids, torch.empty(3, 4))) == (48 + 24 + 48, 1)


def test_rates_are_bytes_and_operations_over_time():
    got = machine(CPU, lambda call: (call(), Quartiles(1, 2, 3))[1], copy_bytes=4000, side=10)
    assert (got.copy_gb_s, got.matmul_tflop_s) == (2 * 4000 / 2e-3 / 1e9, 2 * 10**3 / 2e-3 / 1e12)


def test_the_page_is_that_of_the_results():
    assert PAGE.read_text() == page()
