"""F-measure and mean absolute error of saliency: official numbers, the loop over thresholds, edges."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkit.evaluation import f_beta, mean_absolute_error
from sslkit.testing import proves

F, MAE = "evaluation.f_beta", "evaluation.mean_absolute_error"


@proves(F, "golden")
@proves(MAE, "golden")
def test_official_numbers(golden):
    g = golden("saliency_metrics")
    truth = g.tensor("gt")[None]
    got = f_beta(g.tensor("saliency_f64")[None], truth)
    torch.testing.assert_close(got.precision[0], g.tensor("precision_f64"), rtol=0, atol=1e-12)
    torch.testing.assert_close(got.recall[0], g.tensor("recall_f64"), rtol=0, atol=1e-12)
    assert got.maximum == pytest.approx(g.number("fbeta_max_f64"))
    assert got.each.item() == pytest.approx(g.number("fbeta_max_f64"))
    assert got.adaptive == pytest.approx(g.number("fbeta_adaptive_f64"))
    bright = f_beta(g.tensor("saliency_bright_f64")[None], truth)  # twice its mean is above its maximum
    assert bright.adaptive == pytest.approx(g.number("fbeta_adaptive_bright_f64"))
    assert mean_absolute_error(g.tensor("saliency_f64")[None], truth) == pytest.approx(g.number("mae_f64"))


@proves(F, "loop", "property")
@proves(MAE, "loop", "property")
@given(
    batch=st.integers(1, 3), side=st.integers(1, 5), beta2=st.floats(0.1, 2), levels=st.sampled_from([2, 7, 256]), seed=st.integers(0, 99)
)
def test_equal_the_loop_over_thresholds(batch, side, beta2, levels, seed):
    generator = torch.Generator().manual_seed(seed)
    s = torch.randint(levels, (batch, side, side), generator=generator).double() / (levels - 1)
    truth = torch.rand(batch, side, side, generator=generator) < 0.4
    got = f_beta(s, truth, beta2=beta2)
    curves, each, adaptive = [], [], []
    for one, object_ in zip(s, truth, strict=True):
        if not object_.any():
            continue
        points = []
        for limit in [*(t / 255 for t in range(256)), min(2 * one.mean().item(), one.max().item())]:
            above = one >= limit
            hit = (above & object_).sum().item()
            points.append((hit / max(above.sum().item(), 1), hit / object_.sum().item()))
        f = [(1 + beta2) * p * r / (beta2 * p + r) if p + r else 0.0 for p, r in points]
        curves.append(points[:-1])
        each.append(max(f[:-1]))
        adaptive.append(f[-1])
    assert got.images == len(curves)
    assert got.each.isnan().sum() == batch - len(curves)
    if curves:
        means = [tuple(sum(c[t][k] for c in curves) / len(curves) for k in (0, 1)) for t in range(256)]
        assert got.maximum == pytest.approx(max((1 + beta2) * p * r / (beta2 * p + r) if p + r else 0.0 for p, r in means))
        assert got.each[~got.each.isnan()].tolist() == pytest.approx(each)
        assert got.adaptive == pytest.approx(sum(adaptive) / len(adaptive), rel=1e-6)
    else:
        assert math.isnan(got.maximum)
        assert math.isnan(got.adaptive)
    assert mean_absolute_error(s, truth) == pytest.approx((s - truth.double()).abs().mean().item())


@proves(F, "property", "half")
@proves(MAE, "half")
def test_the_truth_itself_is_perfect_in_every_form(generator):
    truth = torch.rand(2, 6, 6, generator=generator) < 0.4
    for s in (truth.float(), truth.half(), truth.bfloat16()):
        got = f_beta(s, truth)
        assert (got.maximum, got.adaptive, got.images) == (1.0, 1.0, 2)
        assert mean_absolute_error(s, truth) == 0
    for form in (truth.float(), truth.to(torch.uint8) * 255, truth.long()):
        assert f_beta(truth.float()[:, None], form[:, None]).maximum == 1
    assert "max F 1.000" in str(f_beta(truth.float(), truth))


@proves(F, "errors")
@proves(MAE, "errors")
def test_errors():
    for metric in (f_beta, mean_absolute_error):
        with pytest.raises(ValueError, match=rf"{metric.__name__}: got saliency \[1, 4, 4\] and truth \[1, 4, 5\]"):
            metric(torch.zeros(1, 4, 4), torch.zeros(1, 4, 5))
        with pytest.raises(TypeError, match=f"{metric.__name__}: got saliency of dtype torch.uint8"):
            metric(torch.zeros(1, 4, 4, dtype=torch.uint8), torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match="f_beta: got beta2=0"):
        f_beta(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4), beta2=0)
