import math
import pickle
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from sslkit.evaluation import Spread, few_shot, linear_probe, semi_supervised_subset
from sslkit.evaluation.subsets import class_ranks
from sslkit.testing import proves

seeds = st.integers(0, 2**32 - 1)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def draw(seed=0, samples=90, tests=40, dim=5, classes=3):
    generator = seeded(seed)
    labels = torch.arange(samples + tests) % classes
    x = torch.randn(classes, dim, generator=generator)[labels] + torch.randn(samples + tests, dim, generator=generator)
    return x[:samples], labels[:samples], x[samples:], labels[samples:]


@proves("evaluation.few_shot", "loop")
def test_equals_probes_on_hand_drawn_samples():
    x, y, tests, test_labels = draw()
    result = few_shot(x, y, tests, test_labels, shots=4, episodes=3, generator=seeded(5))
    generator = seeded(5)
    for episode in result.draws:
        noise = torch.rand(len(y), generator=generator, dtype=torch.float64)
        ids = []
        for name in range(3):
            members = [i for i in range(len(y)) if y[i] == name]
            ids += sorted(members, key=lambda i: noise[i].item())[:4]
        ids.sort()
        probe = linear_probe(x[ids], y[ids], tests, test_labels, l2=1e-2)
        assert (episode.top1, episode.top5) == (probe.top1, probe.top5)
    values = [episode.top1 for episode in result.draws]
    assert result.top1.mean == pytest.approx(statistics.mean(values))
    assert result.top1.sd == pytest.approx(statistics.stdev(values))
    assert result.top1.high - result.top1.mean == pytest.approx(4.303 * statistics.stdev(values) / math.sqrt(3))


@proves("evaluation.few_shot", "property")
@given(seed=seeds, classes=st.integers(1, 5), shots=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_draws_are_balanced_nested_and_repeatable(seed, classes, shots):
    labels = torch.randint(classes, (60,), generator=seeded(seed)) * 3 - 1  # gaps and a negative id are all right for drawing
    few, more = seeded(seed), seeded(seed)
    for _ in range(3):  # later draws stay nested too, as the number of shots takes nothing from the generator
        small, large = class_ranks(labels, few)[0] < shots, class_ranks(labels, more)[0] < shots + 2
        assert (small <= large).all()
        for name in labels.unique():
            assert small[labels == name].sum() == min(shots, (labels == name).sum())


@proves("evaluation.few_shot", "property")
def test_same_seed_same_numbers_and_all_shots_leave_nothing_to_draw():
    data = draw()
    assert few_shot(*data, shots=2, generator=seeded(1)) == few_shot(*data, shots=2, generator=seeded(1))
    full = few_shot(*data, shots=30, episodes=2, generator=seeded(1))
    assert full.top1.sd == 0
    assert full.draws[0].top1 == linear_probe(*data, l2=1e-2).top1
    result = pickle.loads(pickle.dumps(few_shot(*data, shots=1, episodes=2, generator=seeded(1))))
    assert str(result).startswith("1-shot linear (l2=0.01, 2 draws): top-1 ")
    assert len(result.to_dict()["draws"]) == 2


@proves("evaluation.few_shot", "half")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_features_are_widened_first(dtype, autocast):
    x, y, tests, test_labels = draw()
    x, tests = x.to(dtype), tests.to(dtype)
    expected = few_shot(x.float(), y, tests.float(), test_labels, shots=3, episodes=2, generator=seeded(0))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert few_shot(x, y, tests, test_labels, shots=3, episodes=2, generator=seeded(0)) == expected


def test_interval_is_students():
    for n in (2, 5, 31, 32, 40, 200):
        values = tuple(float(i) for i in range(n))
        spread = Spread.of(values)
        expected = student.ppf(0.975, n - 1) * spread.sd / math.sqrt(n)
        assert spread.high - spread.mean == pytest.approx(expected, rel=1e-3)
    one = Spread.of((3.0,))
    assert one.mean == 3
    assert math.isnan(one.sd)
    assert math.isnan(one.low)


@proves("evaluation.few_shot", "errors")
def test_wrong_input():
    x, y, tests, test_labels = draw()
    y = y.clone()
    y[:2] = 8
    with pytest.raises(ValueError, match="got shots=3 with 2 samples of class 8; expected at least `shots` samples"):
        few_shot(x, y, tests, test_labels, shots=3)
    with pytest.raises(ValueError, match="got shots=0"):
        few_shot(x, y, tests, test_labels, shots=0)
    with pytest.raises(ValueError, match="expected samples=90"):
        few_shot(x, y[:3], tests, test_labels, shots=1)


@proves("evaluation.semi_supervised_subset", "property", "loop")
@given(seed=seeds, classes=st.integers(1, 6), samples=st.integers(20, 120), fractions=st.tuples(st.floats(0.3, 1), st.floats(0.3, 1)))
@settings(max_examples=50, deadline=None)
def test_subsets_are_balanced_nested_and_repeatable(seed, classes, samples, fractions):
    labels = torch.randint(classes, (samples,), generator=seeded(seed))
    low, high = sorted(fractions)
    small, large = (semi_supervised_subset(labels, f, seeded(seed)) for f in (low, high))
    assert set(small.tolist()) <= set(large.tolist())
    assert torch.equal(small, semi_supervised_subset(labels, low, seeded(seed)))
    assert small.tolist() == sorted(set(small.tolist()))
    assert len(small) == math.floor(low * samples + 1e-6)
    # as even as the classes allow: a class below the fullest by two or more is used up
    total, taken = labels.bincount(minlength=classes), labels[small].bincount(minlength=classes)
    for name in range(classes):
        assert taken[name] == total[name] or taken[name] >= taken.max() - 1
    assert semi_supervised_subset(labels, 1, seeded(0)).tolist() == list(range(samples))


@proves("evaluation.semi_supervised_subset", "property")
@pytest.mark.parametrize(("fraction", "count", "low"), [(0.01, 12811, 12), (0.1, 128116, 128)])
def test_counts_of_imagenet(fraction, count, low):
    """The published lists: 12,811 and 128,116 of 1,281,167 images, 12-13 and 128-129 per class, classes of 732 to 1300."""
    sizes = torch.full((1000,), 1300)
    excess = int(sizes.sum()) - 1_281_167
    sizes[:34] -= excess // 34
    sizes[0] -= excess % 34
    labels = torch.arange(1000).repeat_interleave(sizes)
    subset = semi_supervised_subset(labels, fraction, seeded(0))
    assert len(subset) == count
    assert set(labels[subset].bincount().tolist()) == {low, low + 1}


@proves("evaluation.semi_supervised_subset", "errors")
def test_wrong_fractions():
    labels = torch.arange(10) % 5
    for fraction in (0, 1.5, math.nan):
        with pytest.raises(ValueError, match="expected a fraction in"):
            semi_supervised_subset(labels, fraction)
    with pytest.raises(ValueError, match="of 10 samples, 3; expected at least one for each of 5 classes"):
        semi_supervised_subset(labels, 0.3)
    with pytest.raises(TypeError, match="class ids of an integer dtype"):
        semi_supervised_subset(labels.double(), 0.5)
