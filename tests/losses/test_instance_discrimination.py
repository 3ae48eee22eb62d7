"""NCE against a memory bank: official numbers, the loop, limits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkit.losses import nce_loss, nce_normalizer
from sslkit.testing import proves

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
    torch.testing.assert_close(normalizer, g.tensor("Z"), rtol=1e-5, atol=0)
    loss = nce_loss(similarity, normalizer, size, temperature=temperature)
    torch.testing.assert_close(loss, g.tensor("loss_nce")[0], rtol=1e-5, atol=1e-5)  # theirs has 1e-7 in both fractions


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
    assert nce_normalizer(similarity, 100).dtype == torch.float32
    compiled = torch.compile(nce_loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(similarity, 1e4, 100), nce_loss(similarity, 1e4, 100))
    assert nce_loss(similarity[:0], 1e4, 100) == 0


@proves(NCE, "errors")
@proves(NORMALIZER, "errors")
def test_errors():
    with pytest.raises(ValueError, match="nce_loss: got drawn=0; expected a whole drawn from 1 on"):
        nce_loss(torch.zeros(3, 1), 1.0, 10)
    with pytest.raises(ValueError, match="nce_loss: got temperature=0; expected a finite temperature above 0"):
        nce_loss(torch.zeros(3, 2), 1.0, 10, temperature=0)
    with pytest.raises(TypeError, match="nce_normalizer: got similarity of dtype torch.int64"):
        nce_normalizer(torch.zeros(3, 2, dtype=torch.int64), 10)
    with pytest.raises(ValueError, match="nce_normalizer: got values=0"):
        nce_normalizer(torch.zeros(0, 2), 10)
