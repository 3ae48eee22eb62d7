"""InfoNCE, MoCo v3's form of it, NNCLR's and the decoupled one, against official numbers, loops from the papers, limits and invariances."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from sslkit import _bank
from sslkit.losses import dcl_loss, info_nce, moco_v3_loss, nnclr_loss, nt_xent
from sslkit.testing import compiles, computes_in_float32, equals_single_process, gradient_is_exact, proves, run_in_processes, views

INFO, MOCO, NNCLR, DCL = "losses.info_nce", "losses.moco_v3_loss", "losses.nnclr_loss", "losses.dcl_loss"
QUEUE = torch.randn(5, 6, generator=torch.Generator().manual_seed(3)) * 3


def loop(queries, keys, negatives, temperature, decoupled=False):
    """Equation 1 of MoCo, one candidate at a time; without negatives the keys of the other rows take their place."""
    q, k = ([row / row.norm() for row in x] for x in (queries, keys))
    losses = []
    for i in range(len(q)):
        others = [c for j, c in enumerate(k) if j != i] if negatives is None else [c / c.norm() for c in negatives]
        positive = math.exp(q[i] @ k[i] / temperature)
        total = sum(math.exp(q[i] @ c / temperature) for c in others) + (0 if decoupled else positive)
        losses.append(0 if not others else -math.log(positive / total))
    return sum(losses) / len(losses)


def dcl_loop(z1, z2, temperature, sigma):
    """Equations 6 and 7 of the paper, both directions."""
    a, b = ([row / row.norm() for row in x] for x in (z1, z2))
    n = len(a)
    agree = [math.exp(a[i] @ b[i] / (sigma or 1)) for i in range(n)]
    total = 0.0
    for i in range(n):
        weight = 1 if sigma is None else 2 - n * agree[i] / sum(agree)
        for one, two in ((a, b), (b, a)):
            others = [c for j in range(n) if j != i for c in (one[j], two[j])]
            total += -weight * (one[i] @ two[i]).item() / temperature + math.log(sum(math.exp(one[i] @ c / temperature) for c in others))
    return total / (2 * n)


@proves(INFO, "golden")
def test_official_numbers_with_a_queue(golden):
    g = golden("moco_infonce")
    cases = [name.removeprefix("loss_") for name in g if name.startswith("loss_")]
    assert cases
    for i in cases:
        q, temperature = g.tensor("q").requires_grad_(), g.number(f"temperature_{i}")
        loss = info_nce(q, g.tensor("k"), negatives=g.tensor("queue"), temperature=temperature)
        loss.backward()
        torch.testing.assert_close(loss.detach(), g.tensor(f"loss_{i}"), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(q.grad, g.tensor(f"grad_q_{i}"), rtol=1e-4, atol=1e-6)
        exact = info_nce(q.double(), g.tensor("k").double(), negatives=g.tensor("queue").double(), temperature=temperature)
        assert exact.item() == pytest.approx(g.number(f"loss_{i}"), abs=2e-5)
        logits = g.tensor(f"logits_{i}").double()
        assert exact.item() == pytest.approx((logits.logsumexp(1) - logits[:, 0]).mean().item(), abs=2e-5)


@proves(INFO, "golden")
@proves(MOCO, "golden")
def test_official_numbers_of_version_3(golden):
    g = golden("moco_infonce")
    cases = [name.removeprefix("v3_loss_") for name in g if name.startswith("v3_loss_")]
    assert cases
    for i in cases:
        q, temperature = g.tensor("q").requires_grad_(), g.number(f"v3_temperature_{i}")
        loss = moco_v3_loss(q, g.tensor("k"), temperature=temperature)
        loss.backward()
        torch.testing.assert_close(loss.detach(), g.tensor(f"v3_loss_{i}"), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(q.grad, g.tensor(f"v3_grad_q_{i}"), rtol=1e-4, atol=1e-6)
        exact = 2 * temperature * info_nce(q.double(), g.tensor("k").double(), temperature=temperature)
        assert exact.item() == pytest.approx(g.number(f"v3_loss_{i}"), abs=2e-5)


@proves(NNCLR, "golden")
def test_official_numbers_of_nnclr(golden):
    g = golden("nnclr")
    temperature = g.number("temperature")
    p1, p2 = (g.tensor(name).requires_grad_() for name in ("p1", "p2"))
    first, second = (nnclr_loss(g.tensor(nn), p, temperature=temperature) for nn, p in (("nn1", p2), ("nn2", p1)))
    loss = (first + second) / 2
    loss.backward()
    for got, name in ((first, "loss_nn1_p2"), (second, "loss_nn2_p1"), (loss, "loss")):
        torch.testing.assert_close(got.detach(), g.tensor(name), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(p1.grad, g.tensor("grad_p1"), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(p2.grad, g.tensor("grad_p2"), rtol=1e-4, atol=1e-6)
    for nn, p in (("nn1", "p2"), ("nn2", "p1")):
        a, b = g.tensor(nn).double(), g.tensor(p).double()
        assert nnclr_loss(a, b, temperature=temperature).item() == pytest.approx(g.number(f"loss_{nn}_{p}"), abs=2e-5)
        both = nnclr_loss(a, b, temperature=temperature, both_directions=True).item()
        assert both == pytest.approx(g.number(f"loss_{nn}_{p}") + g.number(f"col_loss_{nn}_{p}"), abs=2e-5)
    assert abs(loss.item() - g.number("lightly_ntxent_loss")) > 0.1  # another loss under the same name


@proves(DCL, "golden")
def test_official_numbers_of_the_decoupled_loss(golden):
    g = golden("ntxent")
    for name, sigma in (("dcl", None), ("dclw", 0.5)):
        z0, z1 = (g.tensor(z).requires_grad_() for z in ("z0", "z1"))
        loss = dcl_loss(z0, z1, temperature=0.1, sigma=sigma)
        loss.backward()
        torch.testing.assert_close(loss.detach(), g.tensor(f"{name}_loss"), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(z0.grad, g.tensor(f"{name}_grad_z0"), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(z1.grad, g.tensor(f"{name}_grad_z1"), rtol=1e-4, atol=1e-6)


def rank_loss_and_gradient(loss, fixed, moving, temperature, moving_first, *, group):
    rank, world = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)
    fixed, moving = fixed.chunk(world)[rank], moving.chunk(world)[rank].clone().requires_grad_()
    value = loss(*((moving, fixed) if moving_first else (fixed, moving)), temperature=temperature, group=group)
    value.backward()
    return value.detach(), moving.grad


@proves(MOCO, "golden", "worlds")
@proves(NNCLR, "golden", "worlds")
@pytest.mark.parametrize("method", ["nnclr", "moco"])
def test_official_numbers_of_two_processes(golden, method):
    if method == "nnclr":
        g = golden("nnclr")
        args = nnclr_loss, g.tensor("nn1"), g.tensor("p2"), g.number("temperature"), False
        losses, gradient = g["dist2_loss_rank"], g.tensor("dist2_grad_p2")
    else:
        g = golden("moco_infonce")
        losses, gradient = g["v3_dist2_loss_rank"], g.tensor("v3_dist2_grad_q")
        cases = [name for name in g if name.startswith("v3_loss_") and g.number(name) == pytest.approx(losses.mean(), rel=1e-5)]
        (temperature,) = {g.number(name.replace("loss", "temperature")) for name in cases}
        args = moco_v3_loss, g.tensor("k"), g.tensor("q"), temperature, True
    answers = run_in_processes(rank_loss_and_gradient, 2, *args)
    for loss, _ in answers:  # ours is the global mean on every rank; theirs each rank's own mean
        assert loss.item() == pytest.approx(losses.mean(), rel=1e-5)
    torch.testing.assert_close(torch.cat([a[1] for a in answers]), gradient, rtol=1e-4, atol=1e-6)


FORMS = {
    INFO: partial(info_nce, temperature=0.3),
    f"{INFO} with a queue": partial(info_nce, negatives=QUEUE, temperature=0.3),
    f"{INFO} decoupled": partial(info_nce, negatives=QUEUE, temperature=0.3, decoupled=True),
    f"{NNCLR} both ways": partial(nnclr_loss, both_directions=True),
    f"{DCL} weighted": partial(dcl_loss, sigma=0.5, temperature=0.3),
}


@proves(INFO, "worlds")
@proves(NNCLR, "worlds")
@proves(DCL, "worlds")
@pytest.mark.parametrize("form", FORMS)
def test_unequal_batches_on_two_and_three_processes_equal_one(form):
    equals_single_process(FORMS[form])


def parameter_gradient(loss, x1, x2, weight, *, group):
    rank = torch.distributed.get_rank(group)
    x1, x2 = (torch.tensor_split(x, [3], dim=0)[rank] for x in (x1, x2))  # 3 and 5 rows
    model = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    model.weight.data.copy_(weight)
    ddp = torch.nn.parallel.DistributedDataParallel(model, process_group=group)
    loss(*ddp(torch.cat([x1, x2])).chunk(2), group=group).backward()
    return model.weight.grad


@proves(INFO, "worlds")
@proves(NNCLR, "worlds")
@pytest.mark.parametrize("form", FORMS)
def test_parameter_gradient_under_ddp_equals_one_process(form, generator):
    x1, x2, weight = torch.randn(8, 5, generator=generator), torch.randn(8, 5, generator=generator), torch.randn(6, 5, generator=generator)
    leaf = weight.clone().requires_grad_()
    FORMS[form](x1 @ leaf.T, x2 @ leaf.T).backward()
    for gradient in run_in_processes(parameter_gradient, 2, FORMS[form], x1, x2, weight):
        torch.testing.assert_close(gradient, leaf.grad, rtol=1e-5, atol=1e-6)


@proves(INFO, "loop", "property")
@proves(MOCO, "loop", "property")
@proves(NNCLR, "loop", "property")
@settings(max_examples=25)
@given(z=views(count=3, dtype=torch.float64), temperature=st.floats(0.05, 2))
def test_equals_the_papers_loops(z, temperature):
    q, k, queue = z
    close = partial(pytest.approx, rel=1e-9, abs=1e-12)
    for negatives in (None, queue):
        assert info_nce(q, k, negatives=negatives, temperature=temperature).item() == close(loop(q, k, negatives, temperature))
        decoupled = info_nce(q, k, negatives=negatives, temperature=temperature, decoupled=True)
        assert decoupled.item() == close(loop(q, k, negatives, temperature, decoupled=True))
    assert moco_v3_loss(q, k, temperature=temperature).item() == close(2 * temperature * loop(q, k, None, temperature))
    assert nnclr_loss(q, k, temperature=temperature).item() == close(loop(q, k, None, temperature))
    both = loop(q, k, None, temperature) + loop(k, q, None, temperature)
    assert nnclr_loss(q, k, temperature=temperature, both_directions=True).item() == close(both)


@proves(DCL, "loop", "property")
@settings(max_examples=25)
@given(z=views(batch=(2, 8), dtype=torch.float64), temperature=st.floats(0.05, 2), sigma=st.none() | st.floats(0.2, 2))
def test_the_decoupled_loss_equals_its_loop(z, temperature, sigma):
    assert dcl_loss(*z, temperature=temperature, sigma=sigma).item() == pytest.approx(dcl_loop(*z, temperature, sigma), rel=1e-9, abs=1e-9)


@proves(INFO, "property")
@proves(MOCO, "property")
@proves(NNCLR, "property")
@proves(DCL, "property")
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=10)
@given(z=views(batch=(2, 8), dim=(6, 6), dtype=torch.float64), seed=st.integers(0, 99))
def test_invariances(form, z, seed):
    generator = torch.Generator().manual_seed(seed)
    z1, z2 = z
    loss = FORMS[form]
    order = torch.randperm(len(z1), generator=generator)
    lengths = torch.rand(len(z1), 1, generator=generator, dtype=z1.dtype) + 0.1
    value = loss(z1, z2)
    for other in [(z1[order], z2[order]), (z1 * lengths, z2), (z1, z2 * lengths)]:
        torch.testing.assert_close(loss(*other), value)
    assert value >= 0 or "decoupled" in form or form.startswith(DCL)
    leaf = z2.clone().requires_grad_()
    loss(z1, leaf).backward()
    assert (leaf.grad * z2).sum(dim=1).abs().max() < 1e-9  # the gradient of a row is orthogonal to it


@proves(INFO, "property")
def test_a_rotation_changes_nothing_and_a_negative_never_helps(generator):
    q, k, queue = torch.randn(3, 6, 4, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64)).Q
    losses = [info_nce(q, k, negatives=queue[:n], temperature=0.2) for n in range(7)]
    torch.testing.assert_close(info_nce(q @ rotation, k @ rotation, negatives=queue @ rotation, temperature=0.2), losses[6])
    torch.testing.assert_close(nnclr_loss(q @ rotation, k @ rotation), nnclr_loss(q, k))
    torch.testing.assert_close(dcl_loss(q @ rotation, k @ rotation), dcl_loss(q, k))
    assert losses[0] == 0
    assert all(a < b for a, b in pairwise(losses))


@proves(INFO, "property")
@proves(DCL, "property")
@pytest.mark.parametrize("batch", [2, 5])
def test_limits(batch):
    eye = torch.eye(2 * batch, dtype=torch.float64)
    q, queue = eye[:batch], eye[batch:]
    for t in (0.1, 0.5):  # the views agree, everything else is orthogonal
        assert info_nce(q, q, temperature=t).item() == pytest.approx(math.log1p((batch - 1) * math.exp(-1 / t)), abs=1e-12)
        assert info_nce(q, q, negatives=queue, temperature=t).item() == pytest.approx(math.log1p(batch * math.exp(-1 / t)), abs=1e-12)
        assert dcl_loss(q, q, temperature=t).item() == pytest.approx(math.log(2 * batch - 2) - 1 / t, abs=1e-12)
        assert dcl_loss(q, q, temperature=t, sigma=0.5).item() == pytest.approx(math.log(2 * batch - 2) - 1 / t, abs=1e-12)
    assert info_nce(q, q.flip(0), temperature=1e6).item() == pytest.approx(math.log(batch), abs=1e-5)
    assert info_nce(q, q, negatives=queue, temperature=1e6).item() == pytest.approx(math.log(batch + 1), abs=1e-5)


def test_of_one_view_twice_it_is_between_nt_xent_and_nothing(generator):
    """Without the candidates of its own view NT-Xent would be InfoNCE in both directions."""
    z1, z2 = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    both = (info_nce(z1, z2, temperature=0.2) + info_nce(z2, z1, temperature=0.2)) / 2
    assert 0 < both < nt_xent(z1, z2, temperature=0.2)


@pytest.mark.parametrize("loss", [*FORMS.values(), moco_v3_loss, partial(info_nce, negatives=QUEUE[:0], temperature=0.1)])
def test_nothing_to_confuse_a_row_with_and_no_row(loss):
    queue = loss.keywords.get("negatives") if isinstance(loss, partial) else None
    for batch in (0, 1):
        z = torch.ones(batch, 6, requires_grad=True)
        value = loss(z, 2 * z)
        value.backward()
        assert z.grad.isfinite().all()
        if queue is None or not len(queue) or not batch:
            assert value.item() == 0
            assert z.grad.abs().sum() == 0


@pytest.mark.parametrize("form", FORMS)
def test_zero_rows_give_finite_numbers(form):
    z = torch.zeros(3, 6, requires_grad=True)
    loss = FORMS[form](torch.eye(3, 6), z)
    loss.backward()
    assert loss.isfinite()
    assert z.grad.isfinite().all()
    assert info_nce(torch.eye(2), torch.eye(2), negatives=torch.zeros(4, 2), temperature=0.1).isfinite()


@proves(INFO, "half")
@proves(NNCLR, "half")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_finite_in_16_bit_at_the_lowest_temperature(dtype, autocast, form, generator):
    q, k, queue = (torch.randn(32, 16, generator=generator).mul(20).to(dtype).requires_grad_() for _ in range(3))
    loss = FORMS[form].func
    options = {**FORMS[form].keywords, "temperature": 0.01} | ({"negatives": queue} if "negatives" in FORMS[form].keywords else {})
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        value = loss(q, k, **options)
    value.backward()
    assert value.dtype == torch.float32
    options |= {"negatives": queue.double()} if "negatives" in options else {}
    torch.testing.assert_close(value.double(), loss(q.double(), k.double(), **options), rtol=1e-5, atol=1e-5)
    assert k.grad.isfinite().all()
    assert queue.grad is None


def test_small_losses_keep_their_digits():
    """A cross-entropy of logits near 100 knows no loss below 1e-5 in float32."""
    q, queue = torch.eye(3)[:1], torch.eye(3)[1:]
    assert info_nce(q, q, negatives=queue, temperature=0.05).item() == pytest.approx(2 * math.exp(-20), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.1, 0.018, 1e-3, 1e-9])  # powers of two fit into float64, and into float32, down to 0.018
@pytest.mark.parametrize("slab", [1, 2**8, 2**20])
def test_slabs_of_any_size_give_the_same(slab, temperature, monkeypatch, generator):
    monkeypatch.setattr(_bank, "_numbers", lambda x: slab)
    q, k, queue = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (4, 4, 1000))
    got = info_nce(q.requires_grad_(), k, negatives=queue, temperature=temperature)
    (gradient,) = torch.autograd.grad(got, q)
    logits = torch.cat([(normalize(q) * normalize(k)).sum(1, keepdim=True), normalize(q) @ normalize(queue).T], dim=1) / temperature
    expected = (logits.logsumexp(1) - logits[:, 0]).mean()
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, q)[0])


@pytest.mark.parametrize("length", [1, 55, 56, 1e4, math.inf])
def test_the_softmax_holds_on_both_sides_of_the_length_from_which_a_largest_one_is_taken_out(length, generator):
    """Without it 2^80 is the largest power: a length of 55.4. Float32 against float64; many rows lie in the query's direction."""
    direction, rows = (normalize(torch.randn(n, 8, generator=generator), dim=1) for n in (5, 500))
    rows[:200] = direction[0]
    lse, mean = _bank.softmax_mean(direction * length, rows)
    if math.isinf(length):
        assert not lse.isfinite().any()
        return
    s = (direction.double() * length) @ rows.double().T
    torch.testing.assert_close(lse.double(), s.logsumexp(1), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(mean.double(), s.softmax(1) @ rows.double(), rtol=0, atol=2e-6 * length)  # the rounding of the exponents


@proves(INFO, "gradcheck", "compile", "half")
@proves(DCL, "gradcheck", "compile", "half")
@pytest.mark.parametrize("form", [name for name in FORMS if not name.startswith(NNCLR)])
def test_gradients_and_graphs_of_the_options(form, generator):
    inputs = tuple(torch.randn(2, 5, 6, generator=generator))
    if "weighted" not in form:  # its weights are constants, whatever finite differences say; the official gradients hold it
        gradient_is_exact(FORMS[form], inputs)
    compiles(FORMS[form], inputs)
    computes_in_float32(FORMS[form], inputs)


@proves(NNCLR, "gradcheck", "compile", "half")
@proves(MOCO, "gradcheck", "compile", "half")
@pytest.mark.parametrize(("loss", "fixed"), [(partial(nnclr_loss, both_directions=True), "neighbours"), (nnclr_loss, "neighbours"),
                         (moco_v3_loss, "keys")])  # fmt: skip
def test_gradients_and_graphs_of_the_side_that_learns(loss, fixed, generator):
    """The other side is a constant, whatever finite differences say."""
    side, leaf = torch.randn(2, 5, 6, generator=generator)
    gradient_is_exact(partial(loss, **{fixed: side.double()}) if fixed == "keys" else partial(loss, side.double()), (leaf,))
    form = partial(loss, **{fixed: side}) if fixed == "keys" else partial(loss, side)
    compiles(form, (leaf,))
    computes_in_float32(form, (leaf,))


def test_a_learned_temperature(generator):
    q, k, queue = torch.randn(3, 5, 6, generator=generator, dtype=torch.float64)
    log = torch.zeros((), dtype=torch.float64, requires_grad=True)
    for negatives in (None, queue):
        torch.autograd.gradcheck(lambda x, negatives=negatives: info_nce(q, k, negatives=negatives, temperature=x.exp()), log)


def test_negatives_may_be_overwritten_before_backward_and_carry_no_gradient(generator):
    q, k, queue = torch.randn(3, 5, 6, generator=generator)
    leaf, bank = q.clone().requires_grad_(), queue.clone()
    loss = info_nce(leaf, k, negatives=bank, temperature=0.1)
    bank.zero_()
    loss.backward()
    other = q.clone().requires_grad_()
    info_nce(other, k, negatives=queue.requires_grad_(), temperature=0.1).backward()
    assert torch.equal(leaf.grad, other.grad)
    assert queue.grad is None


def test_a_second_derivative_is_refused_where_it_would_be_wrong(generator):
    q, k, queue = torch.randn(3, 5, 6, generator=generator)
    loss = info_nce(q.requires_grad_(), k, negatives=queue, temperature=0.1)
    with pytest.raises(RuntimeError, match="create_graph=True.; expected one derivative. To mend"):
        torch.autograd.grad(loss, q, create_graph=True)


@proves(NNCLR, "property")
def test_no_gradient_reaches_the_neighbours_or_the_teachers_keys(generator):
    a, b = torch.randn(2, 5, 6, generator=generator).requires_grad_().unbind()
    assert torch.autograd.grad(nnclr_loss(a, b, both_directions=True), a, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(moco_v3_loss(a, b), b, allow_unused=True) == (None,)


@proves(INFO, "errors")
@proves(MOCO, "errors")
@proves(NNCLR, "errors")
@proves(DCL, "errors")
@pytest.mark.parametrize(("loss", "first", "second"), [(partial(info_nce, temperature=0.1), "queries", "keys"),
                         (moco_v3_loss, "queries", "keys"), (nnclr_loss, "neighbours", "predictions"), (dcl_loss, "z1", "z2")])  # fmt: skip
def test_wrong_input(loss, first, second):
    z, name = torch.ones(4, 8), (loss.func if isinstance(loss, partial) else loss).__name__
    with pytest.raises(ValueError, match=rf"{name}: got {second} \[5, 8\] with batch=5; expected batch=4 as in {first}. To mend: "):
        loss(z, torch.ones(5, 8))
    with pytest.raises(TypeError, match=rf"{name}: got {first} of dtype torch.int64; expected a floating dtype"):
        loss(z.long(), z)
    with pytest.raises(TypeError, match=rf"{name}: got {second} of type list; expected a tensor \[batch, dim\]"):
        loss(z, [1.0])
    for temperature in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"{name}: got temperature={temperature}; expected a finite temperature above 0"):
            loss(z, z, temperature=temperature)
    with pytest.raises(TypeError, match="group: got str; expected a torch.distributed process group"):
        loss(z, z, group="world")


@proves(INFO, "errors")
@proves(DCL, "errors")
def test_wrong_options():
    z = torch.ones(4, 8)
    with pytest.raises(ValueError, match=r"info_nce: got negatives \[8, 5\] with dim=5; expected dim=8 as in queries"):
        info_nce(z, z, negatives=torch.ones(8, 5), temperature=0.1)
    with pytest.raises(TypeError, match="info_nce: got negatives of dtype torch.int64"):
        info_nce(z, z, negatives=z.long(), temperature=0.1)
    with pytest.raises(ValueError, match="dcl_loss: got sigma=0; expected a finite sigma above 0"):
        dcl_loss(z, z, sigma=0)
