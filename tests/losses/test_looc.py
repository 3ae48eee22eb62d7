"""LooC: official numbers, the loop, what each head tells apart, one head is MoCo, permuted augmentations, processes."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from sslkit.losses import info_nce, looc_loss
from sslkit.modules import SupportSet
from sslkit.testing import compiles, computes_in_float32, pickles, proves, run_in_processes

NAME = "losses.looc_loss"


def drawn(heads=3, batch=4, size=5, dim=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((heads, batch, dim), (heads, heads, batch, dim), (heads, size, dim))
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def official(golden):
    """queries, keys, queues of the official forward, heads linear on a backbone that is the identity; the features; all arrays."""
    g = golden("looc")
    features = g.tensor("feat_q").requires_grad_()
    queries = torch.einsum("bf,hdf->hbd", features, g.tensor("head_q_weight"))
    keys = torch.einsum("vbf,hdf->vhbd", g.tensor("feat_k"), g.tensor("head_k_weight"))
    return (queries, keys, g.tensor("queue").mT), features, g


@proves(NAME, "golden")
@pytest.mark.parametrize(("others", "prefix"), [("image", ""), ("batch", "batchneg_")])
def test_official_numbers(golden, others, prefix):
    inputs, features, g = official(golden)
    loss = looc_loss(*inputs, temperature=g.number("temperature"), others=others)
    torch.testing.assert_close(loss.detach(), g.tensor(f"{prefix}loss_mean"), rtol=1e-5, atol=1e-6)
    loss.backward()
    torch.testing.assert_close(features.grad, g.tensor(f"{prefix}grad_feat_q"), rtol=1e-4, atol=1e-6)


@proves(NAME, "golden")
@pytest.mark.parametrize(("others", "prefix", "foreign"), [("image", "", 2), ("batch", "batchneg_", 2 * 8)])
def test_official_losses_of_each_head(golden, others, prefix, foreign):
    """A query of length zero is as near to one candidate as to all: a head of such queries costs the logarithm of their number."""
    (queries, keys, queues), _, g = official(golden)
    blind = [math.log(1 + 64), *[math.log(1 + 64 + foreign)] * 2]
    for h, expected in enumerate(g.tensor(f"{prefix}head_losses")):
        alone = torch.zeros_like(queries)
        alone[h] = queries[h]
        mean = looc_loss(alone, keys, queues, temperature=g.number("temperature"), others=others)
        torch.testing.assert_close(3 * mean - (sum(blind) - blind[h]), expected, rtol=1e-5, atol=1e-5)


@proves(NAME, "golden")
def test_official_queues_take_each_its_own_key(golden):
    (_, keys, queues), _, g = official(golden)
    for h in range(3):
        queue = SupportSet(64, 16)
        queue.rows.copy_(queues[h])
        queue.enqueue(keys[h, h])
        torch.testing.assert_close(queue.rows, g.tensor("queue_after")[h].T)


@proves(NAME, "loop", "property", "gradcheck")
@given(
    heads=st.integers(1, 3),
    batch=st.integers(0, 3),
    size=st.integers(0, 4),
    others=st.sampled_from(["image", "batch"]),
    seed=st.integers(0, 99),
)
def test_equals_the_loop_over_heads_and_images(heads, batch, size, others, seed):
    queries, keys, queues = drawn(heads, batch, size, seed=seed)
    q, k, queue = (normalize(x, dim=-1) for x in (queries, keys, queues))
    expected = 0.0
    for h in range(heads):
        for b in range(batch):
            candidates = [k[h, h, b], *queue[h]]
            if h > 0:
                images = [b] if others == "image" else range(batch)
                candidates += [k[v, h, i] for v in range(heads) if v != h for i in images]
            scores = torch.stack([q[h, b] @ c for c in candidates]) / 0.2
            expected += float(scores.logsumexp(dim=0) - scores[0]) / (heads * batch)
    assert looc_loss(queries, keys, queues, others=others).item() == pytest.approx(expected, abs=1e-9)
    if batch:
        assert torch.autograd.gradcheck(lambda x: looc_loss(x, keys, queues, others=others), queries.requires_grad_())


@proves(NAME, "property")
def test_one_head_is_moco_and_renamed_augmentations_change_nothing():
    queries, keys, queues = drawn(heads=1)
    moco = info_nce(queries[0], keys[0, 0], negatives=queues[0], temperature=0.2)
    torch.testing.assert_close(looc_loss(queries, keys, queues), moco)
    queries, keys, queues = drawn(heads=4)
    order = [0, 3, 1, 2]  # of the augmentations; head 0 has none
    turned = looc_loss(queries[order], keys[order][:, order], queues[order])
    torch.testing.assert_close(turned, looc_loss(queries, keys, queues))
    views = [2, 0, 3, 1]  # the same keys in another order, told by `shared`
    torch.testing.assert_close(looc_loss(queries, keys[views], queues, shared=views), looc_loss(queries, keys, queues))


@proves(NAME, "property")
def test_a_head_tells_views_apart_by_its_augmentation_and_by_nothing_else():
    """Embeddings that are the image and both augmentations' draws: each head does best by dropping just what it is to ignore."""
    generator = torch.Generator().manual_seed(0)
    image = normalize(torch.randn(16, 6, generator=generator), dim=1)
    first, second = (normalize(torch.randn(4, 16, 6, generator=generator), dim=2) for _ in range(2))  # draws of query, keys 0, 1, 2
    first[2], second[3] = first[0], second[0]  # key 1 shares the first, key 2 the second

    def embed(view, keep):
        return torch.cat([image, keep[0] * first[view], keep[1] * second[view]], dim=1)

    queue = torch.randn(3, 64, 18, generator=generator)

    def loss(keeps):
        queries = torch.stack([embed(0, keep) for keep in keeps])
        keys = torch.stack([torch.stack([embed(view, keep) for keep in keeps]) for view in (1, 2, 3)])
        return looc_loss(queries, keys, queue).item()

    best = loss([(0, 0), (1, 0), (0, 1)])
    for head in range(3):
        for keep in ((0, 0), (1, 0), (0, 1), (1, 1)):
            keeps = [(0, 0), (1, 0), (0, 1)]
            if keep != keeps[head]:
                keeps[head] = keep
                assert loss(keeps) > best + 0.01, (head, keep)


@proves(NAME, "half", "compile", "pickle")
def test_16_bit_compiled_pickled():
    queries, keys, queues = (x.float() for x in drawn())
    loss = partial(looc_loss, keys=keys, queues=queues)
    computes_in_float32(loss, (queries,))
    compiles(loss, (queries,))
    pickles(loss, (queries,))
    for keys_dtype, queues_dtype, dtype in ((torch.float64, torch.bfloat16, torch.float64), (torch.float16, torch.float64, torch.float32)):
        assert looc_loss(queries.bfloat16(), keys.to(keys_dtype), queues.to(queues_dtype)).dtype == dtype
    assert not looc_loss(queries, keys.requires_grad_(), queues.requires_grad_()).requires_grad


def rank_loss(queries, keys, queues, others, *, group):
    rank, world = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)
    mine = queries[rank].clone().requires_grad_()
    loss = looc_loss(mine, keys[rank], queues, others=others, group=group)
    loss.backward()
    return loss.detach(), mine.grad / world


@proves(NAME, "worlds")
@pytest.mark.parametrize("others", ["image", "batch"])
@pytest.mark.parametrize("cut", [[2, 5], [1, 4, 2]])
def test_processes_equal_one(cut, others):
    queries, keys, queues = drawn(batch=7)
    queries.requires_grad_()
    loss = looc_loss(queries, keys, queues, others=others)
    loss.backward()
    answers = run_in_processes(rank_loss, len(cut), queries.detach().split(cut, dim=1), keys.split(cut, dim=2), queues, others)
    for value, _ in answers:
        torch.testing.assert_close(value, loss.detach())
    torch.testing.assert_close(torch.cat([gradient for _, gradient in answers], dim=1), queries.grad)


@proves(NAME, "errors")
def test_errors():
    queries, keys, queues = drawn()
    with pytest.raises(ValueError, match=r"looc_loss: got shared=\[0, 1, 1\] for 3 views and 3 heads; expected 0 to 2, each once"):
        looc_loss(queries, keys, queues, shared=(0, 1, 1))
    with pytest.raises(ValueError, match=r"looc_loss: got queues \[2, 5, 6\] with heads=2; expected heads=3 as in queries"):
        looc_loss(queries, keys, queues[:2])
    with pytest.raises(ValueError, match="looc_loss: got others='all'"):
        looc_loss(queries, keys, queues, others="all")
    with pytest.raises(ValueError, match="looc_loss: got temperature=0"):
        looc_loss(queries, keys, queues, temperature=0)
