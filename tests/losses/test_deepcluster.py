"""DeepCluster v2: official loss and k-means, loops, processes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from sslkit.losses import deepcluster_loss, spherical_kmeans
from sslkit.testing import proves, run_in_processes

LOSS, KMEANS = "losses.deepcluster_loss", "losses.spherical_kmeans"


@proves(LOSS, "golden")
def test_official_loss(golden):
    g = golden("deepclusterv2")
    scores = g.tensor("scores").requires_grad_()
    loss = deepcluster_loss(scores, g.tensor("assignments"), temperature=g.number("temperature"))
    torch.testing.assert_close(loss.detach(), g.tensor("loss"), rtol=1e-5, atol=1e-6)
    loss.backward()
    torch.testing.assert_close(scores.grad, g.tensor("grad_scores"), rtol=1e-4, atol=1e-6)


@proves(KMEANS, "golden")
def test_official_kmeans(golden):
    g = golden("deepclusterv2")
    got = spherical_kmeans(g.tensor("km_emb"), g.tensor("km_centroids0"), iterations=10, chunk=7)
    torch.testing.assert_close(got.centroids, g.tensor("km_centroids10"), rtol=0, atol=1e-5)
    assert torch.equal(got.assignments, g.tensor("km_assign"))


def drawn(heads, views, batch, count, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(heads, views, batch, count, generator=generator, dtype=torch.float64)
    return scores, torch.randint(-1, count, (heads, batch), generator=generator)


@proves(LOSS, "loop", "property", "gradcheck")
@given(heads=st.integers(1, 2), views=st.integers(1, 3), batch=st.integers(0, 4), count=st.integers(1, 4), seed=st.integers(0, 99))
def test_equals_the_loop_over_pictures_with_a_cluster(heads, views, batch, count, seed):
    scores, assignments = drawn(heads, views, batch, count, seed)
    expected = 0.0
    for h in range(heads):
        known = [b for b in range(batch) if assignments[h, b] >= 0]
        terms = [-functional.log_softmax(scores[h, v, b] / 0.1, dim=0)[assignments[h, b]].item() for v in range(views) for b in known]
        expected += sum(terms) / max(len(terms), 1) / heads
    assert deepcluster_loss(scores, assignments).item() == pytest.approx(expected, abs=1e-9)
    assert torch.autograd.gradcheck(lambda s: deepcluster_loss(s, assignments), scores.requires_grad_())


@proves(KMEANS, "loop", "property")
@given(rows=st.integers(1, 9), count=st.integers(1, 4), dim=st.integers(1, 4), iterations=st.integers(1, 4), seed=st.integers(0, 99))
def test_kmeans_equals_the_loop(rows, count, dim, iterations, seed):
    generator = torch.Generator().manual_seed(seed)
    x = functional.normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64), dim=1)
    start = functional.normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=1)
    means = start.clone()
    for step in range(iterations + 1):
        nearest = [max(range(count), key=lambda k, row=row: (float(row @ means[k]), -k)) for row in x]
        if step < iterations:
            for k in range(count):
                members = x[[n for n in range(rows) if nearest[n] == k]]
                if len(members):
                    means[k] = functional.normalize(members.sum(dim=0), dim=0, eps=1e-6)
    got = spherical_kmeans(x, start, iterations=iterations)
    torch.testing.assert_close(got.centroids, means)
    if dim > 1:  # on a line, rows tie
        assert got.assignments.tolist() == nearest


@proves(LOSS, "half", "compile")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_scores_are_judged_in_float32(dtype):
    scores, assignments = drawn(2, 3, 4, 5, 0)
    scores = scores.to(dtype)
    torch.testing.assert_close(deepcluster_loss(scores, assignments), deepcluster_loss(scores.float(), assignments))
    compiled = torch.compile(deepcluster_loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(scores, assignments), deepcluster_loss(scores, assignments))


@proves(KMEANS, "half")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_embeddings_are_clustered_in_float32(dtype, generator):
    x = functional.normalize(torch.randn(20, 6, generator=generator), dim=1).to(dtype)
    got, wide = spherical_kmeans(x, x[:3]), spherical_kmeans(x.float(), x[:3].float())
    assert torch.equal(got.centroids, wide.centroids)


def rank_part(scores, assignments, x, start, *, group):
    rank, world = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)
    mine = scores[rank].clone().requires_grad_()
    loss = deepcluster_loss(mine, assignments[rank], group=group)
    loss.backward()
    clusters = spherical_kmeans(x[rank], start, group=group)
    return loss.detach(), mine.grad / world, clusters.centroids, clusters.assignments


@proves(LOSS, "worlds")
@proves(KMEANS, "worlds")
@pytest.mark.parametrize("cut", [[2, 5], [1, 4, 2]])
def test_processes_equal_one(cut, generator):
    scores, assignments = drawn(2, 3, 7, 5, 1)
    assignments[1, 0] = -1  # one head knows fewer, and one process of two knows none
    x = functional.normalize(torch.randn(7, 4, generator=generator, dtype=torch.float64), dim=1)
    whole = spherical_kmeans(x, x[:2])
    parts = (scores.split(cut, dim=2), assignments.split(cut, dim=1), x.split(cut), x[:2])
    scores.requires_grad_()
    loss = deepcluster_loss(scores, assignments)
    loss.backward()
    answers = run_in_processes(rank_part, len(cut), *(tuple(t.detach() for t in p) if isinstance(p, tuple) else p for p in parts))
    for answer in answers:
        torch.testing.assert_close(answer[0], loss.detach())
        torch.testing.assert_close(answer[2], whole.centroids)
    torch.testing.assert_close(torch.cat([answer[1] for answer in answers], dim=2), scores.grad)
    assert torch.equal(torch.cat([answer[3] for answer in answers]), whole.assignments)


@proves(LOSS, "errors")
@proves(KMEANS, "errors")
def test_errors():
    with pytest.raises(TypeError, match="deepcluster_loss: got assignments of dtype torch.int32; expected int64, -1 where there is none"):
        deepcluster_loss(torch.zeros(1, 2, 3, 4), torch.zeros(1, 3, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"deepcluster_loss: got assignments \[2, 3\] with heads=2; expected heads=1"):
        deepcluster_loss(torch.zeros(1, 2, 3, 4), torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="spherical_kmeans: got iterations=0; expected a whole iterations from 1 on"):
        spherical_kmeans(torch.zeros(3, 2), torch.zeros(2, 2), iterations=0)
    with pytest.raises(TypeError, match="spherical_kmeans: got embeddings of dtype torch.int64"):
        spherical_kmeans(torch.zeros(3, 2, dtype=torch.int64), torch.zeros(2, 2))
