"""DINO's loss and centre: official numbers, the loop over pairs, invariances, processes."""

import copy
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from sslkit.losses import DINOCenter, dino_loss, dino_mse_loss
from sslkit.testing import proves, run_in_processes

LOSS, CENTER, MSE = "losses.dino_loss", "losses.DINOCenter", "losses.dino_mse_loss"
CASES = ("two_view", "multicrop", "extreme", "batch1")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def views(student=5, teachers=2, batch=3, dim=7, seed=0, dtype=torch.float64):
    s = torch.randn(student, batch, dim, generator=seeded(seed), dtype=torch.float64).to(dtype).requires_grad_()
    return s, torch.randn(teachers, batch, dim, generator=seeded(seed + 1), dtype=torch.float64).softmax(-1).to(dtype)


def pairs(student, teacher, temperature):
    """Eq. 2, pair by pair and picture by picture."""
    losses = [
        -(teacher[t, b] * functional.log_softmax(student[v, b] / temperature, dim=0)).sum()
        for t in range(len(teacher))
        for v in range(len(student))
        for b in range(student.shape[1])
        if v != t
    ]
    return sum(losses) / len(losses)


@proves(LOSS, "golden")
@proves(CENTER, "golden")
@pytest.mark.parametrize("case", CASES)
def test_official_steps(golden, case):
    """Consecutive calls of one module: loss, gradient, and the centre around each call."""
    g = golden("dino_loss")
    crops, dim, batch, *_, temperature, momentum, steps = g[f"{case}/params"].tolist()
    crops, dim, batch = int(crops), int(dim), int(batch)
    center = DINOCenter(dim, momentum)
    rtol, atol = (1e-5, 1e-4) if case == "extreme" else (1e-5, 1e-6)
    for step in range(int(steps)):
        name = f"{case}/step{step}"
        student = g.tensor(f"{name}/student").view(crops, batch, dim).requires_grad_()
        teacher = g.tensor(f"{name}/teacher").view(2, batch, dim)
        torch.testing.assert_close(center.value, g.tensor(f"{name}/center_before")[0], rtol=1e-5, atol=1e-6)
        loss = dino_loss(student, center(teacher, g.number(f"{name}/teacher_temp")), student_temperature=temperature)
        loss.backward()
        center.update(teacher)
        torch.testing.assert_close(loss.detach(), g.tensor(f"{name}/loss"), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(student.grad.view(-1, dim), g.tensor(f"{name}/grad_student"), rtol=rtol, atol=atol)
        torch.testing.assert_close(center.value, g.tensor(f"{name}/center_after")[0], rtol=1e-5, atol=1e-6)


@proves(LOSS, "half")
@proves(CENTER, "half")
@pytest.mark.parametrize("autocast", [False, True])
def test_official_numbers_from_bfloat16(golden, autocast):
    """The numbers are those of float64 on the same bfloat16 values: nothing is rounded inside."""
    g = golden("dino_loss")
    crops, dim, batch, teacher_temperature, temperature, momentum = g["bf16_values/params"].tolist()
    student = g.tensor("bf16_values/student").view(int(crops), int(batch), int(dim)).bfloat16().requires_grad_()
    teacher = g.tensor("bf16_values/teacher").view(2, int(batch), int(dim)).bfloat16()
    names = {key.split("/")[1]: g.tensor(key) for key in g if key.startswith("bf16_values/") and key.endswith("_f64")}
    center = DINOCenter(int(dim), momentum)
    center.value.copy_(names["center_before_f64"].flatten())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = dino_loss(student, center(teacher, teacher_temperature), student_temperature=temperature)
    loss.backward()
    center.update(teacher)
    torch.testing.assert_close(loss.double(), names["loss_f64"].reshape(()), rtol=1e-5, atol=0)
    exact = next(value for name, value in names.items() if name.startswith("grad")).view_as(student)
    assert (student.grad.double() - exact).norm() <= 2 * (exact.bfloat16().double() - exact).norm()
    torch.testing.assert_close(center.value.double(), names["center_after_f64"].flatten(), rtol=1e-5, atol=1e-6)


@proves(LOSS, "half")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_are_finite_at_a_low_temperature(dtype):
    student, teacher = views(dim=4096, dtype=dtype)
    loss = dino_loss(10 * student, DINOCenter(4096)(30 * teacher, 0.02), student_temperature=0.02)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert gradient.isfinite().all()


@proves(LOSS, "loop", "property")
@settings(max_examples=30)
@given(views_=st.integers(1, 5), teachers=st.integers(1, 3), batch=st.integers(1, 3), dim=st.integers(1, 6), temperature=st.floats(0.05, 2),
       seed=st.integers(0, 99))  # fmt: skip
def test_equals_the_loop_over_pairs(views_, teachers, batch, dim, temperature, seed):
    student, teacher = views(views_, teachers, batch, dim, seed)
    if teachers > views_ or teachers * views_ - teachers == 0:
        with pytest.raises(ValueError, match="another view to compare with"):
            dino_loss(student, teacher)
        return
    loss = dino_loss(student, teacher, student_temperature=temperature)
    expected = pairs(student, teacher, temperature)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, student)[0] for x in (loss, expected)))


@proves(LOSS, "gradcheck")
def test_gradient_is_exact():
    student, teacher = views()
    assert torch.autograd.gradcheck(lambda s: dino_loss(s, teacher, student_temperature=0.5), student)


@proves(LOSS, "property")
def test_invariances():
    student, teacher = views()
    loss = partial(dino_loss, student_temperature=0.3)
    base = loss(student, teacher)
    order, crops = torch.tensor([2, 0, 1]), torch.tensor([0, 1, 4, 2, 3])
    torch.testing.assert_close(loss(student[:, order], teacher[:, order]), base)  # pictures
    torch.testing.assert_close(loss(student[crops], teacher), base)  # local crops
    swap = torch.tensor([1, 0, 2, 3, 4])
    torch.testing.assert_close(loss(student[swap], teacher[[1, 0]]), base)  # the two global views
    torch.testing.assert_close(loss(student + torch.randn(5, 3, 1, generator=seeded(3)), teacher), base)  # a constant a row
    entropy = -(teacher * teacher.log()).sum(-1).mean()
    assert base > entropy
    same = (0.3 * teacher[:1].log()).expand(3, -1, -1)  # the student says what one teacher says, twice
    one = teacher[:1].expand(2, -1, -1)
    torch.testing.assert_close(loss(same, one), -(one * one.log()).sum(-1).mean())
    (gradient,) = torch.autograd.grad(base, student)
    torch.testing.assert_close(gradient.sum(-1), torch.zeros(5, 3, dtype=torch.float64))
    (alone,) = torch.autograd.grad(loss(student[:, :1], teacher[:, :1]) / 3, student)
    torch.testing.assert_close(alone[:, 0], gradient[:, 0])  # of a picture: from that picture alone
    assert not dino_loss(student, teacher.clone().requires_grad_()).isnan()
    assert torch.autograd.grad(dino_loss(student, t := teacher.clone().requires_grad_()), t, allow_unused=True) == (None,)


@proves(LOSS, "compile")
@proves(MSE, "compile")
@pytest.mark.parametrize("function", [dino_loss, dino_mse_loss])
def test_compiles_in_one_graph(function):
    torch.compiler.reset()
    student, teacher = views(dtype=torch.float32)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(*(f(student, teacher) for f in (compiled, function)))
    torch.testing.assert_close(*(torch.autograd.grad(f(student, teacher), student)[0] for f in (compiled, function)))


def rank_step(student, teacher, *, group):
    """Unequal shares of one batch: loss, gradient of the shared logits averaged as DDP does, centre."""
    rank, world = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)
    rows = [slice(0, 1), slice(1, 4)][rank] if world == 2 else [slice(0, 2), slice(2, 2), slice(2, 4)][rank]
    leaf = student.clone().requires_grad_()
    center = DINOCenter(7)
    loss = dino_loss(leaf[:, rows], center(teacher[:, rows], 0.1), group=group)
    mse = dino_mse_loss(leaf[:, rows], teacher[:, rows], group=group)
    (loss + mse).backward()
    torch.distributed.all_reduce(leaf.grad, group=group)
    center.update(teacher[:, rows], group)
    return loss.detach(), mse.detach(), leaf.grad / world, center.value


@proves(LOSS, "worlds")
@proves(CENTER, "worlds")
@proves(MSE, "worlds")
@pytest.mark.parametrize("world", [2, 3])
def test_processes_equal_one(world):
    student, teacher = (x.detach().float() for x in views(batch=4))
    leaf, center = student.clone().requires_grad_(), DINOCenter(7)
    loss, mse = dino_loss(leaf, center(teacher, 0.1)), dino_mse_loss(leaf, teacher)
    (loss + mse).backward()
    center.update(teacher)
    for got in run_in_processes(rank_step, world, student, teacher):
        for a, b in zip(got, (loss.detach(), mse.detach(), leaf.grad, center.value), strict=True):
            torch.testing.assert_close(a, b)


def official_rank(student, teacher, teacher_temperatures, temperature, momentum, *, group):
    rank = torch.distributed.get_rank(group)
    center, out = DINOCenter(student[0][0].shape[-1], momentum), []
    for s, t, teacher_temperature in zip(student[rank], teacher[rank], teacher_temperatures, strict=True):
        s = s.clone().requires_grad_()
        loss = dino_loss(s, center(t, teacher_temperature), student_temperature=temperature)  # local, as the official one
        loss.backward()
        center.update(t, group)
        out.append((loss.detach(), s.grad, center.value.clone()))
    return out


@proves(LOSS, "golden")
@proves(CENTER, "golden")
def test_official_numbers_of_two_processes(golden):
    g = golden("dino_loss_dist2")
    prefix = next(name for name in g if name.endswith("params"))
    crops, dim, *_, temperature, momentum, steps = g[prefix].tolist()
    names = [[f"rank{rank}/step{step}" for step in range(int(steps))] for rank in (0, 1)]
    student = [[g.tensor(f"{n}/student").view(int(crops), -1, int(dim)) for n in rank] for rank in names]
    teacher = [[g.tensor(f"{n}/teacher").view(2, -1, int(dim)) for n in rank] for rank in names]
    temperatures = [g.number(f"{n}/teacher_temp") for n in names[0]]
    for rank, steps_ in enumerate(run_in_processes(official_rank, 2, student, teacher, temperatures, temperature, momentum)):
        for n, (loss, gradient, value) in zip(names[rank], steps_, strict=True):
            torch.testing.assert_close(loss, g.tensor(f"{n}/loss"), rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(gradient.flatten(0, 1), g.tensor(f"{n}/grad_student"), rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(value, g.tensor(f"{n}/center_after")[0], rtol=1e-5, atol=1e-6)


# The centre


@proves(CENTER, "loop", "property")
@given(momentum=st.floats(0, 1), steps=st.integers(0, 5), shift=st.floats(-5, 5))
def test_the_centre_is_a_running_mean(momentum, steps, shift):
    """After n equal batches it is (1 - momentum^n) of their mean; a shift of logits and centre together changes no target."""
    center, logits = DINOCenter(4, momentum), torch.randn(2, 3, 4, generator=seeded())
    before = center.value
    for _ in range(steps):
        center.update(logits)
    assert center.value is before  # in place: who holds it sees it move
    torch.testing.assert_close(center.value, (1 - momentum**steps) * logits.mean(dim=(0, 1)), rtol=1e-4, atol=1e-5)
    probs = center(logits, 0.5)
    torch.testing.assert_close(probs, ((logits - center.value) / 0.5).softmax(-1))
    center.value += shift
    torch.testing.assert_close(center(logits + shift, 0.5), probs, rtol=1e-3, atol=1e-5)


@proves(CENTER, "property")
def test_only_update_moves_the_centre():
    center, logits = DINOCenter(4), torch.randn(5, 4, generator=seeded(), requires_grad=True)
    for mode in (True, False):
        assert not center.train(mode)(logits, 0.1).requires_grad
        assert center.value.eq(0).all()
    center.update(logits[:0])
    assert center.value.eq(0).all()  # of no rows, nothing
    center.eval().update(logits)
    assert center.value.ne(0).all()


@proves(CENTER, "half")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_float32_centre_of_sixteen_bit_logits(dtype):
    """As large as float16 can be, summed over many rows; and a step that is nothing beside the centre in 16 bit."""
    logits, center = torch.full((64, 3), 6e4, dtype=dtype), DINOCenter(3, momentum=0.0)
    center.update(logits)
    assert torch.equal(center.value, logits[0].float())
    center.momentum = 1 - 2**-12
    center.update(0 * logits)
    torch.testing.assert_close(center.value, logits[0].float() * (1 - 2**-12), rtol=1e-7, atol=0)
    assert center.value.to(dtype).eq(logits[0]).all()


@proves(CENTER, "resume", "pickle")
def test_a_saved_centre_goes_on_exactly():
    logits = torch.randn(4, 6, 5, generator=seeded())
    center = DINOCenter(5)
    center.update(logits[0])
    again = DINOCenter(5)
    again.load_state_dict(center.state_dict())
    for other in (again, copy.deepcopy(center)):
        for rows in logits[1:]:
            other.update(rows)
    for rows in logits[1:]:
        center.update(rows)
    assert torch.equal(again.value, center.value)
    assert list(center.state_dict()) == ["value"]


@proves(CENTER, "compile")
def test_the_centre_compiles():
    torch.compiler.reset()
    center, logits = DINOCenter(5), torch.randn(6, 5, generator=seeded())

    def step(x):
        probs = center(x, 0.1)
        center.update(x)
        return probs

    expected = DINOCenter(5)
    torch.testing.assert_close(torch.compile(step, fullgraph=True, backend="aot_eager")(logits), expected(logits, 0.1))
    expected.update(logits)
    torch.testing.assert_close(center.value, expected.value)


# Squared distance


@proves(MSE, "loop", "property", "gradcheck")
@pytest.mark.parametrize("normalize", [True, False])
def test_squared_distance_over_pairs(normalize):
    student, teacher = views()

    def n(x):
        return functional.normalize(x, dim=-1) if normalize else x

    expected = torch.stack([(n(student[v]) - n(teacher[t])).square().sum(-1).mean() for t in range(2) for v in range(5) if v != t]).mean()
    torch.testing.assert_close(dino_mse_loss(student, teacher, normalize=normalize), expected)
    assert torch.autograd.gradcheck(lambda s: dino_mse_loss(s, teacher, normalize=normalize), student)
    if normalize:
        torch.testing.assert_close(dino_mse_loss(3 * student, 2 * teacher), dino_mse_loss(student, teacher))
        assert dino_mse_loss(-teacher.repeat(2, 1, 1), teacher) <= 4


@proves(MSE, "half")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_squared_distance_in_sixteen_bits(dtype, autocast):
    student, teacher = views(dtype=dtype)
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        loss = dino_mse_loss(student, teacher)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), dino_mse_loss(student.double(), teacher.double()), rtol=1e-5, atol=1e-6)
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


@proves(LOSS, "errors")
@proves(CENTER, "errors")
@proves(MSE, "errors")
def test_wrong_input():
    student, teacher = views()
    center = DINOCenter(7)
    for call, message in [
        (lambda: dino_loss(student, teacher[..., :6]), "dino_loss: got teacher_probs .* with dim=6; expected dim=7"),
        (
            lambda: dino_loss(student[:1], teacher[:1]),
            "dino_loss: got 1 student views and 1 teacher views; expected the teacher's views among",
        ),
        (lambda: dino_mse_loss(student[:1], teacher), "dino_mse_loss: got 1 student views and 2 teacher views"),
        (lambda: dino_loss(student, teacher, student_temperature=0), "got student_temperature=0"),
        (lambda: center(teacher[..., :6], 0.1), "DINOCenter: got teacher_logits"),
        (lambda: center(teacher, 0.0), "got temperature=0.0"),
        (lambda: center.update(teacher[..., :6]), "DINOCenter.update: got teacher_logits"),
        (lambda: DINOCenter(7, momentum=1.5), "got momentum=1.5"),
        (lambda: DINOCenter(0), "got dim=0"),
        (lambda: DINOCenter(7).half().update(teacher), "DINOCenter.update: got a centre in torch.float16; expected float32 or wider. To"),
        (lambda: DINOCenter(7).bfloat16().update(teacher), "got a centre in torch.bfloat16"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    for function in (dino_loss, dino_mse_loss):
        with pytest.raises(TypeError, match="expected a floating dtype"):
            function(student.long(), teacher)
