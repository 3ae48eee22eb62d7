"""Schedules against the official arrays, step by step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sslkit.schedules import cosine, linear, warmup_cosine
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


@proves("schedules.warmup_cosine", "golden", "loop")
def test_warmup_cosine_equals_maes_at_fractional_epochs(golden):
    g = golden("mae_recipe")
    base, final, warmup, epochs = g["mae_args"]
    rates = [warmup_cosine(e, base=base, final=final, epochs=epochs, warmup=warmup) for e in g["mae_epochs"]]
    assert rates == pytest.approx(g["mae_lr"][:, 0].tolist(), abs=1e-12)


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


sixty_fourths = st.integers(0, 6400).map(lambda i: i / 64)


@proves("schedules.warmup_cosine", "property")
@given(epoch=sixty_fourths, epochs=sixty_fourths.filter(bool), share=st.floats(0, 1), unit=st.sampled_from([0.5, 2.0, 64.0]))
def test_warmup_cosine_depends_on_no_unit_and_stays_between_its_ends(epoch, epochs, share, unit):
    share = round(share * 64) / 64
    settings = {"base": 2.0, "final": 1.0, "start": 0.5}
    value = warmup_cosine(epoch, epochs=epochs, warmup=share * epochs, **settings)
    assert 0.5 <= value <= 2
    assert value >= 1 or epoch < share * epochs
    assert value == 1 or epoch < epochs
    # powers of two scale without rounding: epochs or steps, the same rate
    assert value == warmup_cosine(epoch * unit, epochs=epochs * unit, warmup=share * epochs * unit, **settings)


@proves("schedules.warmup_cosine", "property")
def test_warmup_cosine_meets_its_corners():
    settings = {"base": 2.0, "final": 1.0, "start": 0.5, "epochs": 8}
    assert [warmup_cosine(e, warmup=2, **settings) for e in (0, 1, 2, 5, 8, 9)] == pytest.approx([0.5, 1.25, 2, 1.5, 1, 1])
    assert warmup_cosine(0, **settings) == 2
    assert warmup_cosine(7, warmup=8, **settings) == pytest.approx(0.5 + 1.5 * 7 / 8)
    assert warmup_cosine(8, warmup=8, **settings) == 1


@proves("schedules.cosine", "errors")
@proves("schedules.linear", "errors")
@pytest.mark.parametrize("wrong", [{"steps": 0}, {"steps": 5, "warmup": 6}, {"steps": 5, "warmup": -1}])
def test_errors(wrong):
    with pytest.raises(ValueError, match="cosine: got step=0.*expected none negative, and warmup \\+ freeze <= steps. To mend"):
        cosine(0, base=1.0, final=0.0, **wrong)
    with pytest.raises(ValueError, match="linear: got step=-1"):
        linear(-1, start=0.0, final=1.0, steps=3)


@proves("schedules.warmup_cosine", "errors")
@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"epochs": 5, "warmup": 5.5}, {"epochs": 5, "warmup": -1}, {"epochs": float("nan")}, {"epoch": -0.5}]
)
def test_warmup_cosine_errors(wrong):
    given = {"epoch": 0, "epochs": 5, **wrong}
    with pytest.raises(ValueError, match=r"warmup_cosine: got epoch=.*expected epoch from 0 on.*To mend: lower warmup"):
        warmup_cosine(base=1.0, **given)
