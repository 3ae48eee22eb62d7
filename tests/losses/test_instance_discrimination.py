"""NCE against a memory bank: official numbers, the loop, limits."""

import math
import re
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkit.losses import info_nce, nce_loss, nce_normalizer
from sslkit.testing import equals_single_process, proves, run_in_processes

NCE, NORMALIZER = "losses.nce_loss", "losses.nce_normalizer"


@proves(NCE, "golden")
@proves(NORMALIZER, "golden")
def test_official_numbers(golden):
    g = golden("memory_bank")
    temperature = g.number("temperature")
    similarity = torch.einsum("bd,bkd->bk", g.tensor("x"), g.tensor("memory")[g.tensor("idx")])
    torch.testing.assert_close(similarity / temperature, g.tensor("logits"), rtol=1e-5, atol=1e-5)
    size = len(g["memory"])
    normalizer = nce_normalizer(similarity, size, temperature=temperature)
    torch.testing.assert_close(normalizer.float(), g.tensor("Z"), rtol=1e-5, atol=0)
    loss = nce_loss(similarity, normalizer, size, temperature=temperature)
    torch.testing.assert_close(loss, g.tensor("loss_nce")[0], rtol=1e-5, atol=1e-5)  # theirs has 1e-7 in both fractions


@proves("losses.info_nce", "golden")
def test_official_softmax_over_the_bank_is_info_nce_with_the_own_row_among_the_negatives(golden):
    """decoupled: the own key counts once, as one of the negatives; over some rows of the bank, and over all."""
    g = golden("memory_bank")
    x, memory, ids = g.tensor("x"), g.tensor("memory"), g.tensor("idx")
    loss = partial(info_nce, temperature=g.number("temperature"), decoupled=True)
    drawn = torch.stack([loss(x[b : b + 1], memory[own[:1]], negatives=memory[own]) for b, own in enumerate(ids)]).mean()
    torch.testing.assert_close(drawn, g.tensor("loss_softmax"), rtol=1e-5, atol=1e-6)
    whole = loss(x, memory[g.tensor("y")], negatives=memory)
    torch.testing.assert_close(whole, g.tensor("loss_full_softmax"), rtol=1e-5, atol=1e-6)


@proves(NCE, "loop", "property", "gradcheck")
@proves(NORMALIZER, "loop", "property")
@given(batch=st.integers(1, 4), drawn=st.integers(1, 4), size=st.integers(1, 50), temperature=st.floats(0.05, 2), seed=st.integers(0, 99))
def test_equals_the_loop(batch, drawn, size, temperature, seed):
    similarity = torch.rand(batch, 1 + drawn, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
    scores = [[math.exp(s / temperature) for s in row] for row in similarity.tolist()]
    normalizer = size * sum(map(sum, scores)) / (batch * (1 + drawn))
    assert nce_normalizer(similarity, size, temperature=temperature).item() == pytest.approx(normalizer)
    expected, noise = 0.0, drawn / size
    for row in scores:
        p = [score / normalizer for score in row]
        expected -= (math.log(p[0] / (p[0] + noise)) + sum(math.log(noise / (q + noise)) for q in p[1:])) / batch
    assert nce_loss(similarity, normalizer, size, temperature=temperature).item() == pytest.approx(expected)
    assert nce_loss(similarity, torch.tensor(normalizer), size, temperature=temperature).item() == pytest.approx(expected, rel=1e-5)
    assert torch.autograd.gradcheck(lambda s: nce_loss(s, normalizer, size, temperature=temperature), similarity.requires_grad_())


@proves(NCE, "property", "half", "compile")
@proves(NORMALIZER, "half")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_finite_where_the_fractions_overflow(dtype, generator):
    similarity = (torch.rand(4, 9, generator=generator) * 2 - 1).to(dtype)
    for temperature in (0.07, 0.005):  # exp(200) is not a float32
        loss = nce_loss(similarity, 1e4, 100, temperature=temperature)
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        torch.testing.assert_close(loss, nce_loss(similarity.float(), 1e4, 100, temperature=temperature))
    torch.testing.assert_close(nce_normalizer(similarity, 100), nce_normalizer(similarity.double(), 100), rtol=1e-12, atol=0)
    compiled = torch.compile(nce_loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(similarity, 1e4, 100), nce_loss(similarity, 1e4, 100))
    assert nce_loss(similarity[:0], 1e4, 100) == 0


@proves(NORMALIZER, "property")
@proves(NCE, "property")
@pytest.mark.parametrize("temperature", [0.01, 0.002])
def test_the_constant_is_finite_where_float32_has_no_number_for_it(temperature, generator):
    """exp(100) is none; the loss takes its logarithm, and knows the answer where all rows are alike: P = 1 / size."""
    similarity = torch.rand(4, 9, generator=generator, dtype=torch.float64) * 2 - 1
    scores = similarity / temperature
    expected = scores.logsumexp(dim=(0, 1)).item() + math.log(100 / 36)
    assert nce_normalizer(similarity, 100, temperature=temperature).log().item() == pytest.approx(expected, rel=1e-12)
    alike = torch.ones(4, 9)
    loss = nce_loss(alike, nce_normalizer(alike, 100, temperature=temperature), 100, temperature=temperature)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(1 + 8) + 8 * math.log(1 + 1 / 8), rel=1e-4)


@proves(NCE, "property")
def test_a_tensor_that_is_no_normalizer_is_not_looked_at(generator):
    similarity = torch.rand(4, 9, generator=generator)
    assert nce_loss(similarity, torch.tensor(-1.0), 100).isnan()
    assert nce_loss(similarity, torch.tensor(0.0), 100).isinf()
    number = nce_loss(similarity, 7.0, 100)
    for dtype in (torch.float16, torch.float64, torch.int64):
        torch.testing.assert_close(nce_loss(similarity, torch.tensor(7, dtype=dtype), 100), number)


def rank_normalizer(similarity, *, group):
    return nce_normalizer(similarity[torch.distributed.get_rank(group)], 50, group=group)


@proves(NCE, "worlds")
@proves(NORMALIZER, "worlds")
def test_processes_equal_one(generator):
    similarity = torch.rand(7, 6, generator=generator) * 2 - 1
    equals_single_process(partial(nce_loss, normalizer=1e3, size=50), inputs=(similarity,))
    whole = nce_normalizer(similarity, 50)
    for cut in ([2, 5], [4, 0, 3]):
        for constant in run_in_processes(rank_normalizer, len(cut), similarity.split(cut)):
            torch.testing.assert_close(constant, whole)


@proves(NCE, "errors")
@proves(NORMALIZER, "errors")
def test_errors():
    with pytest.raises(ValueError, match="nce_loss: got drawn=0; expected a whole drawn from 1 on"):
        nce_loss(torch.zeros(3, 1), 1.0, 10)
    with pytest.raises(ValueError, match="nce_loss: got temperature=0; expected a finite temperature above 0"):
        nce_loss(torch.zeros(3, 2), 1.0, 10, temperature=0)
    for normalizer in (0, -1.0, math.inf):
        with pytest.raises(ValueError, match=f"nce_loss: got normalizer={normalizer}; expected a finite normalizer above 0"):
            nce_loss(torch.zeros(3, 2), normalizer, 10)
    for shape in ([1], [3], [3, 1], [3, 2]):
        with pytest.raises(ValueError, match=rf"nce_loss: got normalizer {re.escape(str(shape))}; expected one number, \[\], for all rows"):
            nce_loss(torch.zeros(3, 2), torch.ones(shape), 10)
    with pytest.raises(TypeError, match="nce_normalizer: got similarity of dtype torch.int64"):
        nce_normalizer(torch.zeros(3, 2, dtype=torch.int64), 10)
    with pytest.raises(ValueError, match="nce_normalizer: got values=0"):
        nce_normalizer(torch.zeros(0, 2), 10)
