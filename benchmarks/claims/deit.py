"""DeiT's table 3 on handwriting with 100 labels: `python -m benchmarks.claims deit`. Rows share their runs.

The teacher of a seed is a ConvNet that was trained on the same 100 labels, so no arm knows more labels than another. "Labelled": the
teacher speaks of the labelled pictures alone, as in the paper. "All": each step also shows as many pictures of the whole training set,
of which the teacher alone speaks; such a step costs twice as much.

How the setting was found, seed 0, accuracy without distillation / with the token and both heads. Labelled pictures: 32 pixels, 200
labels, 300 steps, fixed positions 93.4 / 92.2; also 100 labels, crops of 30 %, mixup and cutmix 85.2 / 79.8; 16 pixels, 100 labels, 600
steps, a teacher of all 1297 labels 82.4 / 84.8. All pictures: 300 steps, that teacher 78.2 / 85.2, one of the same labels 78.2 / 84.6;
600 steps, the same labels 82.4 / 91.8: taken, for both sets of pictures, with three seeds.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from benchmarks.claims._example import run_example, trained
from benchmarks.claims.claim import Claim

TEACHER = {"data": "digits", "size": 16, "no-flip": True, "labels": 100, "batch": 100, "steps": 150}
NONE: dict[str, Any] = {"data": "digits", "size": 16, "labels": 100, "steps": 600, "distillation": "none", "head": "class"}
TAUGHT = {**NONE, "teacher": TEACHER}
SETS = {"labelled": {}, "all": {"unlabelled": True}}
QUICK = {"steps": 20}
KNOWN = "of the labelled pictures the teacher says nothing new: for 99.9 % of their views its answer is the label (seed 0; of all, 92.3 %)"


@lru_cache
def student(settings: str, seed: int) -> dict[str, float]:
    plain = json.loads(settings)
    if "teacher" in plain:
        plain["teacher"] = trained("supervised", plain["teacher"], seed)
    return run_example("deit", plain, seed)


def run(settings: Mapping[str, Any], seed: int) -> dict[str, float]:
    """A run of examples/deit.py; `accuracy` is that of the head asked for. Arms that differ in it alone share a run, and arms of one seed
    a teacher: their seconds are counted to the first of them in a process."""
    found = student(json.dumps({key: value for key, value in settings.items() if key != "head"}, sort_keys=True), seed)
    return found | {"accuracy": found[f"accuracy_{settings['head']}"]}


def rows(pictures: str) -> list[Claim]:
    """The claims of one set of pictures that the teacher speaks of."""
    more = SETS[pictures]
    token = {**TAUGHT, **more, "distillation": "token"}
    arms: dict[str, dict[str, Any]] = {
        "none": NONE,
        "usual soft": {**TAUGHT, **more, "distillation": "soft"},
        "usual hard": {**TAUGHT, **more, "distillation": "hard"},
        "token": {**token, "head": "both"},
        "its class head": {**token, "head": "class"},
        "its distillation head": {**token, "head": "distillation"},
    }

    def row(name: str, statement: str, paper: str, ahead: str, behind: str) -> Claim:
        return Claim(f"deit-{name}-{pictures}", f"DeiT, {pictures} pictures: {statement}", "Touvron et al. 2021, table 3",
                     f"{paper} top-1, S 224, ImageNet", {arm: arms[arm] for arm in (ahead, behind)}, "accuracy", (ahead, behind), run,
                     log="deit", metrics=("accuracy_class",), quick=QUICK,
                     note=KNOWN if name == "token-none" and pictures == "labelled" else "")  # fmt: skip

    return [
        row("token-none", "distillation by a token beats none", "79.8 -> 81.2", "token", "none"),
        row("token-hard", "a token beats usual hard distillation", "80.9 -> 81.2", "token", "usual hard"),
        row("hard-soft", "usual hard distillation beats soft", "79.8 -> 80.9", "usual hard", "usual soft"),
        row("hard-none", "usual hard distillation beats none", "79.8 -> 80.9", "usual hard", "none"),
        row("both-class", "both heads of the token's network beat its class head", "80.9 -> 81.2", "token", "its class head"),
        row("distillation-class", "the distillation head beats the class head", "80.9 -> 81.1", "its distillation head", "its class head"),
    ]


CLAIMS = [claim for pictures in SETS for claim in rows(pictures)]
