import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from sslkit.evaluation import linear_probe
from sslkit.evaluation._logistic import fit_lbfgs, fit_sgd, objective
from sslkit.testing import proves


def draw(seed=0, samples=120, tests=50, dim=6, classes=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=generator, dtype=dtype)
    labels = torch.arange(samples + tests) % classes
    x = centres[labels] + torch.randn(samples + tests, dim, generator=generator, dtype=dtype)
    x = x * torch.arange(1, dim + 1) + 3  # features of different scale and mean
    return x[:samples], labels[:samples], x[samples:], labels[samples:]


def loss_by_loop(weights, bias, x, labels, l2):
    total = 0.0
    for row, label in zip(x.tolist(), labels.tolist(), strict=True):
        logits = [sum(w * v for w, v in zip(ws, row, strict=True)) for ws in weights.tolist()]
        logits = [z + b for z, b in zip(logits, bias.tolist(), strict=True)]
        total += math.log(sum(math.exp(z) for z in logits)) - logits[label]
    return total / len(x) + l2 * sum(w * w for ws in weights.tolist() for w in ws)


@proves("evaluation.linear_probe", "loop")
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_objective_and_gradient_equal_loop_and_autograd(l2):
    x, y, _, _ = draw(samples=11)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(4, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, generator=generator, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        loss, by_weights, by_bias = objective(weights, bias, x, y, l2)
    assert loss.item() == pytest.approx(loss_by_loop(weights, bias, x, y, l2), rel=1e-12)
    expected = torch.nn.functional.cross_entropy(x @ weights.T + bias, y) + l2 * weights.square().sum()
    expected.backward()
    torch.testing.assert_close(by_weights, weights.grad)
    torch.testing.assert_close(by_bias, bias.grad)


@proves("evaluation.linear_probe", "loop")
@pytest.mark.parametrize("l2", [1e-1, 1e-2, 1e-3])
def test_reaches_the_optimum_of_scikit_learn(l2):
    """scikit-learn minimises C * sum of cross-entropies + |W|**2 / 2, so C = 1 / (2 * l2 * n)."""
    x, y, tests, test_labels = draw()
    mine = linear_probe(x, y, tests, test_labels, l2=l2, iterations=500)
    assert mine.gradient < 1e-7
    standard = ((x - mine.mean) / mine.scale).numpy()
    np.testing.assert_allclose(standard.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(standard.std(0), 1, atol=1e-12)
    peer = LogisticRegression(C=1 / (2 * l2 * len(x)), tol=1e-10, max_iter=5000).fit(standard, y.numpy())
    np.testing.assert_allclose(mine.weights, peer.coef_, rtol=0, atol=1e-5)
    # only differences of biases are determined
    np.testing.assert_allclose(mine.bias - mine.bias.mean(), peer.intercept_ - peer.intercept_.mean(), rtol=0, atol=1e-5)
    hits = peer.predict(((tests - mine.mean) / mine.scale).numpy()) == test_labels.numpy()
    assert mine.top1 == pytest.approx(100 * hits.mean())


@proves("evaluation.linear_probe", "property")
@given(seed=st.integers(0, 2**32 - 1), shift=st.floats(-5, 5), scale=st.floats(0.01, 100))
@settings(max_examples=15, deadline=None)
def test_affine_features_and_order_do_not_matter_when_standardised(seed, shift, scale):
    x, y, tests, test_labels = draw(seed, samples=40, tests=12, dim=3)
    plain = linear_probe(x, y, tests, test_labels, iterations=100)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    for mine in (
        linear_probe(scale * x + shift, y, scale * tests + shift, test_labels, iterations=100),
        linear_probe(x[order], y[order], tests, test_labels, iterations=100),
    ):
        torch.testing.assert_close(mine.weights, plain.weights, rtol=1e-4, atol=1e-4)


@proves("evaluation.linear_probe", "property")
def test_deterministic_and_falling():
    data = draw(dtype=torch.float32)
    first, second = linear_probe(*data), linear_probe(*data)
    assert torch.equal(first.weights, second.weights)
    assert first.losses == second.losses
    assert first.losses[0] == pytest.approx(math.log(4))  # zero start
    assert min(first.losses) == pytest.approx(first.losses[-1], rel=1e-5)
    assert first.gradient < 1e-3
    assert first.predict(data[2]).eq(data[3]).double().mean().item() * 100 == pytest.approx(first.top1)
    assert torch.equal(first.logits(data[2]).argmax(1), first.predict(data[2]))
    assert linear_probe(*data, iterations=3).losses[-1] > first.losses[-1]


@proves("evaluation.linear_probe", "property")
@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
def test_works_under_no_grad_and_inference_mode(solver):
    data = draw(dtype=torch.float32)

    def fit():
        return linear_probe(*data, solver=solver, epochs=2, generator=torch.Generator().manual_seed(0))

    plain = fit()
    with torch.no_grad():
        assert torch.equal(fit().weights, plain.weights)
    with torch.inference_mode():
        data = tuple(x.clone() for x in data)
        assert torch.equal(fit().weights, plain.weights)
    x = data[0].clone().requires_grad_()
    assert not linear_probe(x, *data[1:], solver=solver, epochs=2).weights.requires_grad


@proves("evaluation.linear_probe", "property")
@pytest.mark.parametrize("value", [0.0, 1000.1, -3e5])
def test_a_constant_feature_changes_nothing(value):
    x, y, tests, test_labels = draw(dtype=torch.float32)
    plain = linear_probe(x, y, tests, test_labels)
    longer, longer_tests = (torch.cat([part, torch.full((len(part), 1), value)], dim=1) for part in (x, tests))
    wide = linear_probe(longer, y, longer_tests, test_labels)
    assert wide.scale[-1] == 1
    torch.testing.assert_close(wide.weights[:, :-1], plain.weights, rtol=1e-3, atol=1e-3)
    assert wide.top1 == plain.top1


@proves("evaluation.linear_probe", "half")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_features_are_widened_first(dtype, autocast):
    x, y, tests, test_labels = draw(dtype=torch.float32)
    x, tests = x.to(dtype), tests.to(dtype)
    expected = linear_probe(x.float(), y, tests.float(), test_labels)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        mine = linear_probe(x, y, tests, test_labels)
        assert mine.logits(tests).dtype == torch.float32
    assert torch.equal(mine.weights, expected.weights)
    assert mine.top1 == expected.top1


@proves("evaluation.linear_probe", "loop")
def test_sgd_equals_torch_optim():
    """DINO's optimiser and schedule from PyTorch's own parts, on the same start and order."""
    x, y, _, _ = draw(samples=50)
    fit = fit_sgd(x, y, 4, l2=0.0, lrs=(0.01,), epochs=4, batch=16, generator=torch.Generator().manual_seed(3))[0]
    generator = torch.Generator().manual_seed(3)
    layer = torch.nn.Linear(6, 4, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(4, 6, generator=generator, dtype=torch.float64) * 0.01)
        layer.bias.zero_()
    solver = torch.optim.SGD(layer.parameters(), 0.01, momentum=0.9, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(solver, 4, eta_min=0)
    for _ in range(4):
        for ids in torch.randperm(50, generator=generator).split(16):
            solver.zero_grad()
            torch.nn.functional.cross_entropy(layer(x[ids]), y[ids]).backward()
            solver.step()
        schedule.step()
    torch.testing.assert_close(fit.weights, layer.weight.detach())
    torch.testing.assert_close(fit.bias, layer.bias.detach())
    assert len(fit.losses) == 4


@proves("evaluation.linear_probe", "property")
def test_a_sweep_is_its_rates_one_by_one_and_does_not_look_at_the_tests():
    data = draw()
    rates = (1e-6, 1e-2, 1e-4)

    def fit(lr, labels):
        generator = torch.Generator().manual_seed(0)
        return linear_probe(*data[:3], labels, solver="sgd", lr=lr, epochs=5, batch=32, generator=generator)

    sweep = fit(rates, data[3])
    assert [row.lr for row in sweep.sweep] == list(rates)
    for row in sweep.sweep:
        single = fit(row.lr, data[3])
        assert (row.top1, row.top5, row.train_top1) == (single.top1, single.top5, single.train_top1)
    torch.testing.assert_close(sweep.weights, fit(1e-2, data[3]).weights)
    others = fit(rates, (data[3] + 1) % 4)
    assert torch.equal(sweep.weights, others.weights)
    assert "lr 0.01" in str(sweep)
    # far too large a rate ends in nan or a huge loss, and is neither chosen nor hidden
    wild = fit((1e300, 1e-2), data[3])
    assert len(wild.sweep) == 2
    torch.testing.assert_close(wild.weights, sweep.weights)


def test_lbfgs_counts_as_many_iterations_as_asked():
    x, y, _, _ = draw()
    few, many = (fit_lbfgs(x, y, 4, l2=1e-3, iterations=n) for n in (5, 60))
    assert many.loss < few.loss
    assert len(few.losses) < len(many.losses)


@proves("evaluation.linear_probe", "pickle")
def test_result_prints_and_pickles():
    data = draw()
    unseen = data[3].clone()
    unseen[0] = 77
    result = pickle.loads(pickle.dumps(linear_probe(*data[:3], unseen)))
    assert result.top1 <= 98
    assert "top-1" in str(result)
    assert "%" in str(result)
    assert result.to_dict()["top1"] == result.top1


@proves("evaluation.linear_probe", "errors")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"test_features": torch.zeros(50, 5)}, ValueError, "expected dim=6 as in train_features"),
        ({"test_labels": torch.zeros(50)}, TypeError, "got test_labels of dtype torch.float32"),
        ({"solver": "adam"}, ValueError, "got solver='adam'; expected 'lbfgs' or 'sgd'"),
        ({"l2": -1.0}, ValueError, "got l2=-1.0"),
        ({"l2": math.nan}, ValueError, "got l2=nan"),
        ({"lr": ()}, ValueError, "at least one learning rate"),
        ({"lr": (0.1, 0.0)}, ValueError, r"got lr\[1\]=0.0"),
        ({"iterations": 0}, ValueError, "got iterations=0"),
        ({"num_classes": 2}, ValueError, r"expected labels in \[0, 1\]"),
        ({"test_features": torch.zeros(0, 6), "test_labels": torch.zeros(0, dtype=torch.long)}, ValueError, "0 test samples"),
    ],
)
def test_wrong_input(change, error, message):
    names = ("train_features", "train_labels", "test_features", "test_labels")
    with pytest.raises(error, match=message):
        linear_probe(**{**dict(zip(names, draw(), strict=True)), **change})
