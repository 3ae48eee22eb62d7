"""NT-Xent against the official numbers, the paper's loop, its limits and invariances."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkit.losses import nt_xent
from sslkit.testing import equals_single_process, proves, run_in_processes, views

NAME = "losses.nt_xent"


def loop(z1, z2, temperature):
    """Algorithm 1 of the paper, one anchor and one candidate at a time."""
    z = [v / v.norm() for v in torch.cat([z1, z2])]
    n = len(z1)
    losses = []
    for i in range(2 * n):
        positive = math.exp(z[i] @ z[(i + n) % (2 * n)] / temperature)
        denominator = sum(math.exp(z[i] @ z[j] / temperature) for j in range(2 * n) if j != i)
        losses.append(-math.log(positive / denominator))
    return sum(losses) / len(losses)


@proves(NAME, "golden")
def test_official_numbers(golden):
    g = golden("ntxent")
    cases = [name.removeprefix("loss_f64_") for name in g if name.startswith("loss_f64_")]
    assert cases
    for i in cases:
        z1, z2 = (g.tensor(name).requires_grad_() for name in ("z0", "z1"))
        loss = nt_xent(z1, z2, temperature=g.number(f"temperature_{i}"))
        loss.backward()
        torch.testing.assert_close(loss.detach(), g.tensor(f"loss_{i}"), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(z1.grad, g.tensor(f"grad_z0_{i}"), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(z2.grad, g.tensor(f"grad_z1_{i}"), rtol=1e-4, atol=1e-6)
        exact = nt_xent(z1.double(), z2.double(), temperature=g.number(f"temperature_{i}"))
        assert exact.item() == pytest.approx(g.number(f"loss_f64_{i}"), abs=2e-5)


def rank_loss_and_gradients(z1, z2, temperature, *, group):
    rank, world = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)
    z1, z2 = (z.chunk(world)[rank].clone().requires_grad_() for z in (z1, z2))
    loss = nt_xent(z1, z2, temperature=temperature, group=group)
    loss.backward()
    return loss.detach(), z1.grad, z2.grad


@proves(NAME, "golden", "worlds")
def test_official_numbers_of_two_processes(golden):
    g = golden("ntxent")
    whole = g["dist2_loss_rank"].mean()  # equals the loss of one process at the temperature that was used
    names = [n for n in g if n.startswith("temperature_") and g.number(n.replace("temperature", "loss")) == pytest.approx(whole, rel=1e-5)]
    (temperature,) = {g.number(name) for name in names}
    answers = run_in_processes(rank_loss_and_gradients, 2, g.tensor("z0"), g.tensor("z1"), temperature)
    for loss, _, _ in answers:  # ours is the global mean on every rank; theirs each rank's own mean
        assert loss.item() == pytest.approx(g["dist2_loss_rank"].mean(), rel=1e-5)
    torch.testing.assert_close(torch.cat([a[1] for a in answers]), g.tensor("dist2_grad_z0"), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.cat([a[2] for a in answers]), g.tensor("dist2_grad_z1"), rtol=1e-4, atol=1e-6)


@proves(NAME, "worlds")
def test_processes_equal_one_at_a_low_temperature():
    equals_single_process(
        partial(nt_xent, temperature=0.05), inputs=tuple(torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(1)))
    )


def parameter_gradient(x1, x2, weight, *, group):
    rank = torch.distributed.get_rank(group)
    world = torch.distributed.get_world_size(group)
    x1, x2 = (torch.tensor_split(x, [3], dim=0)[rank] if world == 2 else x for x in (x1, x2))  # 3 and 5 rows
    model = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    model.weight.data.copy_(weight)
    ddp = torch.nn.parallel.DistributedDataParallel(model, process_group=group)
    nt_xent(*ddp(torch.cat([x1, x2])).chunk(2), temperature=0.1, group=group).backward()
    return model.weight.grad


@proves(NAME, "worlds")
def test_parameter_gradient_under_ddp_with_unequal_batches_equals_one_process(generator):
    x1, x2, weight = torch.randn(8, 5, generator=generator), torch.randn(8, 5, generator=generator), torch.randn(4, 5, generator=generator)
    leaf = weight.clone().requires_grad_()
    nt_xent(x1 @ leaf.T, x2 @ leaf.T, temperature=0.1).backward()
    for gradient in run_in_processes(parameter_gradient, 2, x1, x2, weight):
        torch.testing.assert_close(gradient, leaf.grad, rtol=1e-5, atol=1e-6)


@proves(NAME, "loop", "property")
@settings(deadline=None, max_examples=25)
@given(z=views(dtype=torch.float64), temperature=st.floats(0.05, 2))
def test_equals_the_papers_loop(z, temperature):
    assert nt_xent(*z, temperature=temperature).item() == pytest.approx(loop(*z, temperature), rel=1e-9, abs=1e-12)


@proves(NAME, "property")
@settings(deadline=None, max_examples=25)
@given(z=views(batch=(2, 8), dtype=torch.float64), seed=st.integers(0, 99))
def test_invariances(z, seed):
    z1, z2 = z
    generator = torch.Generator().manual_seed(seed)
    loss = nt_xent(z1, z2, temperature=0.3)
    order = torch.randperm(len(z1), generator=generator)
    rotation = torch.linalg.qr(torch.randn(z1.shape[1], z1.shape[1], generator=generator, dtype=z1.dtype)).Q
    lengths = torch.rand(len(z1), 1, generator=generator, dtype=z1.dtype) + 0.1
    for other in [(z1[order], z2[order]), (z2, z1), (z1 @ rotation, z2 @ rotation), (z1 * lengths, z2)]:
        torch.testing.assert_close(nt_xent(*other, temperature=0.3), loss)
    assert loss >= 0


@proves(NAME, "property")
@settings(deadline=None, max_examples=15)
@given(z=views(batch=(2, 8)))
def test_gradient_of_a_row_is_orthogonal_to_the_row(z):
    z1, z2 = (v.double().requires_grad_() for v in z)
    nt_xent(z1, z2).backward()
    assert (z1.grad * z1).sum(dim=1).abs().max() < 1e-9


@proves(NAME, "property")
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_limits(batch):
    eye = torch.eye(2 * batch, dtype=torch.float64)[:batch]
    for t in (0.1, 0.5):  # views equal, images orthogonal
        assert nt_xent(eye, eye, temperature=t).item() == pytest.approx(math.log(1 + (2 * batch - 2) * math.exp(-1 / t)), abs=1e-12)
    same = torch.ones(batch, 3)
    assert nt_xent(same, same).item() == pytest.approx(math.log(2 * batch - 1), abs=1e-6)
    assert nt_xent(eye, eye.flip(0), temperature=1e6).item() == pytest.approx(math.log(2 * batch - 1), abs=1e-4)


def test_one_row_and_no_row_are_zero_with_zero_gradient():
    for batch in (0, 1):
        z = torch.ones(batch, 4, requires_grad=True)
        loss = nt_xent(z, 2 * z)
        loss.backward()
        assert loss.item() == 0
        assert z.grad.abs().sum() == 0


def test_a_zero_row_gives_finite_numbers():
    z = torch.zeros(3, 4, requires_grad=True)
    loss = nt_xent(z, torch.eye(3, 4))
    loss.backward()
    assert loss.isfinite()
    assert z.grad.isfinite().all()


@proves(NAME, "half")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_finite_in_16_bit_at_the_lowest_temperature(dtype, autocast, generator):
    z1, z2 = (torch.randn(32, 16, generator=generator).mul(20).to(dtype).requires_grad_() for _ in range(2))
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        loss = nt_xent(z1, z2, temperature=0.01)
    loss.backward()
    assert loss.dtype == torch.float32
    expected = nt_xent(z1.double(), z2.double(), temperature=0.01)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    assert z1.grad.isfinite().all()


@proves(NAME, "errors")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(4, 8), torch.ones(5, 8)), r"nt_xent: got z2 \[5, 8\] with batch=5; expected batch=4 as in z1. To mend: "),
        ((torch.ones(4, 8), torch.ones(4, 9)), r"got z2 \[4, 9\] with dim=9; expected dim=8 as in z1"),
        ((torch.ones(4, 8, 1), torch.ones(4, 8)), r"got z1 \[4, 8, 1\], 3 axes; expected the axes \[batch, dim\]. To mend: reshape"),
        ((torch.ones(4, 8), torch.ones(4, 8, device="meta")), r"got z2 on meta; expected cpu, where z1 is. To mend: move it"),
    ],
)
def test_wrong_tensors(arguments, message):
    with pytest.raises(ValueError, match=message):
        nt_xent(*arguments)


@proves(NAME, "errors")
def test_wrong_types_and_temperature():
    z = torch.ones(4, 8)
    with pytest.raises(TypeError, match=r"nt_xent: got z1 of dtype torch.int64; expected a floating dtype. To mend: pass z1.float\(\)"):
        nt_xent(z.long(), z.long())
    with pytest.raises(TypeError, match=r"got z2 of type list; expected a tensor \[batch, dim\]"):
        nt_xent(z, [1.0])
    for temperature in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="expected a finite temperature above 0. To mend: pass a positive temperature"):
            nt_xent(z, z, temperature=temperature)
    with pytest.raises(TypeError, match="group: got str; expected a torch.distributed process group"):
        nt_xent(z, z, group="world")
