"""The kernel of cross-entropy against weighted classes equals float64 arithmetic on the same numbers: values and gradients."""

import math
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.kernels.fused.conftest import INTERPRETED
from tests.kernels.operations import seeded

from sslkit.kernels import _launch, explain, soft_cross_entropy
from sslkit.losses import dino_loss

pytest.importorskip("triton", reason="Triton is not made for this system")
from sslkit.kernels._soft_cross_entropy import fused

NAME = "soft_cross_entropy"
# Of a gradient's norm. The interpreter cuts bf16 off where GPUs round it, and rounds products before it adds.
ROUNDING = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3 if INTERPRETED else 4e-3}
FLOATS = list(ROUNDING)


def processors(count):
    """So many that few rows are cut into slices, or one."""
    return patch.object(_launch, "processors", lambda device: count)


def inputs(device, rows, classes, kinds, seed=0, dtype=torch.float32, of_targets=torch.float32, size=1.0):
    """Logits of both signs, weights that do not sum to 1, an index with repeats."""
    g = seeded(seed)
    logits = (torch.rand(rows, classes, generator=g) * 2 - 1) * size
    index = torch.randint(kinds, (rows,), generator=g)
    return logits.to(device, dtype), torch.rand(kinds, classes, generator=g).to(device, of_targets), index.to(device)


def value_and_gradient(logits, targets, weights=None, **options):
    leaf = logits.detach().requires_grad_()
    loss = soft_cross_entropy(leaf, targets, **options)
    weights = torch.linspace(1, 2, len(loss), device=loss.device) if weights is None else weights
    return loss.detach(), torch.autograd.grad(loss, leaf, weights.to(loss.dtype))[0]


def close(logits, targets, index=None, **options):
    """The kernel against the reference in float64, of the numbers that both are given."""
    loss, gradient = value_and_gradient(logits, targets, target_index=index, backend="fused", **options)
    exact, slope = value_and_gradient(logits.double(), targets.double(), target_index=index, backend="reference", **options)
    assert (loss.shape, loss.dtype, loss.stride()) == (exact.shape, torch.float32, exact.stride())
    assert (gradient.shape, gradient.dtype) == (slope.shape, logits.dtype)
    assert gradient.is_contiguous()
    assert (loss.double() - exact).norm() <= 1e-6 * exact.norm()
    assert (gradient.double() - slope).norm() <= ROUNDING[logits.dtype] * slope.norm()
    return loss, gradient


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(0, 5), classes=st.one_of(st.integers(2, 40), st.sampled_from([511, 512, 513, 1000, 2048, 2052, 4099])),
       kinds=st.integers(1, 4), indexed=st.booleans(), temperature=st.sampled_from([0.02, 0.1, 1.0, 7.0]), dtype=st.sampled_from(FLOATS),
       of_targets=st.sampled_from(FLOATS), id_type=st.sampled_from([torch.int64, torch.int32]), count=st.sampled_from([1, 132]),
       seed=st.integers(0, 99))  # fmt: skip
@example(rows=0, classes=7, kinds=1, indexed=True, temperature=1.0, dtype=torch.float32, of_targets=torch.float32, id_type=torch.int64,
         count=132, seed=0)  # fmt: skip
@example(rows=2, classes=20481, kinds=2, indexed=True, temperature=0.1, dtype=torch.bfloat16, of_targets=torch.float32,
         id_type=torch.int32, count=132, seed=0)  # fmt: skip
@example(rows=5, classes=8192, kinds=2, indexed=True, temperature=0.1, dtype=torch.bfloat16, of_targets=torch.float32,
         id_type=torch.int64, count=1, seed=0)  # fmt: skip
def test_equals_the_reference(device, rows, classes, kinds, indexed, temperature, dtype, of_targets, id_type, count, seed):
    logits, targets, index = inputs(device, rows, classes, kinds if indexed else max(rows, 1), seed, dtype, of_targets)
    with processors(count):
        close(logits, targets if indexed else targets[:rows], index.to(id_type) if indexed else None, temperature=temperature)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("count", [1, 132])
def test_a_sharp_softmax(device, dtype, count):
    """z from -150 to 150, as of DINO's student at its sharpest."""
    logits, targets, index = inputs(device, 6, 5000, 3, dtype=dtype, size=3)
    with processors(count):
        close(logits, targets / 5000, index, temperature=0.02)
        close(logits, (targets * 12).softmax(dim=1), index, temperature=0.02)


def test_a_small_loss_of_large_logits_keeps_its_digits(device):
    """z about 150, and targets that are right: the difference of n logsumexp and <q, z> would be off by 1e-5 everywhere."""
    near = 3 - torch.arange(1, 5)[:, None] / 64 * torch.tensor([0, 1, 2, 200])
    logits, targets = near.to(device), torch.tensor([[1.0, 0, 0, 0]], device=device).expand(4, -1)
    loss = soft_cross_entropy(logits, targets, temperature=0.02, backend="fused")
    exact = soft_cross_entropy(logits.double(), targets, temperature=0.02, backend="reference")
    # The interpreter rounds a product before it is subtracted from.
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=2e-5 if INTERPRETED else 2e-7)


def test_extremes(device):
    """z of a million, whose float32 are 1/16 apart."""
    big = torch.tensor([[1e4, -1e4, 0.0], [3e4, 3e4, 3e4], [-3e4, -3e4, 3e4]], device=device)
    q = torch.tensor([[0.0, 1.0, 0.0], [0.2, 0.3, 0.5], [0.0, 0.0, 0.0]], device=device)
    loss, gradient = value_and_gradient(big, q, temperature=0.03, backend="fused")
    exact, slope = value_and_gradient(big.double(), q.double(), temperature=0.03, backend="reference")
    assert (loss[2], *gradient[2]) == (0, 0, 0, 0)
    bound = 2**-4 if INTERPRETED else 1e-5
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=bound)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-6, atol=bound * 2 / 0.03)


@pytest.mark.parametrize("size", [0.1, 3.0])
def test_one_class(device, size):
    """All of the probability is on it: the loss and its gradient are 0, to the rounding of z and of the weight."""
    logits, targets, index = inputs(device, 5, 1, 3, size=size)
    loss, gradient = value_and_gradient(logits, targets, target_index=index, temperature=0.1, backend="fused")
    assert loss.abs().max() <= 1e-5
    assert gradient.abs().max() <= 1e-5 * 2 / 0.1


def test_strides(device):
    """Rows are read where they are, other layouts are copied; starts off 16 bytes take narrower loads."""
    rows, classes = 4, 40
    logits, targets, index = inputs(device, rows, 2 * classes + 1, rows)
    for dtype in (torch.float32, torch.bfloat16):
        wide, q = logits.to(dtype), targets
        views = [wide[:, :classes], wide[:, 1 : classes + 1], wide[:, 4 : classes + 4], wide[:, :-1:2], wide[:1, :classes].expand(rows, -1),
                 wide[:, :classes].T.contiguous().T, torch.cat([wide, wide])[::2, :classes]]  # fmt: skip
        for x in views:
            for weights in (q[:, :classes], q[:, 3 : classes + 3], q[:, :-1:2], q[:1, :classes].expand(rows, -1)):
                close(x, weights, temperature=0.1)
    x, q = logits[:, :classes], targets[:, :classes]
    for which in (torch.stack([index, 0 * index], dim=1)[:, 0], index[:1].expand(rows)):
        close(x, q, which)
    for grad in (torch.tensor(0.5, device=device).expand(rows), torch.linspace(1, 2, 2 * rows, device=device)[::2]):
        close(x, q, index, weights=grad)


def test_a_lane_takes_what_begins_on_its_words(device):
    """Numbers of one lane are read at once: rows, their length and their start are multiples of them. The interpreter would not mind."""
    for dtype, columns, most in ((torch.float32, slice(0, 64), 4), (torch.bfloat16, slice(0, 64), 8), (torch.bfloat16, slice(4, 64), 4),
                                 (torch.bfloat16, slice(0, 62), 2), (torch.float32, slice(1, 65), 1)):  # fmt: skip
        x = torch.zeros(3, 128, dtype=dtype, device=device)[:, columns]
        assert fused._read(x, x.contiguous(), None)[3]["V"] == most
    assert fused._read(torch.zeros(3, 65, device=device)[:, :64], torch.zeros(3, 64, device=device), None)[3]["V"] == 1


def test_a_foreign_index_reads_nothing(device):
    """Where the reference would raise, the kernel gives NaN: no memory of others is read, and the mistake is loud."""
    logits, targets, _ = inputs(device, 6, 20, 3)
    index = torch.tensor([0, 3, -1, 2, 2**40, -(2**40)], device=device)
    for count in (1, 132):
        with processors(count):
            loss, gradient = value_and_gradient(logits, targets, target_index=index, backend="fused")
        assert loss.isnan().tolist() == [False, True, True, False, True, True]
        assert torch.equal(gradient.isnan().all(dim=1), loss.isnan())
        assert torch.equal(gradient.isnan().any(dim=1), loss.isnan())
    assert soft_cross_entropy(logits, targets[:0], target_index=index, backend="fused").isnan().all()


def test_numbers_beside_the_rows_never_leak(device):
    """NaN behind the last class, and in targets that no row takes."""
    logits, targets = (torch.full((4, 24), math.nan, device=device) for _ in range(2))
    some, weights, _ = inputs(device, 4, 20, 4)
    logits[:, :20], targets[:3, :20] = some, weights[:3]
    index = torch.tensor([0, 2, 2, 1], device=device)
    torch.testing.assert_close(close(logits[:, :20], targets[:, :20], index), close(some, weights, index))


@pytest.mark.parametrize("blocks", [1, 2, 3, 5, 8, 9, 15, 32, 33])
def test_no_slice_is_empty(blocks):
    for rows in (1, 2, 66, 100, 264, 528, 640, 10**6):
        for count in (1, 108, 132):
            share, slices = fused._slices(rows, blocks, count)
            assert 1 <= slices <= 8
            assert (slices - 1) * share < blocks <= slices * share
            assert slices == 1 or (slices - 1) * rows < 4 * count  # not cut further than the processors need


def test_slices_and_runs_give_the_same(device):
    logits, targets, index = inputs(device, 3, 20000, 2, dtype=torch.bfloat16)
    results = []
    for count in (1, 2, 132, 132):
        with processors(count):
            results.append(value_and_gradient(logits, targets, target_index=index, temperature=0.1, backend="fused"))
    assert all(map(torch.equal, results[2], results[3]))
    for other in results[1:]:
        torch.testing.assert_close(other[0], results[0][0], rtol=1e-6, atol=0)


def test_offsets_beyond_two_to_the_31(device):
    """Rows 2^31 + 64 numbers apart, in memory of which only a few pages are ever touched."""
    memory = torch.empty(2 * (2**31 + 64) + 64, dtype=torch.float16, device=device)
    far = memory.as_strided((3, 16), (2**31 + 64, 1))
    near, other, index = inputs(device, 3, 16, 3, dtype=torch.float16)
    far.copy_(near)
    assert all(map(torch.equal, close(far, other, index), close(near, other, index)))
    far.abs_()
    assert all(map(torch.equal, close(near, far, index), close(near, near.abs(), index)))


def test_what_cannot_run_says_so(device):
    x, q = torch.ones(2, 3, device=device), torch.ones(2, 3, device=device)
    many = torch.ones(1, 1, device=device).expand(1, 2**24 + 1)
    for logits, targets, reason in [
        (x.double(), q, f"{device} and torch.float64"),
        (x, q.double(), "torch.float64"),
        (many, many, "16777217 classes"),
    ]:
        with pytest.raises(ValueError, match=f'{NAME}: got backend="fused", but {NAME} has no fused version for {reason}; expected "auto"'):
            soft_cross_entropy(logits, targets, backend="fused")
    for logits, targets in ((x.double(), q), (x, q.double())):  # "auto" takes the reference
        torch.testing.assert_close(soft_cross_entropy(logits, targets).float(), torch.full((2,), 3 * math.log(3), device=device))
    assert explain(NAME, x, "fused").version == "fused"
    assert explain(NAME, x).version == ("reference" if INTERPRETED else "fused")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_registration_is_sound(device, monkeypatch):
    logits, targets, index = inputs(device, 5, 7, 5)
    monkeypatch.setattr(_launch, "empty", lambda like, *shape, dtype=None: like.new_empty(shape, dtype=dtype))  # no borders: offsets are 0
    for x, i, expected in ((logits.requires_grad_(), index, 0.2), (logits.detach(), None, None)):
        torch.library.opcheck(torch.ops.sslkit.soft_cross_entropy.default, (x, targets, i, 0.3, expected, "fused"))
    saved, grad = torch.rand(2, 5, generator=seeded()).to(device), torch.linspace(1, 2, 5, device=device)
    torch.library.opcheck(torch.ops.sslkit.soft_cross_entropy_backward.default,
                          (grad, logits.detach(), targets, index, saved, 0.3, "fused"))  # fmt: skip


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles(device, backend):
    torch.compiler.reset()
    logits, targets, index = inputs(device, 5, 40, 3)
    results = []
    for call in (torch.compile(soft_cross_entropy, fullgraph=True, backend=backend), soft_cross_entropy):
        leaf = logits.clone().requires_grad_()
        loss = call(leaf, targets, target_index=index, temperature=0.1, expected_gradient=0.2, backend="fused")
        results.append((loss, *torch.autograd.grad(loss.mean(), leaf)))
    assert all(map(torch.equal, *results))


def test_of_dino(device):
    """Ten views of three pictures: `use_backend` reaches the loss, in both passes and in autocast."""
    from sslkit.kernels import use_backend

    student = torch.randn(10, 3, 96, generator=seeded()).to(device).requires_grad_()
    teacher = torch.randn(2, 3, 96, generator=seeded(1)).to(device).softmax(dim=-1)
    results = []
    for backend in ("fused", "reference"):
        with use_backend(backend), torch.autocast(device, dtype=torch.bfloat16):
            loss = dino_loss(student, teacher)
        results.append((loss.detach(), *torch.autograd.grad(loss, student)))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-7)
