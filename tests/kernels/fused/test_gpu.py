"""What only a GPU can show: real sizes, the same bits in every run, captured graphs, no waiting, another device than the current one."""

import pytest
import torch
from benchmarks.kernels import CASES
from benchmarks.kernels.measure import agree

pytestmark = pytest.mark.gpu
every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture
def poisoned():
    """Not here: memory for NaN would be filled inside of what is captured."""


def leaves(out):
    return [x for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, torch.Tensor)]


@every
def test_equals_the_reference_at_full_size_and_itself(case, device):
    forms = case.forms(torch.device(device), False)
    first = forms["fused"]()
    agree(case, "fused", first, forms["reference"]())
    for _ in range(3):
        for a, b in zip(leaves(first), leaves(forms["fused"]()), strict=True):
            assert torch.equal(a, b)


@every
def test_never_waits_for_the_device(case, device):
    call = case.forms(torch.device(device), True)["fused"]
    call()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@every
def test_a_captured_graph_gives_the_same(case, device):
    call = case.forms(torch.device(device), True)["fused"]
    expected = [x.clone() for x in leaves(call())]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = leaves(call())
    for x in got:
        x.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@every
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_another_device_than_the_current_one(case):
    forms = case.forms(torch.device("cuda:1"), True)
    assert torch.cuda.current_device() == 0
    agree(case, "fused", forms["fused"](), forms["reference"]())
