"""Cross-entropy against weighted classes: a loop, linearity, gradients of both forms, registration, dtypes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.operations import seeded
from torch._subclasses import FakeTensorMode
from torch.nn import functional

from sslkit.kernels import explain, soft_cross_entropy, use_backend
from sslkit.kernels._soft_cross_entropy import blocks, cpu, reference
from sslkit.testing import proves

NAME = "kernels.soft_cross_entropy"
forms = pytest.mark.parametrize("backend", ["auto", "reference"])


def inputs(rows=5, classes=7, kinds=3, dtype=torch.float64, seed=0):
    """Logits that require grad, weights that do not sum to 1, and an index into them."""
    logits = torch.randn(rows, classes, generator=seeded(seed), dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.rand(kinds, classes, generator=seeded(seed + 1), dtype=torch.float64).to(dtype)
    return logits, targets, torch.randint(max(kinds, 1), (rows,), generator=seeded(seed + 2))


@proves(NAME, "loop", "property")
@settings(max_examples=40)
@given(rows=st.integers(0, 6), classes=st.integers(1, 9), kinds=st.integers(1, 4), indexed=st.booleans(), temperature=st.floats(0.02, 5),
       backend=st.sampled_from(["auto", "reference"]), seed=st.integers(0, 99))  # fmt: skip
def test_equals_a_loop(rows, classes, kinds, indexed, temperature, backend, seed):
    logits, targets, index = inputs(rows, classes, kinds if indexed else rows, seed=seed)
    index = index if indexed else None
    got = soft_cross_entropy(logits, targets, target_index=index, temperature=temperature, backend=backend)
    assert got.shape == (rows,)
    for r in range(rows):
        q, z = targets[index[r] if indexed else r], logits[r].detach() / temperature
        expected = -sum(
            q[k] * (z[k] - z.exp().sum().log() if z.abs().max() < 300 else functional.log_softmax(z, 0)[k]) for k in range(classes)
        )
        torch.testing.assert_close(got[r].detach(), expected)


@proves(NAME, "gradcheck")
@forms
def test_gradients_are_exact_whatever_comes_back(backend):
    logits, targets, index = inputs()
    weights = torch.rand(5, generator=seeded(9), dtype=torch.float64)
    for factor in (torch.ones(5, dtype=torch.float64), weights):
        assert torch.autograd.gradcheck(
            lambda x, f=factor: soft_cross_entropy(x, targets, target_index=index, temperature=0.3, backend=backend) * f, logits
        )
    for hint in (1.0, 0.2, 7.0):  # it comes true, or not: the same gradient
        loss = soft_cross_entropy(logits, targets, target_index=index, temperature=0.3, expected_gradient=hint, backend=backend).mean()
        exact = torch.autograd.grad(functional.cross_entropy(logits / 0.3, targets[index], reduction="none").mean(), logits)[0]
        first = torch.autograd.grad(loss, logits, retain_graph=True)[0].clone()
        torch.testing.assert_close(first, exact)
        torch.testing.assert_close(torch.autograd.grad(2 * loss, logits)[0], 2 * exact)  # a graph may be used twice


def test_a_retained_graph_wants_the_gradient_that_it_gave_out():
    """The gradient is not copied; autograd sees that it was changed."""
    logits, targets, index = inputs()
    loss = soft_cross_entropy(logits.view(5, 7), targets, target_index=index, expected_gradient=1.0).sum()
    loss.backward(retain_graph=True)
    logits.grad.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@forms
@pytest.mark.parametrize("hint", [0.0, -3.0, 1e-44, 1e38, 1e300, math.inf, math.nan])
def test_no_expectation_spoils_the_gradient(backend, hint):
    """float32, in which some of these are nothing or infinite."""
    logits, targets, index = inputs(dtype=torch.float32)
    exact, found = (
        torch.autograd.grad(soft_cross_entropy(logits, targets, target_index=index, backend=b, expected_gradient=e).mean(), logits)[0]
        for b, e in (("reference", 1.0), (backend, hint))
    )
    torch.testing.assert_close(found, exact)


@proves(NAME, "property")
@forms
def test_linear_in_the_targets_and_blind_to_a_shift(backend):
    logits, targets, _ = inputs(kinds=5)
    more = torch.rand(5, 7, generator=seeded(5), dtype=torch.float64)
    one, other, both = (soft_cross_entropy(logits, q, temperature=0.5, backend=backend) for q in (targets, more, targets + 2 * more))
    torch.testing.assert_close(one + 2 * other, both)
    torch.testing.assert_close(soft_cross_entropy(logits + 100, targets, temperature=0.5, backend=backend), one)
    hard = functional.one_hot(torch.arange(5), 7).double()
    torch.testing.assert_close(
        soft_cross_entropy(logits, hard, backend=backend), functional.cross_entropy(logits, torch.arange(5), reduction="none")
    )
    (gradient,) = torch.autograd.grad(one.sum(), logits)
    torch.testing.assert_close(gradient.sum(dim=1), torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize("rows", [1, 3])  # of a block; of three, the last block has two
def test_blocks_do_not_show(monkeypatch, rows):
    logits, targets, index = inputs(rows=11, kinds=14, dtype=torch.float32)
    logits, together = logits.detach(), torch.arange(2, 13)
    choices = [(targets[:11], None), (targets, index), (targets, together), (targets, torch.cat([together[:5], index[:6]]))]
    whole = [cpu.forward(logits, q, which, 0.1, 0.5) for q, which in choices]
    monkeypatch.setattr(cpu, "CACHE", 7 * rows)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert len(list(cpu.blocks(logits))) == -(-11 // rows)
    for (q, which), expected in zip(choices, whole, strict=True):
        torch.testing.assert_close(cpu.forward(logits, q, which, 0.1, 0.5), expected, rtol=1e-6, atol=1e-6)
    half = logits.half()[:, ::2]  # strided
    for q, which in ((targets[:, ::2], index), (targets[:11, ::2], None)):
        (loss, saved), expected = (version.forward(half, q, which, 0.1) for version in (blocks, reference))
        torch.testing.assert_close((loss, saved), expected)
        grad = torch.linspace(-1, 1, 11)
        gradient, slope = (version.backward(grad, half, q, which, saved, 0.1) for version in (blocks, reference))
        assert gradient.is_contiguous()
        torch.testing.assert_close(gradient, slope)


@proves(NAME, "property")
@forms
def test_extreme_logits_and_strides(backend):
    big = torch.tensor([[1e4, -1e4, 0.0], [3e4, 3e4, 3e4]], requires_grad=True)
    q = torch.tensor([[0.0, 1.0, 0.0], [0.2, 0.3, 0.5]])
    loss = soft_cross_entropy(big, q, temperature=0.04, backend=backend)
    torch.testing.assert_close(loss, torch.tensor([2e4 / 0.04, 3**0.5 * 0 + torch.tensor(3.0).log().item()]), rtol=1e-4, atol=2e-1)
    assert torch.autograd.grad(loss.sum(), big)[0].isfinite().all()
    wide = torch.randn(4, 10, generator=seeded())
    for view in (wide[:, ::2], wide[::2, :5], wide.T[:4, :4], wide[:1].expand(3, -1)):
        targets = torch.rand(view.shape, generator=seeded(1))
        torch.testing.assert_close(
            soft_cross_entropy(view, targets, backend=backend), soft_cross_entropy(view.contiguous(), targets, backend=backend)
        )


@proves(NAME, "half")
@forms
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_sixteen_bits(backend, dtype, autocast):
    """float32 inside: the loss of the same numbers to rounding, a gradient that is rounded once; targets of another dtype."""
    logits, targets, index = inputs(6, 64, dtype=dtype)
    exact = logits.detach().double().requires_grad_()
    expected = soft_cross_entropy(exact, targets.double(), target_index=index, temperature=0.05)
    (to_exact,) = torch.autograd.grad(expected.sum(), exact)
    for q in (targets, targets.float()):
        with torch.autocast("cpu", dtype=dtype, enabled=autocast):
            loss = soft_cross_entropy(logits, q, target_index=index, temperature=0.05, backend=backend)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert gradient.dtype == dtype
        assert (gradient.double() - to_exact).norm() <= 2 * (to_exact.to(dtype).double() - to_exact).norm()


@proves(NAME, "half")
@forms
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_a_loss_scale_finds_nothing_lost(backend, dtype, temperature):
    """A mean over many rows and classes has a gradient below the least float16, which the scale of the loss comes too late to lift."""
    logits, targets, index = inputs(48, 32768, kinds=8, dtype=dtype)
    targets, exact = (6 * targets).float().softmax(dim=1).to(dtype), logits.detach().double().requires_grad_()

    def gradient(x, q, backend):
        rows = soft_cross_entropy(x, q, target_index=index, temperature=temperature, expected_gradient=1 / 48, backend=backend)
        return torch.autograd.grad(2**16 * rows.mean(), x)[0]

    found, slope = gradient(logits, targets, backend), gradient(exact, targets.double(), "reference")
    assert (found.double() - slope).norm() <= 2 * (slope.to(dtype).double() - slope).norm()


@forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_registration_is_sound(backend, dtype):
    logits, targets, index = inputs(dtype=dtype)
    for x, i, expected in ((logits, index, 0.2), (logits.detach(), None, None)):
        q = targets if i is not None else targets.repeat(2, 1)[:5]
        torch.library.opcheck(torch.ops.sslkit.soft_cross_entropy.default, (x, q, i, 0.3, expected, backend))
    saved = torch.rand(2, 5, generator=seeded())
    torch.library.opcheck(torch.ops.sslkit.soft_cross_entropy_backward.default,
                          (torch.rand(5), logits.detach(), targets, index, saved, 0.3, backend))  # fmt: skip


@proves(NAME, "compile")
@forms
def test_compiles_in_one_graph_forward_and_backward(backend):
    torch.compiler.reset()
    logits, targets, index = inputs(dtype=torch.float32)

    def step(x):
        return soft_cross_entropy(x, targets, target_index=index, temperature=0.3, expected_gradient=0.2, backend=backend).mean()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits), step(logits))
    torch.testing.assert_close(*(torch.autograd.grad(f(logits), logits)[0] for f in (compiled, step)))


def test_sizes_are_known_without_numbers_and_nothing_is_formed_in_vain():
    with FakeTensorMode():
        x = torch.empty(5, 7, device="cuda")
        assert soft_cross_entropy(x, torch.empty(5, 7, device="cuda")).shape == (5,)
    logits, targets, index = inputs(dtype=torch.float32)
    for gradient in (True, False):
        with torch.set_grad_enabled(gradient):
            _, saved = torch.ops.sslkit.soft_cross_entropy(logits, targets, index, 1.0, 1.0 if gradient else None, "auto")
            assert saved.shape == (logits.shape if gradient else (0,))
    assert explain("soft_cross_entropy", logits).version == "reference"
    with use_backend("reference"):
        assert explain("soft_cross_entropy", logits).reason == "asked for by name"


@proves(NAME, "errors")
def test_wrong_input():
    logits, targets, index = inputs()
    for arguments, options, message in [
        ((logits, targets), {}, r"got targets \[3, 7\] with rows=3; expected rows=5 as in logits"),
        ((logits, targets[:, :6]), {"target_index": index}, "with classes=6; expected classes=7"),
        ((logits, targets), {"target_index": index[:4]}, "with rows=4"),
        ((logits, targets), {"target_index": index, "temperature": 0.0}, "got temperature=0.0; expected a finite temperature above 0"),
        ((logits[:, :0], targets[:, :0]), {"target_index": index}, "expected at least one class"),
        (
            (logits, targets),
            {"target_index": index, "backend": "fused"},
            'got backend="fused", but soft_cross_entropy has no fused version',
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            soft_cross_entropy(*arguments, **options)
    with pytest.raises(TypeError, match="got targets of dtype torch.int64; expected a floating dtype"):
        soft_cross_entropy(logits, targets.long(), target_index=index)
    with pytest.raises(TypeError, match="got target_index of dtype torch.bool"):
        soft_cross_entropy(logits, targets, target_index=index.bool())


@proves(NAME, "errors")
@forms
@pytest.mark.parametrize("last", [[2, 3], [-1, 0], [0, 3], [-1, -1]])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_foreign_index_is_refused(backend, last, dtype):
    logits, targets, index = inputs(dtype=dtype)
    index[3:] = torch.tensor(last)
    for rows in (slice(3, 5), slice(None)):  # all lie together, or not
        with pytest.raises(IndexError, match="out of range"):
            soft_cross_entropy(logits[rows], targets, target_index=index[rows], backend=backend)


@proves(NAME, "errors")
@forms
def test_a_second_derivative_is_refused(backend):
    logits, targets, index = inputs()
    loss = soft_cross_entropy(logits, targets, target_index=index, backend=backend)
    with pytest.raises(
        RuntimeError, match=r"soft_cross_entropy: got a gradient of its gradient \(create_graph=True\); expected one derivative"
    ):
        torch.autograd.grad(loss.sum(), logits, create_graph=True)
