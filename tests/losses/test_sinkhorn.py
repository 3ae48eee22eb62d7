"""Sinkhorn-Knopp: official numbers, the matrix loop, any scale, processes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkit.losses import dino_loss, sinkhorn, sinkhorn_knopp
from sslkit.testing import proves, run_in_processes

NAME = "losses.sinkhorn_knopp"
both = pytest.mark.parametrize("log_domain", [False, True])


def loop(logits, temperature, iterations):
    """The matrix itself, rewritten in every half step, in float64."""
    q = (logits.double() / temperature - (logits.double() / temperature).max()).exp()
    q = q / q.sum()
    rows, columns = q.shape
    for _ in range(iterations):
        q = q / q.sum(dim=0, keepdim=True) / columns
        q = q / q.sum(dim=1, keepdim=True) / rows
    return q * rows


@proves(NAME, "golden")
@both
def test_official_numbers(golden, log_domain):
    g = golden("sinkhorn")
    names = [name for name in g if "/q/temp" in name and not name.startswith("dist")]
    assert len(names) > 20
    for name in names:
        case, options = name.split("/q/temp")
        temperature, iterations = options.split("/it")
        got = sinkhorn_knopp(g.tensor(f"{case}/logits"), float(temperature), iterations=int(iterations), log_domain=log_domain)
        torch.testing.assert_close(got, g.tensor(name), rtol=1e-4, atol=1e-5)


@proves(NAME, "golden")
def test_official_class_token_loss(golden):
    """DINOv2's loss in two sums, on targets made before, is our formula."""
    g = golden("sinkhorn")
    for step in range(2):
        name = f"v2cls/step{step}"
        targets, dim = g.tensor(f"{name}/targets"), g[f"{name}/targets"].shape[-1]
        student = torch.cat([g.tensor(f"{name}/student_global"), g.tensor(f"{name}/student_local")]).view(5, -1, dim)
        loss = dino_loss(student, targets[[1, 0]])  # theirs have the two global views exchanged
        torch.testing.assert_close(loss, g.tensor(f"{name}/loss"), rtol=1e-4, atol=1e-5)


def rank_rows(logits, *options, group):
    return sinkhorn_knopp(logits[torch.distributed.get_rank(group)], *options[:1], log_domain=options[1], group=group)


@proves(NAME, "golden", "worlds")
@both
@pytest.mark.parametrize("case", ["dist", "dist_patch"])
def test_official_numbers_of_two_processes(golden, case, log_domain):
    """With five rows each, and with four and seven; equal to one process on all rows."""
    g = golden("sinkhorn")
    logits = [g.tensor(f"{case}/rank{rank}/logits") for rank in (0, 1)]
    got = run_in_processes(rank_rows, 2, logits, 0.05, log_domain)
    for rank in (0, 1):
        torch.testing.assert_close(got[rank], g.tensor(f"{case}/rank{rank}/q/temp0.05/it3"), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat(got), sinkhorn_knopp(torch.cat(logits), 0.05), rtol=1e-5, atol=1e-6)


@proves(NAME, "worlds")
@both
def test_three_processes_one_of_them_empty(log_domain):
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    got = run_in_processes(rank_rows, 3, [logits[:2], logits[2:2], logits[2:]], 0.1, log_domain)
    torch.testing.assert_close(torch.cat(got), sinkhorn_knopp(logits, 0.1), rtol=1e-5, atol=1e-6)


@proves(NAME, "loop", "property")
@settings(max_examples=40)
@given(rows=st.integers(1, 8), columns=st.integers(1, 8), temperature=st.floats(0.05, 2), iterations=st.integers(0, 6),
       seed=st.integers(0, 99), log_domain=st.booleans())  # fmt: skip
def test_equals_the_matrix(rows, columns, temperature, iterations, seed, log_domain):
    logits = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    got = sinkhorn_knopp(logits, temperature, iterations=iterations, log_domain=log_domain)
    torch.testing.assert_close(got.double(), loop(logits, temperature, iterations), rtol=1e-3, atol=1e-5)


@proves(NAME, "property")
@pytest.mark.parametrize("iterations", [0, 1, 3])
@pytest.mark.parametrize(("small", "large"), [(1, 1), (12, 20)])
def test_blocks_do_not_show(monkeypatch, iterations, small, large):
    """Row by row; and in blocks of 3 and 5 rows, whose last one is shorter."""
    logits = torch.randn(11, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = sinkhorn_knopp(logits, 0.1, iterations=iterations)
    monkeypatch.setattr(sinkhorn, "_SMALL", small)
    monkeypatch.setattr(sinkhorn, "_LARGE", large)
    torch.testing.assert_close(sinkhorn_knopp(logits, 0.1, iterations=iterations), whole)


@proves(NAME, "property")
@pytest.mark.parametrize("form", [sinkhorn._softmax, sinkhorn._below_the_largest])
def test_exponentials_of_a_cpu_and_of_a_gpu(form):
    """One matrix up to a factor of each row, which is returned."""
    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    m, scale = form(logits, 0.5)
    torch.testing.assert_close(scale[:, None] + m.log(), logits / 0.5)
    assert m.max() <= 1
    assert (m.sum(dim=1) > 1 - 1e-12).all()


@proves(NAME, "property")
@both
def test_rows_columns_and_order(log_domain):
    logits = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q = sinkhorn_knopp(logits, 0.2, iterations=50, log_domain=log_domain)
    torch.testing.assert_close(q.sum(dim=1), torch.ones(12, dtype=torch.float64))
    torch.testing.assert_close(q.sum(dim=0), torch.full((5,), 12 / 5, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    rows, columns = torch.randperm(12), torch.randperm(5)
    few = sinkhorn_knopp(logits, 0.2, log_domain=log_domain)
    torch.testing.assert_close(sinkhorn_knopp(logits[rows][:, columns], 0.2, log_domain=log_domain), few[rows][:, columns])
    torch.testing.assert_close(sinkhorn_knopp(logits + 7, 0.2, log_domain=log_domain), few)
    assert sinkhorn_knopp(logits[:0], 0.2, log_domain=log_domain).shape == (0, 5)


@proves(NAME, "property")
@both
@pytest.mark.parametrize("scale", [1, 30, 1e3, 1e6])
def test_finite_at_any_scale(scale, log_domain):
    """Where the public form overflows at once: rows still sum to 1. In the log domain the answer is that of float64."""
    logits = scale * torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
    q = sinkhorn_knopp(logits, 0.04, log_domain=log_domain)
    assert q.isfinite().all()
    torch.testing.assert_close(q.sum(dim=1), torch.ones(16))
    if log_domain and scale <= 1e3:  # of larger ones float32 has no digit after the point
        exact = sinkhorn_knopp(logits.double(), 0.04, log_domain=True)
        torch.testing.assert_close(q.double(), exact, rtol=0, atol=1e-5 * scale)


@proves(NAME, "half")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_sixteen_bits(dtype, autocast):
    logits = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        q = sinkhorn_knopp(logits, 0.05)
    assert q.dtype == torch.float32
    assert torch.equal(q, sinkhorn_knopp(logits.float(), 0.05))


@proves(NAME, "compile")
@both
def test_compiles_in_one_graph(log_domain):
    torch.compiler.reset()
    logits = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(sinkhorn_knopp, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, 0.05, log_domain=log_domain), sinkhorn_knopp(logits, 0.05, log_domain=log_domain))


def test_the_input_stays_and_nothing_flows_back():
    logits = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before = logits.detach().clone()
    assert not sinkhorn_knopp(logits, 1.0).requires_grad
    assert torch.equal(logits, before)


@proves(NAME, "errors")
def test_wrong_input():
    logits = torch.randn(8, 6)
    for call, message in [
        (lambda: sinkhorn_knopp(logits[0], 0.1), "1 axes; expected the axes"),
        (lambda: sinkhorn_knopp(logits, 0.0), "sinkhorn_knopp: got temperature=0.0; expected a finite temperature above 0"),
        (lambda: sinkhorn_knopp(logits, 0.1, iterations=-1), "got iterations=-1; expected a whole number from 0 on"),
        (lambda: sinkhorn_knopp(logits, 0.1, iterations=3.0), "got iterations=3.0; expected a whole number from 0 on"),
        (lambda: sinkhorn_knopp(logits[:, :0], 0.1), r"got logits \[8, 0\]; expected at least one column"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="expected a floating dtype"):
        sinkhorn_knopp(logits.long(), 0.1)
