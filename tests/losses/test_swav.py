"""SwAV: official codes and losses, the queue, loops over pairs, any scale."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from sslkit.losses import sinkhorn_knopp, swav_codes, swav_loss
from sslkit.testing import proves, run_in_processes

CODES, LOSS = "losses.swav_codes", "losses.swav_loss"


@proves(CODES, "golden")
def test_official_sinkhorn(golden):
    g = golden("swav_sinkhorn")
    scores = g.tensor("scores")
    cases = [name.removeprefix("eps_") for name in g if name.startswith("eps_")]
    assert len(cases) > 3
    for case in cases:
        got = sinkhorn_knopp(scores, g.number(f"eps_{case}"), iterations=g.number(f"iters_{case}"))
        if g.number(f"iters_{case}"):  # without an iteration, the scale of the matrix is a convention
            torch.testing.assert_close(got, g.tensor(f"Q_{case}"), rtol=0, atol=1e-6)
    for wide in (scores, scores.double()):  # where the public float32 code gives nan
        sharp = swav_codes(wide[None], temperature=0.005, log_domain=True)[0]
        torch.testing.assert_close(sharp.double(), g.tensor("Q_log_eps0005_iters3_f64"), rtol=1e-4, atol=1e-6)


@proves(CODES, "golden")
@proves(LOSS, "golden")
@pytest.mark.parametrize("queue", [False, True])
def test_official_loss_and_gradients(golden, queue):
    g = golden("swav_loss")
    high, low = (g.tensor(name).requires_grad_() for name in ("hi", "lo"))
    suffix = "_queue" if queue else ""
    codes = swav_codes(high, queue_scores=g.tensor("queue_scores") if queue else None, temperature=g.number("epsilon"),
                       iterations=g.number("iterations"))  # fmt: skip
    torch.testing.assert_close(codes, g.tensor(f"codes{suffix}"), rtol=0, atol=1e-6)
    loss = swav_loss(torch.cat([high, low]), codes, temperature=g.number("temperature"))
    torch.testing.assert_close(loss.detach(), g.tensor(f"loss{suffix}"), rtol=1e-5, atol=1e-6)
    for gradient, name in zip(torch.autograd.grad(loss, (high, low)), ("hi", "lo"), strict=True):
        torch.testing.assert_close(gradient, g.tensor(f"grad_{name}{suffix}"), rtol=1e-4, atol=1e-6)


@proves(LOSS, "loop", "property", "gradcheck")
@proves(CODES, "loop", "property")
@given(views=st.integers(2, 4), assigned=st.integers(1, 2), batch=st.integers(1, 4), kept=st.integers(0, 3), count=st.integers(1, 5),
       seed=st.integers(0, 99))  # fmt: skip
def test_equals_the_loop_over_pairs(views, assigned, batch, kept, count, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(views, batch, count, generator=generator, dtype=torch.float64) * 2 - 1
    queue = torch.rand(assigned, kept, count, generator=generator, dtype=torch.float64) * 2 - 1
    codes = swav_codes(scores[:assigned], queue_scores=queue)
    total, pairs = 0.0, 0
    for t in range(assigned):
        q = (torch.cat([queue[t], scores[t]]) / 0.05).exp()
        for _ in range(3):
            q = q / q.sum(dim=0) / count
            q = q / q.sum(dim=1, keepdim=True) / len(q)
        torch.testing.assert_close(codes[t], q[kept:] * len(q))
        for v in range(views):
            if v != t:
                pairs += 1
                total = total - (codes[t] * functional.log_softmax(scores[v] / 0.1, dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(swav_loss(scores, codes), total / pairs)
    assert torch.autograd.gradcheck(lambda s: swav_loss(s, codes), scores.requires_grad_())


@proves(CODES, "property", "half")
@proves(LOSS, "property", "half")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_finite_at_any_scale_and_log_of_the_count_where_all_is_alike(dtype, generator):
    scores = (torch.rand(3, 4, 7, generator=generator) * 2 - 1).to(dtype)
    codes = swav_codes(scores[:2], temperature=0.001)
    assert codes.isfinite().all()
    assert codes.dtype == torch.float32
    torch.testing.assert_close(codes.sum(dim=-1), torch.ones(2, 4), rtol=0, atol=1e-5)
    loss = swav_loss(scores, codes)
    wide = swav_loss(scores.float(), codes)
    torch.testing.assert_close(loss.float(), wide, rtol=0, atol=1e-6)
    assert swav_loss(torch.zeros_like(scores), codes).item() == pytest.approx(math.log(7), rel=1e-5)


@proves(CODES, "half", "property")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_queue_keeps_its_digits_beside_16_bit_scores(dtype, generator):
    """The wider of the two dtypes holds, whichever it is of."""
    scores, queue = torch.rand(2, 4, 7, generator=generator) * 2 - 1, torch.rand(2, 9, 7, generator=generator) * 2 - 1
    narrow = scores.to(dtype)
    assert torch.equal(swav_codes(narrow, queue_scores=queue), swav_codes(narrow.float(), queue_scores=queue))
    assert torch.equal(swav_codes(scores, queue_scores=queue.to(dtype)), swav_codes(scores, queue_scores=queue.to(dtype).float()))


@proves(LOSS, "compile")
@proves(CODES, "compile")
def test_compiles_to_the_same(generator):
    scores = torch.rand(3, 4, 7, generator=generator)

    def step(scores):
        return swav_loss(scores, swav_codes(scores[:2]))

    torch.testing.assert_close(torch.compile(step, backend="aot_eager", fullgraph=True)(scores), step(scores))


def rank_official(scores, *options, group):
    return swav_codes(scores[torch.distributed.get_rank(group)][None], temperature=options[0], iterations=options[1], group=group)[0]


@proves(CODES, "golden", "worlds")
def test_official_sinkhorn_of_two_processes(golden):
    g = golden("swav_sinkhorn")
    codes = run_in_processes(rank_official, 2, g.tensor("scores").chunk(2), g.number("eps_0"), g.number("iters_0"))
    torch.testing.assert_close(torch.cat(codes), g.tensor("Q_dist2"), rtol=0, atol=1e-6)


def rank_codes(scores, queue, *, group):
    rank = torch.distributed.get_rank(group)
    codes = swav_codes(scores[rank][:2], queue_scores=queue[rank], group=group)
    mine = scores[rank].clone().requires_grad_()
    loss = swav_loss(mine, codes, group=group)
    loss.backward()
    return codes, loss.detach(), mine.grad / torch.distributed.get_world_size(group)


@proves(CODES, "worlds")
@proves(LOSS, "worlds")
@pytest.mark.parametrize("cut", [[2, 5], [1, 4, 2]])
def test_processes_equal_one(cut, generator):
    """Each has pictures and a queue of its own, in different numbers."""
    scores, queue = torch.rand(3, 7, 5, generator=generator), torch.rand(2, 7, 5, generator=generator)
    whole = swav_codes(scores[:2], queue_scores=queue)
    scores.requires_grad_()
    loss = swav_loss(scores, whole)
    loss.backward()
    answers = run_in_processes(rank_codes, len(cut), scores.detach().split(cut, dim=1), queue.split(cut, dim=1))
    torch.testing.assert_close(torch.cat([answer[0] for answer in answers], dim=1), whole)
    for answer in answers:
        torch.testing.assert_close(answer[1], loss.detach())
    torch.testing.assert_close(torch.cat([answer[2] for answer in answers], dim=1), scores.grad, rtol=1e-4, atol=1e-6)


@proves(LOSS, "errors")
@proves(CODES, "errors")
def test_errors():
    with pytest.raises(ValueError, match=r"swav_codes: got queue_scores \[2, 3, 6\] with prototypes=6; expected prototypes=5"):
        swav_codes(torch.zeros(2, 4, 5), queue_scores=torch.zeros(2, 3, 6))
    with pytest.raises(ValueError, match="got 1 student views and 1 teacher views; expected"):
        swav_loss(torch.zeros(1, 4, 5), torch.zeros(1, 4, 5))
    with pytest.raises(ValueError, match="swav_loss: got temperature=0; expected a finite temperature above 0"):
        swav_loss(torch.zeros(3, 4, 5), torch.zeros(2, 4, 5), temperature=0)
    with pytest.raises(TypeError, match="swav_codes: got scores of dtype torch.int64"):
        swav_codes(torch.zeros(2, 4, 5, dtype=torch.int64))
    with pytest.raises(TypeError, match="swav_codes: got queue_scores of dtype torch.int64"):
        swav_codes(torch.zeros(2, 4, 5), queue_scores=torch.zeros(2, 3, 5, dtype=torch.int64))
