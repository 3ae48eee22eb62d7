"""iBOT's patch loss and KoLeo: official numbers, loops, limits."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from sslkit.losses import DINOCenter, ibot_loss, koleo_loss
from sslkit.maskers import RandomMasker
from sslkit.testing import proves, run_in_processes

IBOT, KOLEO = "losses.ibot_loss", "losses.koleo_loss"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tokens(batch=3, count=4, dim=5, seed=0, dtype=torch.float64):
    student = torch.randn(batch, count, dim, generator=seeded(seed), dtype=torch.float64).to(dtype).requires_grad_()
    teacher = torch.randn(batch, count, dim, generator=seeded(seed + 1), dtype=torch.float64).softmax(-1).to(dtype)
    return student, teacher, torch.rand(batch, count, generator=seeded(seed + 2)) < 0.5


@proves(IBOT, "golden")
def test_official_patch_loss(golden):
    """The dense form on all tokens; targets by the centre that the official step used."""
    g = golden("ibot_loss")
    teacher_temperature, temperature = g["temps"].tolist()
    for step in range(3):
        student, mask = g.tensor(f"step{step}/student").requires_grad_(), g.tensor(f"step{step}/mask", torch.bool)
        center = DINOCenter(student.shape[-1])
        center.value.copy_(g.tensor(f"step{step}/center_used").flatten())
        probs = center(g.tensor(f"step{step}/teacher"), teacher_temperature)
        torch.testing.assert_close(probs, g.tensor(f"step{step}/targets"), rtol=1e-4, atol=1e-5)
        loss = ibot_loss(student, probs, mask, student_temperature=temperature)
        loss.backward()
        torch.testing.assert_close(loss.detach(), g.tensor(f"step{step}/loss_dense"), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(student.grad, g.tensor(f"step{step}/grad_student"), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(student.grad[mask], g.tensor(f"step{step}/grad_masked"), rtol=1e-4, atol=1e-5)


@proves(IBOT, "loop", "property")
@settings(max_examples=30)
@given(batch=st.integers(0, 3), count=st.integers(0, 4), dim=st.integers(1, 5), temperature=st.floats(0.05, 2), seed=st.integers(0, 99))
def test_equals_the_loop_over_hidden_patches(batch, count, dim, temperature, seed):
    student, teacher, mask = tokens(batch, count, dim, seed)
    total = 0.0
    for b in range(batch):
        hidden = [n for n in range(count) if mask[b, n]]
        for n in hidden:
            total = total - (teacher[b, n] * functional.log_softmax(student[b, n] / temperature, 0)).sum() / len(hidden)
    got = ibot_loss(student, teacher, mask, student_temperature=temperature)
    torch.testing.assert_close(got, torch.as_tensor(total / max(batch, 1), dtype=torch.float64))


@proves(IBOT, "property", "gradcheck")
def test_hidden_rows_alone_give_the_same_and_visible_ones_nothing():
    student, teacher, _ = tokens()
    mask = RandomMasker(count=2)(3, (2, 2), generator=seeded())
    dense = ibot_loss(student, teacher, mask.mask)
    torch.testing.assert_close(ibot_loss(mask.hidden(student), mask.hidden(teacher)), dense)
    (gradient,) = torch.autograd.grad(dense, student)
    assert gradient[~mask.mask].eq(0).all()
    broken = torch.where(mask.mask[..., None], student.detach(), torch.inf).requires_grad_()
    loss = ibot_loss(broken, teacher, mask.mask)
    torch.testing.assert_close(loss, dense)
    assert torch.autograd.grad(loss, broken)[0].isfinite().all()
    assert ibot_loss(student, teacher, torch.zeros(3, 4, dtype=torch.bool)) == 0
    assert torch.autograd.gradcheck(lambda s: ibot_loss(s, teacher, mask.mask), student)
    assert not ibot_loss(student.detach(), teacher.clone().requires_grad_(), mask.mask).requires_grad


def rank_step(student, teacher, mask, *, group):
    rank, world = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)
    rows = [slice(0, 1), slice(1, 3)][rank] if world == 2 else [slice(0, 2), slice(2, 2), slice(2, 3)][rank]
    leaf = student.clone().requires_grad_()
    loss = ibot_loss(leaf[rows], teacher[rows], mask[rows], group=group)
    loss.backward()
    torch.distributed.all_reduce(leaf.grad, group=group)
    return loss.detach(), leaf.grad / world


@proves(IBOT, "worlds")
@pytest.mark.parametrize("world", [2, 3])
def test_processes_equal_one(world):
    student, teacher, mask = tokens(dtype=torch.float32)
    loss = ibot_loss(student, teacher, mask)
    loss.backward()
    for got in run_in_processes(rank_step, world, student.detach(), teacher, mask):
        torch.testing.assert_close(got[0], loss.detach())
        torch.testing.assert_close(got[1], student.grad)


@proves(IBOT, "half")
@proves(KOLEO, "half")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_sixteen_bits(dtype, autocast):
    student, teacher, mask = tokens(dtype=dtype)
    x = torch.randn(6, 8, generator=seeded()).to(dtype)
    x[1] = x[0]  # a pair of equal rows, whose distance is the epsilon: in 16 bit it would be nothing, and the loss infinite
    x.requires_grad_()
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        losses = ibot_loss(student, teacher, mask), koleo_loss(x)
    exact = ibot_loss(student.double(), teacher.double(), mask), koleo_loss(x.float())
    for loss, expected, leaf in zip(losses, exact, (student, x), strict=True):
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss.double(), expected.double(), rtol=1e-4, atol=1e-5)
        assert torch.autograd.grad(loss, leaf)[0].isfinite().all()


@proves(IBOT, "compile")
@proves(KOLEO, "compile")
def test_compile_in_one_graph():
    torch.compiler.reset()
    student, teacher, mask = tokens(dtype=torch.float32)
    rows = torch.randn(6, 8, generator=seeded(), requires_grad=True)
    for function, leaf in ((partial(ibot_loss, teacher_probs=teacher, mask=mask), student), (koleo_loss, rows)):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(leaf), function(leaf))
        torch.testing.assert_close(*(torch.autograd.grad(f(leaf), leaf)[0] for f in (compiled, function)))


@proves(KOLEO, "golden")
def test_official_spread(golden):
    g = golden("koleo")
    for case in ("a", "b", "pair", "duplicate"):
        x = g.tensor(f"{case}/x").requires_grad_()
        loss = koleo_loss(x)
        loss.backward()
        torch.testing.assert_close(loss.detach(), g.tensor(f"{case}/loss"), rtol=1e-3 if case == "duplicate" else 1e-5, atol=1e-5)
        if case != "duplicate":
            torch.testing.assert_close(x.grad, g.tensor(f"{case}/grad"), rtol=1e-4, atol=1e-5)


@proves(KOLEO, "loop", "property", "gradcheck")
@settings(max_examples=30)
@given(batch=st.integers(2, 6), dim=st.integers(2, 5), seed=st.integers(0, 99))
def test_spread_equals_a_loop_and_does_not_see_lengths_and_turns(batch, dim, seed):
    x = torch.randn(batch, dim, generator=seeded(seed), dtype=torch.float64)
    z = [row / row.norm() for row in x]
    total = 0.0
    for i in range(batch):
        nearest = max((j for j in range(batch) if j != i), key=lambda j: float(z[i] @ z[j]))
        total -= math.log((z[i] - z[nearest] + 1e-8).norm() + 1e-8)
    loss = koleo_loss(x)
    assert loss.item() == pytest.approx(total / batch, rel=1e-9, abs=1e-9)
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=seeded(seed), dtype=torch.float64)).Q
    lengths = torch.rand(batch, 1, generator=seeded(seed), dtype=torch.float64) + 0.5
    torch.testing.assert_close(koleo_loss(lengths * x @ turn), loss, rtol=1e-5, atol=1e-6)
    if batch > 2:
        assert torch.autograd.gradcheck(koleo_loss, x.clone().requires_grad_(), atol=1e-4)


@proves(KOLEO, "property")
def test_a_single_row_has_no_neighbour():
    for batch in (0, 1):
        x = torch.randn(batch, 8, generator=seeded(), requires_grad=True)
        loss = koleo_loss(x)
        assert loss == 0
        assert torch.autograd.grad(loss, x)[0].eq(0).all()
    assert koleo_loss(torch.eye(4)) == pytest.approx(-math.log(2**0.5), abs=1e-6)


@proves(KOLEO, "property")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_rows_without_a_direction_are_not_pushed(dtype):
    """The others' gradients are those of a loss in which the zeros are constants."""
    x = torch.randn(7, 8, generator=seeded(), dtype=torch.float64).to(dtype)
    x[[0, 4, 5]] = 0
    x.requires_grad_()
    loss = koleo_loss(x)
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient[[0, 4, 5]].eq(0).all()
    z = functional.normalize(x.detach().double(), dim=1).requires_grad_()
    nearest = (z @ z.T).fill_diagonal_(-torch.inf).argmax(dim=1)
    distance = (z - z[nearest] + 1e-8).norm(dim=1)
    torch.testing.assert_close(loss.double(), -(distance + 1e-8).log().mean(), rtol=1e-4, atol=1e-5)
    assert koleo_loss(torch.zeros(3, 4)) == pytest.approx(-math.log(3e-8))
    (to_z,) = torch.autograd.grad(-(distance + 1e-8).log().mean(), z)
    kept = [1, 2, 3, 6]
    tangent = to_z - (to_z * z).sum(dim=1, keepdim=True) * z
    expected = tangent[kept] / x.detach().double().norm(dim=1, keepdim=True)[kept]
    rounding = torch.finfo(dtype).eps if dtype.itemsize < 8 else 1e-9
    torch.testing.assert_close(gradient[kept].double(), expected.detach(), rtol=4 * rounding, atol=8 * max(rounding, 1e-9))


@proves(IBOT, "pickle")
@proves(KOLEO, "pickle")
def test_functions_pickle():
    import pickle

    for function in (ibot_loss, koleo_loss):
        assert pickle.loads(pickle.dumps(function)) is function


@proves(IBOT, "errors")
@proves(KOLEO, "errors")
def test_wrong_input():
    student, teacher, mask = tokens()
    for call, message in [
        (lambda: ibot_loss(student, teacher[:, :2], mask), "ibot_loss: got teacher_probs .* with tokens=2; expected tokens=4"),
        (lambda: ibot_loss(student, teacher, mask[:, :2]), "got mask .* with tokens=2"),
        (lambda: ibot_loss(student, teacher, mask.long()), "got mask of dtype torch.int64; expected torch.bool, True = hidden"),
        (lambda: ibot_loss(student, teacher, mask, student_temperature=-1), "got student_temperature=-1"),
        (lambda: koleo_loss(student), "koleo_loss: got x .* 3 axes; expected the axes"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    for call in (lambda: ibot_loss(student.long(), teacher, mask), lambda: koleo_loss(torch.ones(2, 2).long())):
        with pytest.raises(TypeError, match="expected a floating dtype"):
            call()
