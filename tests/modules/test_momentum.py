"""The teacher: the moving average in a loop, pairing by name, buffers and modes, wrappers, processes, 16-bit students."""

import copy
from functools import partial
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sslkit.modules import DINOHead, MomentumEncoder
from sslkit.optim import clip_each
from sslkit.schedules import cosine
from sslkit.testing import proves, resumes, run_in_processes

NAME = "modules.MomentumEncoder"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(seed=0, dtype=torch.float32):
    """Linear maps, a batch norm, a dropout, and a weight-normed head."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), DINOHead(8, 9, hidden=7, bottleneck=4)).to(dtype)


def shake(module, seed=1):
    """Other numbers in all parameters that learn and in all buffers."""
    with torch.no_grad():
        for i, tensor in enumerate(chain((p for p in module.parameters() if p.requires_grad), module.buffers())):
            noise = torch.randn(tensor.shape, generator=seeded(seed + i))
            tensor.add_(noise.abs().mul(9).ceil().to(tensor.dtype) if not tensor.is_floating_point() else noise.abs().to(tensor.dtype))


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@proves(NAME, "loop", "property")
@settings(max_examples=20)
@given(momenta=st.lists(st.floats(0, 1), max_size=4), seed=st.integers(0, 99))
def test_equals_the_average_number_by_number(momenta, seed):
    student = network(seed, torch.float64)
    teacher = MomentumEncoder(student)
    expected = {name: p.flatten().tolist() for name, p in student.named_parameters()}
    for i, momentum in enumerate(momenta):
        shake(student, i)
        teacher.update(momentum)
        for name, p in student.named_parameters():
            expected[name] = [momentum * a + (1 - momentum) * b for a, b in zip(expected[name], p.flatten().tolist(), strict=True)]
    for name, p in teacher.teacher.named_parameters():
        assert p.flatten().tolist() == pytest.approx(expected[name], rel=1e-12, abs=1e-12), name


@proves(NAME, "golden")
@proves("schedules.cosine", "golden")
def test_official_average_of_byol(golden):
    """Under BYOL's momentum, which rises from 0.996 to 1 by half a cosine."""
    g = golden("byol")
    online, target, tau = g.tensor("ema_online"), g.tensor("ema_target"), g["ema_tau_f64"]
    student = nn.Linear(online.shape[1], 1, bias=False)
    student.weight.data.copy_(target[:1])
    teacher = MomentumEncoder(student)
    for step, row in enumerate(online):
        student.weight.data.copy_(row[None])
        momentum = cosine(step, base=tau[0], final=1.0, steps=len(online))
        assert momentum == pytest.approx(tau[step], abs=1e-12)
        teacher.update(momentum)
        torch.testing.assert_close(teacher.teacher.weight[0], target[step + 1], rtol=1e-5, atol=1e-6)


@proves(NAME, "property")
@settings(max_examples=30)
@given(momentum=st.floats(0, 1), seed=st.integers(0, 99), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_a_number_stays_between_teacher_and_student(momentum, seed, dtype):
    """Exactly: no rounding leads out. Equal numbers stay equal, so what is frozen in the student is constant in the teacher."""
    student = network(seed, dtype)
    teacher = MomentumEncoder(student)
    shake(student, seed)
    before = {name: p.clone() for name, p in teacher.teacher.named_parameters()}
    teacher.update(momentum)
    for name, p in student.named_parameters():
        low, high, now = torch.minimum(p, before[name]), torch.maximum(p, before[name]), teacher.teacher.get_parameter(name)
        assert ((low <= now) & (now <= high)).all()
        if not p.requires_grad:
            assert torch.equal(now, before[name])
    assert before["3.last_layer.weight_g"].eq(1).all()


@proves(NAME, "property")
def test_one_leaves_and_zero_copies_to_the_last_bit():
    student = network()
    teacher = MomentumEncoder(student, buffers="own")
    start = state(teacher.teacher)
    shake(student)
    teacher.update(1)
    assert all(torch.equal(start[name], now) for name, now in teacher.teacher.state_dict().items())
    teacher.update(0)
    for name, p in student.named_parameters():
        assert torch.equal(teacher.teacher.get_parameter(name), p)


@proves(NAME, "half", "property")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_moves_under_a_sixteen_bit_student(dtype):
    """At 0.9995, where the same average in bfloat16 stands still; and it runs under autocast."""
    student = network(dtype=dtype)
    teacher = MomentumEncoder(student)
    assert {p.dtype for p in teacher.teacher.parameters()} == {torch.float32}
    start = {name: p.clone() for name, p in teacher.teacher.named_parameters()}
    with torch.no_grad():
        for p in student.parameters():
            p.mul_(1.5)
    for _ in range(100):
        teacher.update(0.9995)
    for name, p in student.named_parameters():
        if dtype == torch.bfloat16:
            still = start[name].to(dtype)
            assert torch.equal(0.9995 * still + 0.0005 * p, still)
        expected = p.float() + 0.9995**100 * (start[name] - p.float())
        # 100 roundings of float32, each half of 2^-23 of the number
        torch.testing.assert_close(teacher.teacher.get_parameter(name), expected, rtol=100 * 2**-24, atol=1e-9)
    with torch.autocast("cpu", dtype):
        assert teacher(torch.randn(3, 6, generator=seeded())).isfinite().all()


@proves(NAME, "property")
def test_pairs_by_name_whatever_the_order():
    class Other(nn.Module):
        def __init__(self, names):
            super().__init__()
            for i, name in enumerate(names):
                self.register_parameter(name, nn.Parameter(torch.full((2,), float(i))))

    student = Other("abc")
    teacher = MomentumEncoder(student)
    teacher.teacher = Other("cab").requires_grad_(False)
    teacher.update(0)
    assert {name: p[0].item() for name, p in teacher.teacher.named_parameters()} == {"a": 0, "b": 1, "c": 2}


@proves(NAME, "property")
def test_tied_parameters_move_once_and_stay_tied():
    student = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    student[1].weight = student[0].weight
    teacher = MomentumEncoder(student)
    start = teacher.teacher[0].weight.clone()
    student[0].weight.data += 1
    teacher.update(0.5)
    assert teacher.teacher[0].weight is teacher.teacher[1].weight
    torch.testing.assert_close(teacher.teacher[0].weight, start + 0.5)


@proves(NAME, "property")
def test_carries_no_gradient_and_holds_the_student_outside():
    student = network()
    teacher = MomentumEncoder(student)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for name, p in student.named_parameters() if "weight_g" not in name)
    x = torch.randn(3, 6, generator=seeded(), requires_grad=True)
    assert not teacher(x).requires_grad
    assert {name.split(".", 1)[0] for name in teacher.state_dict()} == {"teacher"}
    assert {name.removeprefix("teacher.") for name in teacher.state_dict()} == set(student.state_dict())
    assert not {id(p) for p in teacher.parameters()} & {id(p) for p in student.parameters()}


@proves(NAME, "property")
def test_reads_no_value():
    """A meta tensor has none: whatever waited for the device would fail here."""
    with torch.device("meta"):
        teacher = MomentumEncoder(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)))
    teacher.update(0.9)
    assert teacher.teacher[0].weight.is_meta


# Buffers and modes


@proves(NAME, "property")
def test_copied_buffers_and_a_teacher_that_is_never_in_training_mode():
    student = network()
    teacher = MomentumEncoder(student).train()
    shake(student)
    teacher.update(0.9)
    for name, buffer in student.named_buffers():  # integers and floats: copied, not averaged
        assert torch.equal(teacher.teacher.get_buffer(name), buffer)
    before, x = state(teacher), torch.randn(5, 6, generator=seeded())
    assert teacher.training
    assert not any(module.training for module in teacher.teacher.modules())
    torch.testing.assert_close(teacher(x[:1]), teacher(x)[:1])  # a sample by itself: no dropout, no statistics of a batch
    assert all(torch.equal(before[name], now) for name, now in teacher.state_dict().items())


@proves(NAME, "property")
def test_own_statistics_are_those_of_the_batches_it_has_seen():
    student, plain = network(), network()
    teacher = MomentumEncoder(student, buffers="own")
    shake(student)
    teacher.update(1)
    plain[2].p = 0.0  # the teacher drops nothing
    for i in range(3):
        x = torch.randn(5, 6, generator=seeded(i))
        torch.testing.assert_close(teacher(x), plain(x))
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(teacher.teacher.get_buffer(name), buffer)
        assert not torch.equal(buffer, student.get_buffer(name))
    before, x = state(teacher), torch.randn(5, 6, generator=seeded(9))
    torch.testing.assert_close(teacher.eval()(x), plain.eval()(x))
    assert all(torch.equal(before[name], now) for name, now in teacher.state_dict().items())
    assert [m.training for m in teacher.train().teacher.modules()] == [isinstance(m, nn.BatchNorm1d) for m in plain.modules()]


# Saved, copied, wrapped


@proves(NAME, "resume", "property")
@pytest.mark.parametrize("buffers", ["copy", "own"])
def test_a_saved_teacher_goes_on_exactly(buffers):
    """Also: saving and updating commute."""
    student = network()
    teacher = MomentumEncoder(student, buffers=buffers)
    shake(student)

    def step(module):
        module.update(0.7)
        module(torch.linspace(-1, 1, 24).view(4, 6))

    resumes(teacher, step, fresh=lambda: MomentumEncoder(student, buffers=buffers))
    other = MomentumEncoder(student, buffers=buffers)
    other.load_state_dict(teacher.state_dict())
    for module in (teacher, other):
        module.update(0.3)
    assert all(torch.equal(other.state_dict()[name], now) for name, now in teacher.state_dict().items())


@proves(NAME, "pickle")
def test_copied_together_the_copies_belong_together():
    student = network()
    pair = copy.deepcopy(nn.ModuleDict({"student": student, "teacher": MomentumEncoder(student)}))
    shake(pair["student"])
    pair["teacher"].update(0)
    assert torch.equal(pair["teacher"].teacher[0].weight, pair["student"][0].weight)
    assert not torch.equal(pair["student"][0].weight, student[0].weight)


def compiled_inside(student):
    student[0] = torch.compile(student[0], backend="eager")
    return student


@proves(NAME, "property")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("wrap", [partial(torch.compile, backend="eager"), nn.DataParallel, compiled_inside])
def test_follows_a_wrapped_student(wrap, when):
    student = network()
    wrapped = wrap(student) if when == "before" else student
    teacher = MomentumEncoder(wrapped)
    if when == "after":
        wrap(student)
    shake(student)
    teacher.update(0)
    own, theirs = (sum(p.double().sum() for p in m.parameters()) for m in (teacher, student))
    assert own == theirs
    assert not isinstance(teacher.teacher, torch._dynamo.OptimizedModule)


@proves(NAME, "property")
def test_follows_torchs_weight_norm():
    student = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
    teacher = MomentumEncoder(student)
    shake(student)
    gain, direction = (p.detach().clone() for name, p in teacher.teacher.named_parameters() if "original" in name)
    teacher.update(0.5)
    g, v = ((a + b) / 2 for a, b in zip((gain, direction), (p for n, p in student.named_parameters() if "original" in n), strict=True))
    x = torch.randn(2, 3, generator=seeded())
    torch.testing.assert_close(teacher(x), x @ (g * v / v.norm(dim=1, keepdim=True)).T + teacher.teacher.bias)


def share(rank, world, batch=5):
    """Unequal rows of one batch; of three processes the second has none."""
    return [slice(0, 1), slice(1, batch)][rank] if world == 2 else [slice(0, 2), slice(2, 2), slice(2, batch)][rank]


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), DINOHead(5, 9, hidden=7, bottleneck=4)).double()


def run(student, teacher, batches, rows, world):
    """Steps on this rank's rows; averaging the gradients of ranks gives that of the whole batch."""
    optimizer = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], lr=0.5)
    for x in batches:
        optimizer.zero_grad()
        (student(x[rows]).square().sum() * world / len(x)).backward()
        optimizer.step()
        teacher.update(0.6)


def rank_run(batches, *, group):
    rank, world = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)
    student = DistributedDataParallel(small(), process_group=group)
    teacher = MomentumEncoder(student)
    run(student, teacher, batches, share(rank, world), world)
    return state(teacher)


@proves(NAME, "worlds")
@pytest.mark.parametrize("world", [2, 3])
def test_teachers_of_wrapped_students_equal_that_of_one_process(world):
    batches = list(torch.randn(3, 5, 6, generator=seeded(), dtype=torch.float64))
    student = small()
    teacher = MomentumEncoder(student)
    start = state(teacher)
    run(student, teacher, batches, slice(None), 1)
    assert not torch.equal(start["teacher.0.weight"], teacher.teacher[0].weight)
    for got in run_in_processes(rank_run, world, batches):
        for name, tensor in teacher.state_dict().items():
            torch.testing.assert_close(got[name], tensor)


def shard_run(x, *, group):
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    mesh = DeviceMesh.from_group(group, "cpu")
    student = small()
    teacher = MomentumEncoder(student)
    fully_shard(student, mesh=mesh)
    try:
        teacher.update(0.6)
    except ValueError as error:
        message = str(error)
    fully_shard(teacher.teacher, mesh=mesh, reshard_after_forward=True)
    logits = teacher(x)
    student(x).square().mean().backward()
    norms = clip_each(student.parameters(), 1e-3)
    torch.optim.SGD(student.parameters(), lr=0.5).step()
    teacher.update(0.6)
    return message, logits, norms.full_tensor(), {name: p.full_tensor() for name, p in teacher.teacher.named_parameters()}


@proves(NAME, "property")
@proves("optim.clip_each", "property")
def test_a_student_in_shards_is_clipped_and_followed_as_a_whole_one():
    x, student = torch.randn(4, 6, generator=seeded(), dtype=torch.float64), small()
    teacher = MomentumEncoder(student)
    logits = teacher(x)
    student(x).square().mean().backward()
    norms = clip_each(student.parameters(), 1e-3)
    torch.optim.SGD([p for p in student.parameters() if p.requires_grad], lr=0.5).step()
    teacher.update(0.6)
    for message, *got in run_in_processes(shard_run, 2, x):
        assert "got one of teacher and student in shards; expected both, or neither. To mend: fully_shard(teacher.teacher" in message
        for a, b in zip(got, (logits, norms, dict(teacher.teacher.named_parameters())), strict=True):
            torch.testing.assert_close(a, b)


@proves(NAME, "errors")
def test_errors():
    student = network()
    with pytest.raises(ValueError, match='MomentumEncoder: got buffers=\'ema\'; expected "copy" or "own"'):
        MomentumEncoder(student, buffers="ema")
    teacher = MomentumEncoder(student)
    for momentum in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=rf"MomentumEncoder.update: got momentum={momentum}; expected momentum in \[0, 1\]"):
            teacher.update(momentum)
    student[0] = nn.Linear(7, 8)
    with pytest.raises(ValueError, match=r"got a student with names 1 of another shape \(0.weight \[8, 6\]\), at most six shown; expected"):
        teacher.update(0.5)
    student[0], student.extra = nn.Linear(6, 8, bias=False), nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"names 1 missing \(0.bias\); 2 new \(extra.bias, extra.weight\), at most six"):
        teacher.update(0.5)
    with pytest.raises(ValueError, match="got a teacher in torch.bfloat16; expected float32 or wider. To mend: cast the student alone"):
        MomentumEncoder(network()).bfloat16().update(0.5)
    twice = nn.ModuleDict({"module": nn.Linear(2, 2), "other": nn.Linear(2, 2)})
    MomentumEncoder(twice).update(0.5)  # `module` as a name of one's own is no harm
    twice.register_parameter("weight", nn.Parameter(torch.zeros(2)))
    with pytest.raises(ValueError, match="got .*weight and another parameter named weight without its wrappers"):
        MomentumEncoder(twice).update(0.5)
    with pytest.warns(FutureWarning, match="weight_norm"):
        legacy = nn.utils.weight_norm(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="MomentumEncoder: got a Linear that cannot be deep-copied; .*To mend: take DINOHead"):
        MomentumEncoder(legacy)
