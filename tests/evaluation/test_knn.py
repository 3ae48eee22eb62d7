import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from sslkit.evaluation import knn_classify, nearest_neighbours
from sslkit.evaluation._search import _largest, unit_rows
from sslkit.evaluation.knn import _votes
from sslkit.testing import proves

seeds = st.integers(0, 2**32 - 1)


def draw(seed, bank=60, queries=9, dim=6, classes=7, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(bank + queries, dim, generator=generator, dtype=dtype)
    labels = torch.randint(classes, (bank,), generator=generator)
    return rows[:bank], labels, rows[bank:]


def by_loop(train, labels, test, k, temperature):
    """Votes of every query as a dict class -> sum, in Python floats, from the definition."""
    votes = []
    for q in test.tolist():
        scored = []
        for row, label in zip(train.tolist(), labels.tolist(), strict=True):
            dot = sum(a * b for a, b in zip(q, row, strict=True))
            scored.append((dot / (math.hypot(*q) * math.hypot(*row)), label))
        table = {}
        for similarity, label in sorted(scored, reverse=True)[:k]:
            table[label] = table.get(label, 0.0) + math.exp(similarity / temperature)
        votes.append(table)
    return votes


def ranked(votes):
    rows = [sorted(table, key=table.get, reverse=True)[:5] for table in votes]
    return [row + [-1] * (5 - len(row)) for row in rows]


@pytest.mark.golden
@proves("evaluation.knn_classify", "golden")
@pytest.mark.parametrize("shape", [{}, {"chunk": 7, "shard": 33}])
def test_official_accuracies(golden, shape):
    g = golden("dino_knn")
    train, labels, test = g.tensor("train_features"), g.tensor("train_labels"), g.tensor("test_features")
    for i, k in enumerate(g["k"].tolist()):
        result = knn_classify(train, labels, test, k=k, temperature=g.number("temperature"), **shape)
        accuracy = result.accuracy(g.tensor("test_labels"))
        assert accuracy.top1 == pytest.approx(g["top1"][i], abs=1e-9)
        assert accuracy.top5 == pytest.approx(g["top5_voted_only"][i], abs=1e-9)


@pytest.mark.golden
@proves("evaluation.knn_classify", "golden")
def test_official_scores(golden):
    g = golden("dino_knn")
    train, test = g.tensor("train_features", torch.float64), g.tensor("test_features", torch.float64)
    for k in g["k"].tolist():
        scores = g.tensor(f"scores_f64/k{k}")
        found = nearest_neighbours(test, train, k)
        votes = _votes(found.similarity, g.tensor("train_labels")[found.ids], g.number("num_classes"), g.number("temperature"))
        # ours are relative to the vote of the nearest; the features of the file have length 1 to float32 only, hence 1e-5.
        mine = votes * (found.similarity[:, :1] / g.number("temperature")).exp()
        torch.testing.assert_close(mine, scores.double(), rtol=1e-5, atol=1e-9)
        result = knn_classify(train, g.tensor("train_labels"), test, k=k, temperature=g.number("temperature"))
        order = scores.argsort(dim=1, descending=True)[:, :5]
        voted = scores.gather(1, order) > 0
        assert torch.equal(result.predictions, order.masked_fill(~voted, -1))
        shares = (scores / scores.sum(1, keepdim=True)).gather(1, order)
        torch.testing.assert_close(result.shares, shares.double(), rtol=1e-5, atol=1e-9)


@proves("evaluation.knn_classify", "loop")
@given(seed=seeds, k=st.integers(1, 80), temperature=st.floats(0.02, 5), classes=st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_equals_the_loop(seed, k, temperature, classes):
    train, labels, test = draw(seed, bank=40, classes=classes, dtype=torch.float64)
    result = knn_classify(train, labels, test, k=k, temperature=temperature)
    expected = by_loop(train, labels, test, k, temperature)
    # votes within rounding of each other may come in either order: compare the votes of the classes named, place by place
    for row, table in zip(result.predictions.tolist(), expected, strict=True):
        wanted = ranked([table])[0]
        assert [c >= 0 for c in row] == [c >= 0 for c in wanted]
        mine, best = ([table[c] for c in classes if c >= 0] for classes in (row, wanted))
        assert mine == pytest.approx(best, rel=1e-9)


@proves("evaluation.knn_classify", "property")
@given(seed=seeds, k=st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_order_scale_and_copies_of_the_bank_do_not_matter(seed, k):
    train, labels, test = draw(seed, dtype=torch.float64)
    expected = knn_classify(train, labels, test, k=k)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    lengths = torch.rand(len(train), 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    for mine in (
        knn_classify(train[order], labels[order], test, k=k),
        knn_classify(torch.cat([train, train]), torch.cat([labels, labels]), test, k=2 * k),
        knn_classify(train * lengths, labels, test * 1e-3, k=k),
    ):
        assert torch.equal(mine.predictions, expected.predictions)
        torch.testing.assert_close(mine.shares, expected.shares, rtol=1e-9, atol=1e-12)


@proves("evaluation.knn_classify", "property")
@given(seed=seeds, k=st.integers(1, 90), chunk=st.integers(1, 12), shard=st.integers(1, 70))
@settings(max_examples=40, deadline=None)
def test_chunks_and_shards_do_not_matter(seed, k, chunk, shard):
    train, labels, test = draw(seed, dtype=torch.float64)
    whole, parts = knn_classify(train, labels, test, k=k), knn_classify(train, labels, test, k=k, chunk=chunk, shard=shard)
    assert torch.equal(whole.predictions, parts.predictions)
    torch.testing.assert_close(whole.shares, parts.shares, rtol=1e-9, atol=1e-12)


@proves("evaluation.nearest_neighbours", "loop", "property")
@given(seed=seeds, k=st.integers(1, 90), chunk=st.integers(1, 12), shard=st.integers(1, 70))
@settings(max_examples=40, deadline=None)
def test_streaming_equals_the_full_sort(seed, k, chunk, shard):
    train, _, test = draw(seed, dtype=torch.float64)
    found = nearest_neighbours(test, train, k, chunk=chunk, shard=shard)
    similarity = normalize(test, dim=1) @ normalize(train, dim=1).T
    values, ids = similarity.sort(dim=1, descending=True)
    assert torch.equal(found.ids, ids[:, :k])
    torch.testing.assert_close(found.similarity, values[:, :k], rtol=0, atol=1e-14)


@proves("evaluation.nearest_neighbours", "property")
@given(seed=seeds, columns=st.integers(1, 5000), k=st.integers(1, 300), ties=st.booleans())
@settings(max_examples=60, deadline=None)
def test_search_in_groups_is_exact(seed, columns, k, ties):
    x = torch.randn(3, columns, generator=torch.Generator().manual_seed(seed))
    x = x.round() if ties else x
    k = min(k, columns)
    values, ids = _largest(x, k)
    assert torch.equal(values.sort(dim=1, descending=True).values, x.topk(k, dim=1).values)
    assert torch.equal(x.gather(1, ids), values)
    assert all(len(set(row)) == k for row in ids.tolist())  # no column twice


def test_search_in_groups_is_taken_where_it_pays():
    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        ranked = 0

        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            if op is torch.ops.aten.topk.default:
                self.ranked += args[0].shape[1]
            return op(*args, **(kwargs or {}))

    with Spy() as spy:
        _largest(torch.randn(2, 50_000, generator=torch.Generator().manual_seed(0)), 20)
    assert spy.ranked < 3000


@proves("evaluation.knn_classify", "property")
def test_one_neighbour_is_its_label_at_any_temperature():
    train, labels, test = draw(0)
    nearest = labels[(normalize(test, dim=1) @ normalize(train, dim=1).T).argmax(dim=1)]
    for temperature in (1e-3, 0.07, 1e3):
        result = knn_classify(train, labels, test, k=1, temperature=temperature)
        assert torch.equal(result.predictions[:, 0], nearest)
        assert (result.predictions[:, 1:] == -1).all()
        assert torch.equal(result.shares, torch.eye(5)[0].expand(len(test), -1))


@proves("evaluation.knn_classify", "property")
def test_limits_of_the_temperature():
    train, labels, test = draw(1, dtype=torch.float64)
    cold = knn_classify(train, labels, test, k=60, temperature=1e-4)
    assert torch.equal(cold.predictions[:, 0], knn_classify(train, labels, test, k=1).predictions[:, 0])
    assert torch.equal(cold.predictions >= 0, torch.ones_like(cold.predictions, dtype=torch.bool))  # underflow is still a vote
    hot = knn_classify(train, labels, test, k=60, temperature=1e8)
    counts = labels.bincount()
    assert (counts[hot.predictions[:, 0]] == counts.max()).all()
    torch.testing.assert_close(hot.shares[:, 0], (counts.max() / 60).double().expand(len(test)))


@proves("evaluation.knn_classify", "property")
def test_small_sets_and_unseen_classes():
    train, labels, test = draw(2, bank=3, queries=1, classes=2)
    result = knn_classify(train, labels, test, k=20)
    assert result.k == 3
    assert result.predictions.shape == (1, 5)
    assert (result.predictions[:, 2:] == -1).all()
    accuracy = result.accuracy(torch.tensor([9]))
    assert (accuracy.top1, accuracy.top5) == (0, 0)
    assert result.accuracy(torch.tensor([-1])).top5 == 0  # an empty place answers nothing
    assert knn_classify(train, labels, train[:0]).predictions.shape == (0, 5)


@proves("evaluation.knn_classify", "half")
@proves("evaluation.nearest_neighbours", "half")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_features_are_widened_first(dtype, autocast):
    train, labels, test = (x.to(dtype) if x.is_floating_point() else x for x in draw(3))
    expected = knn_classify(train.float(), labels, test.float())
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        mine = knn_classify(train, labels, test)
        found = nearest_neighbours(test, train)
    assert mine.shares.dtype == found.similarity.dtype == torch.float32
    assert torch.equal(mine.predictions, expected.predictions)
    torch.testing.assert_close(mine.shares, expected.shares, rtol=1e-6, atol=1e-7)


def test_any_scale_and_zero_rows_are_finite():
    train, labels, test = draw(4)
    expected = knn_classify(train, labels, test)
    for scale in (1e-35, 1e35):
        assert torch.equal(knn_classify(train * scale, labels, test / scale).predictions, expected.predictions)
    assert torch.equal(unit_rows(torch.zeros(2, 3), torch.float32), torch.zeros(2, 3))
    assert nearest_neighbours(torch.zeros(1, 6), train, 2).similarity.tolist() == [[0, 0]]


def test_float64_stays_and_inference_mode_works():
    train, labels, test = draw(5, dtype=torch.float64)
    assert knn_classify(train, labels, test).shares.dtype == torch.float64
    with torch.inference_mode():
        knn_classify(train.clone(), labels, test.clone())
    train.requires_grad_()
    assert not knn_classify(train, labels, test).shares.requires_grad


@proves("evaluation.knn_classify", "pickle")
def test_result_prints_its_settings_and_pickles():
    train, labels, test = draw(6)
    result = pickle.loads(pickle.dumps(knn_classify(train, labels.to(torch.uint8), test, k=11, temperature=0.2)))
    assert "k=11, T=0.2" in str(result)
    assert result.to_dict() == {"k": 11, "temperature": 0.2, "bank": 60, "classes": 7, "queries": 9}
    assert "percent" not in str(result.accuracy(labels[:9]))
    assert "%" in str(result.accuracy(labels[:9]))


@proves("evaluation.knn_classify", "errors")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"test_features": torch.zeros(3, 5)}, ValueError, r"got test_features \[3, 5\] with dim=5; expected dim=6"),
        ({"train_labels": torch.zeros(59, dtype=torch.long)}, ValueError, "expected bank=60"),
        ({"train_labels": torch.zeros(60)}, TypeError, r"got train_labels of dtype torch.float32.*To mend"),
        ({"train_features": torch.zeros(60, 6, dtype=torch.uint8)}, TypeError, "expected a floating dtype"),
        ({"k": 0}, ValueError, "got k=0"),
        ({"temperature": 0.0}, ValueError, "got temperature=0.0"),
        ({"chunk": 0}, ValueError, "got chunk=0"),
        ({"num_classes": 3}, ValueError, r"got train_labels from 0 to 6 with 3 classes; expected labels in \[0, 2\]"),
        ({"train_labels": torch.full((60,), -1)}, ValueError, "got train_labels from -1 to -1"),
        ({"train_features": torch.zeros(0, 6), "train_labels": torch.zeros(0, dtype=torch.long)}, ValueError, "without rows"),
    ],
)
def test_wrong_input(change, error, message):
    train, labels, test = draw(7)
    given_ = {"train_features": train, "train_labels": labels, "test_features": test, **change}
    with pytest.raises(error, match=message):
        knn_classify(**given_)


@proves("evaluation.nearest_neighbours", "errors")
def test_wrong_search():
    with pytest.raises(ValueError, match="nearest_neighbours: got database"):
        nearest_neighbours(torch.zeros(2, 3), torch.zeros(4, 5))
    with pytest.raises(ValueError, match="got k=0"):
        nearest_neighbours(torch.zeros(2, 3), torch.zeros(4, 3), 0)
