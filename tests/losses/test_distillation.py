"""DeiT's distillation losses: official numbers, the formulas class by class, limits and invariances."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from sslkit.losses import hard_distillation_loss, soft_distillation_loss
from sslkit.testing import proves

SOFT, HARD = "losses.soft_distillation_loss", "losses.hard_distillation_loss"
BOTH = [soft_distillation_loss, hard_distillation_loss]


def logits(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@proves(SOFT, "golden")
@proves(HARD, "golden")
def test_official_numbers(golden):
    """Loss and both gradients, with every base criterion that DeiT trains with."""
    g = golden("deit_loss")
    kinds = set()
    for i, case in enumerate(g["case_names"].tolist()):
        kind, criterion, *_ = case.split("|")
        student, distilled = (g.tensor(name).requires_grad_() for name in ("outputs", "outputs_kd"))
        teacher, labels, soft = g.tensor("teacher"), g.tensor("labels"), g.tensor("soft_labels")
        base = {
            "ce": lambda x, y=labels: functional.cross_entropy(x, y),
            "ls0.1": lambda x, y=labels: functional.cross_entropy(x, y, label_smoothing=0.1),
            "soft": lambda x, y=soft: functional.cross_entropy(x, y),
            "bce": lambda x, y=soft: functional.binary_cross_entropy_with_logits(x, y.gt(0.1).float()),
        }[criterion](student)
        beside, temperature = {"base": base, "alpha": g.number(f"case{i}/alpha")}, g.number(f"case{i}/tau")
        loss = {
            "none": lambda base=base: base,
            "soft": partial(soft_distillation_loss, distilled, teacher, temperature=temperature, reduction="element", **beside),
            "hard": partial(hard_distillation_loss, distilled, teacher, **beside),
        }[kind]()
        torch.testing.assert_close(loss.detach(), g.tensor(f"case{i}/loss"), rtol=1e-5, atol=1e-6, msg=case)
        for x, name in ((student, "grad_outputs"), (distilled, "grad_outputs_kd")):
            (gradient,) = torch.autograd.grad(loss, x, retain_graph=True, materialize_grads=True)
            torch.testing.assert_close(gradient, g.tensor(f"case{i}/{name}"), rtol=1e-5, atol=1e-6, msg=f"{case} {name}")
        kinds.add(kind)
    assert kinds == {"none", "soft", "hard"}


def softmax(row):
    total = sum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


@proves(SOFT, "loop", "property")
@proves(HARD, "loop", "property")
@settings(max_examples=40)
@given(batch=st.integers(0, 4), classes=st.integers(1, 6), temperature=st.floats(0.3, 10), alpha=st.floats(0, 1), seed=st.integers(0, 99))
def test_equal_the_formulas_class_by_class(batch, classes, temperature, alpha, seed):
    student, teacher, base = (
        logits(batch, classes, seed=seed),
        logits(batch, classes, seed=seed + 1),
        torch.tensor(0.7, dtype=torch.float64),
    )
    soft = hard = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = softmax([x / temperature for x in s]), softmax([x / temperature for x in t])
        soft += temperature**2 * sum(b * math.log(b / a) for a, b in zip(q, p, strict=True)) / batch
        hard -= math.log(softmax(s)[t.index(max(t))]) / batch
    close = partial(pytest.approx, rel=1e-9, abs=1e-12)
    assert soft_distillation_loss(student, teacher, temperature=temperature).item() == close(soft)
    assert soft_distillation_loss(student, teacher, temperature=temperature, reduction="element").item() == close(soft / classes)
    assert hard_distillation_loss(student, teacher).item() == close(hard)
    mixed = soft_distillation_loss(student, teacher, temperature=temperature, base=base, alpha=alpha)
    assert mixed.item() == close((1 - alpha) * 0.7 + alpha * soft)
    assert hard_distillation_loss(student, teacher, base=base, alpha=alpha).item() == close((1 - alpha) * 0.7 + alpha * hard)
    assert hard_distillation_loss(student, teacher, base=base) == hard_distillation_loss(student, teacher, base=base, alpha=0.5)
    assert soft >= -1e-12


@proves(SOFT, "property")
@proves(HARD, "property")
@pytest.mark.parametrize("function", BOTH)
def test_a_term_without_share_has_no_say_not_even_nan(function):
    student, teacher, base = logits(3, 5).requires_grad_(), logits(3, 5, seed=1), logits(1)[0].requires_grad_()
    wild = torch.full_like(student, math.nan).requires_grad_()
    assert function(wild, teacher, base=base, alpha=0) is base
    alone = function(student, teacher, base=base * math.inf, alpha=1)
    assert alone == function(student, teacher)
    assert torch.autograd.grad(alone, base, allow_unused=True) == (None,)


@proves(SOFT, "property")
@proves(HARD, "property")
@pytest.mark.parametrize("function", BOTH)
def test_no_gradient_to_the_teacher_and_order_of_images_and_classes_is_no_matter(function):
    student, teacher = logits(4, 5).requires_grad_(), logits(4, 5, seed=1).requires_grad_()
    loss = function(student, teacher)
    assert torch.autograd.grad(loss, teacher, allow_unused=True, retain_graph=True) == (None,)
    torch.testing.assert_close(torch.autograd.grad(loss, student)[0].sum(-1), torch.zeros(4, dtype=torch.float64))
    rows, columns = torch.tensor([2, 0, 3, 1]), torch.tensor([4, 2, 0, 1, 3])
    torch.testing.assert_close(function(student[rows][:, columns], teacher[rows][:, columns]), loss)
    torch.testing.assert_close(function(student + logits(4, 1, seed=2), teacher + logits(4, 1, seed=3)), loss)


@proves(SOFT, "property")
def test_nothing_to_learn_from_equal_distributions_and_something_from_others():
    teacher = logits(3, 5)
    same = (teacher + logits(3, 1, seed=1)).requires_grad_()
    loss = soft_distillation_loss(same, teacher, temperature=2.0)
    torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.autograd.grad(loss, same)[0], torch.zeros_like(teacher), rtol=0, atol=1e-14)
    assert soft_distillation_loss(teacher + torch.eye(3, 5) * 0.01, teacher) > 1e-6


@proves(SOFT, "property")
def test_the_gradient_at_a_high_temperature_is_the_centred_difference():
    """Its first-order error is of the size of a logit over the temperature."""
    student, teacher = logits(3, 5).requires_grad_(), logits(3, 5, seed=1)
    difference = student.detach() - teacher
    expected = (difference - difference.mean(dim=-1, keepdim=True)) / 5 / 3
    for temperature in (1e2, 1e4):
        (gradient,) = torch.autograd.grad(soft_distillation_loss(student, teacher, temperature=temperature), student)
        assert (gradient - expected).norm() < 5 / temperature * expected.norm()


@proves(HARD, "property")
def test_only_the_order_of_the_teachers_classes_counts():
    student, teacher = logits(6, 5), logits(6, 5, seed=1)
    loss = hard_distillation_loss(student, teacher)
    for monotone in (torch.exp, torch.tanh, lambda x: 7 * x - 3, lambda x: x.softmax(-1), lambda x: x**3):
        assert hard_distillation_loss(student, monotone(teacher)) == loss
    # a sharp teacher's cross-entropy is the divergence of the soft loss: its own entropy is 0
    torch.testing.assert_close(soft_distillation_loss(student, 1e4 * teacher), loss)


@proves(SOFT, "errors")
@proves(HARD, "errors")
def test_errors():
    x = torch.zeros(4, 5)
    for function in BOTH:
        name = function.__name__
        with pytest.raises(ValueError, match=rf"{name}: got teacher_logits \[4, 6\] with classes=6; expected classes=5 as in stu"):
            function(x, torch.zeros(4, 6))
        with pytest.raises(TypeError, match=f"{name}: got student_logits of type tuple; expected a tensor"):
            function((x, x), x)
        with pytest.raises(TypeError, match="got teacher_logits of dtype torch.int64; expected a floating dtype"):
            function(x, x.long())
        with pytest.raises(ValueError, match=f"{name}: got alpha=0.3 without base; expected both or neither. To mend: pass base="):
            function(x, x, alpha=0.3)
        with pytest.raises(ValueError, match=r"got alpha=1.5; expected alpha in \[0, 1\]"):
            function(x, x, base=x.sum(), alpha=1.5)
        with pytest.raises(ValueError, match=r"got base \[4\]; expected a scalar"):
            function(x, x, base=x[:, 0])
    with pytest.raises(ValueError, match="got temperature=0; expected a finite temperature above 0"):
        soft_distillation_loss(x, x, temperature=0)
    with pytest.raises(ValueError, match='got reduction=\'mean\'; expected "batch" or "element"'):
        soft_distillation_loss(x, x, reduction="mean")
