"""Schedules: plain functions of the step. Nothing is remembered, so a resumed run needs only its step."""

import math

from sslkit._checks import wrong

__all__ = ["cosine", "linear", "warmup_cosine"]


def cosine(step: int, *, base: float, final: float, steps: int, warmup: int = 0, start: float = 0.0, freeze: int = 0) -> float:
    """Zero while frozen, a linear warm-up, then half a cosine.

        step < freeze:             0
        i = step - freeze < warmup:  start + (base - start) * i / (warmup - 1)               both ends are reached
        i = step - freeze - warmup:  final + (base - final) * (1 + cos(pi * i / n)) / 2      n = steps - freeze - warmup
        step >= steps:             final

    So `base` appears twice after a warm-up, and `final` first at step `steps`: a teacher's momentum that rises to 1 never is 1 in the run.

    Raises:
        ValueError: warm-up and freeze leave no step, or a negative number of steps.

    Source: Loshchilov & Hutter 2017 (SGDR), eq. 5 without restarts; the conventions are those of DINO's `cosine_scheduler`.
    """
    if min(step, warmup, freeze) < 0 or steps < 1 or warmup + freeze > steps:
        raise wrong("cosine", given=f"step={step}, steps={steps}, warmup={warmup}, freeze={freeze}",
                    expected="none negative, and warmup + freeze <= steps", mend="lower warmup, or raise steps")  # fmt: skip
    if step >= steps:
        return final
    if step < freeze:
        return 0.0
    step -= freeze
    if step < warmup:
        return start + (base - start) * step / (warmup - 1) if warmup > 1 else start
    return final + 0.5 * (base - final) * (1 + math.cos(math.pi * (step - warmup) / (steps - freeze - warmup)))


def linear(step: int, *, start: float, final: float, steps: int) -> float:
    """From `start` at step 0 to `final` at step `steps` - 1 in equal parts, then constant; `steps` <= 0 means `final` at once.

    Source: DINO's teacher temperature, Caron et al. 2021, appendix C (0.04 -> 0.07 over 30 epochs).
    """
    if step < 0:
        raise wrong("linear", given=f"step={step}", expected="a step from 0 on", mend="count steps from 0")
    if step >= steps:
        return final
    return start + (final - start) * step / (steps - 1) if steps > 1 else start


def warmup_cosine(epoch: float, *, base: float, final: float = 0.0, epochs: float, warmup: float = 0.0, start: float = 0.0) -> float:
    """A linear warm-up, then half a cosine, at any point in time: epochs that may be fractional, or steps, in one unit for all three.

        epoch < warmup:   start + (base - start) * epoch / warmup                             `base` is first reached at `warmup`
        epoch < epochs:   final + (base - final) * (1 + cos(pi * (epoch - warmup) / (epochs - warmup))) / 2
        else:             final

    MAE calls it every iteration with `step / steps_per_epoch`. `cosine` counts whole steps instead, and its warm-up reaches `base` a step
    earlier, at `warmup` - 1.

    Raises:
        ValueError: a negative time, no epochs, or a warm-up longer than the run.

    Source: He et al. 2022 (MAE), appendix A.1; Goyal et al. 2017 for the warm-up, Loshchilov & Hutter 2017 (SGDR), eq. 5, for the cosine.
    """
    if not (epoch >= 0 and 0 <= warmup <= epochs and epochs > 0):
        raise wrong("warmup_cosine", given=f"epoch={epoch}, epochs={epochs}, warmup={warmup}",
                    expected="epoch from 0 on, epochs above 0, and warmup in [0, epochs]",
                    mend="lower warmup, or raise epochs")  # fmt: skip
    if epoch >= epochs:
        return final
    if epoch < warmup:
        return start + (base - start) * epoch / warmup
    return final + 0.5 * (base - final) * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))
