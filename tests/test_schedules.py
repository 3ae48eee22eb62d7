"""Schedules against the official arrays, step by step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sslkit.schedules import cosine, linear
from sslkit.testing import proves


@proves("schedules.cosine", "golden", "loop")
def test_cosine_equals_dinos_and_dinov2s_frozen_steps_and_the_end_included(golden):
    g = golden("cosine_schedules")
    cases = [name.removesuffix("/args") for name in g if name.startswith(("dino/", "dinov2/")) and name.endswith("/args")]
    assert {case.split("/")[0] for case in cases} == {"dino", "dinov2"}
    for case in cases:
        if case.startswith("dino/"):
            base, final, epochs, per_epoch, warmup_epochs, start = g[f"{case}/args"]
            steps, warmup, freeze = epochs * per_epoch, warmup_epochs * per_epoch, 0
        else:
            base, final, steps, warmup, start, freeze = g[f"{case}/args"]
        settings = {"base": base, "final": final, "steps": round(steps), "warmup": round(warmup), "start": start, "freeze": round(freeze)}
        expected = g[f"{case}/schedule"].tolist()
        assert [cosine(i, **settings) for i in range(len(expected))] == pytest.approx(expected, abs=1e-12)


@proves("schedules.linear", "golden", "loop")
def test_linear_equals_dinos_teacher_temperature(golden):
    g = golden("cosine_schedules")
    cases = [name.split("/")[1] for name in g if name.startswith("teacher_temp/") and name.endswith("args")]
    assert cases
    for case in cases:
        start, final, warmup, _ = g[f"teacher_temp/{case}/args"]
        schedule = g[f"teacher_temp/{case}/schedule"]
        assert [linear(i, start=start, final=final, steps=round(warmup)) for i in range(len(schedule))] == pytest.approx(
            schedule.tolist(), abs=1e-12
        )


@proves("schedules.linear", "property")
@given(step=st.integers(0, 50), steps=st.integers(-1, 40))
def test_linear_reaches_its_end_and_stays(step, steps):
    value = linear(step, start=2.0, final=1.0, steps=steps)
    assert 1 <= value <= 2
    assert value == 1 if step >= max(steps - 1, 1) or steps < 1 else value > 1


@proves("schedules.cosine", "property")
@given(step=st.integers(0, 50), steps=st.integers(1, 40), warmup=st.integers(0, 40))
def test_stays_between_its_ends(step, steps, warmup):
    value = cosine(step, base=2.0, final=1.0, steps=steps, warmup=min(warmup, steps), start=1.5)
    assert 1 <= value <= 2


@proves("schedules.cosine", "errors")
@proves("schedules.linear", "errors")
@pytest.mark.parametrize("wrong", [{"steps": 0}, {"steps": 5, "warmup": 6}, {"steps": 5, "warmup": -1}])
def test_errors(wrong):
    with pytest.raises(ValueError, match="cosine: got step=0.*expected none negative, and warmup \\+ freeze <= steps. To mend"):
        cosine(0, base=1.0, final=0.0, **wrong)
    with pytest.raises(ValueError, match="linear: got step=-1"):
        linear(-1, start=0.0, final=1.0, steps=3)
