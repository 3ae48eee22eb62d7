"""LooC on generated pictures: the rows of both tables, what turns and colours cost, and what each head keeps. Rows share runs.

In the first table's rows the hue moves by a tenth of the circle, as in the usual recipe; in the second's by half, so that a space
that ignores colours ignores all of them. Numbers are linear probes of the frozen features, of one head's space where a row says so.
Pictures of these two tables' data sets: the class stands for ImageNet-100 and its few labels for Flowers-102, the hue for the
fine-grained sets, on which colour tells.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from benchmarks.claims._example import run_example, trained
from benchmarks.claims.claim import Claim

PROBES = {
    "linear_after": "class",
    "rotation_after": "quarter turn",
    "oriented_after": "quarter turn of the shapes that show it",
    "hue_after": "hue",
    "shots_5_after": "class with 5 labels each (ten draws)",
    "shots_10_after": "class with 10 labels each (ten draws)",
}
SPACES = {"rotation_space": "quarter turn", "hue_space": "hue"}
GAINS = {"linear_gain": "class, after training less before", "hue_gain": "hue, after training less before"}
ASKED = {"space", "gain", "before"}  # settings that are no options of the example: what is asked of a run
TURNED: dict[str, Any] = {"data": "scenes", "steps": 600, "batch": 128}
WRITING: dict[str, Any] = {"data": "digits", "size": 16, "no-flip": True, "steps": 400, "batch": 128}  # has an upper side
COLOURED = {**TURNED, "hue": 0.5}
ARMS: dict[str, dict[str, Any]] = {
    "Supervised": {"data": "scenes", "supervised": 400},
    "MoCo": {**TURNED, "augmentations": "none"},
    "MoCo + Rotation": {**TURNED, "augmentations": "none", "rotation": "independent"},
    "MoCo + Rotation, the same": {**TURNED, "augmentations": "none", "rotation": "shared"},
    "LooC + Rotation": {**TURNED, "augmentations": "rotation"},
    "MoCo, hue": {**COLOURED, "augmentations": "none"},
    "LooC, color": {**COLOURED, "augmentations": "color"},
    "LooC, rotation": {**COLOURED, "augmentations": "rotation"},
    "LooC, both": {**COLOURED, "augmentations": "color,rotation"},
    "LooC++, both": {**COLOURED, "augmentations": "color,rotation", "plus-plus": True},
    **{
        f"{name}, digits": {**WRITING, **own}
        for name, own in (
            ("MoCo", {"augmentations": "none"}),
            ("MoCo + Rotation", {"augmentations": "none", "rotation": "independent"}),
            ("MoCo + Rotation, the same", {"augmentations": "none", "rotation": "shared"}),
            ("LooC + Rotation", {"augmentations": "rotation"}),
        )
    },
    **{f"head {name}": {**COLOURED, "augmentations": "color,rotation", "space": name} for name in ("invariant", "color", "rotation")},
    **{f"head {name}, digits": {**WRITING, "augmentations": "rotation", "space": name} for name in ("invariant", "rotation")},
    "LooC, gain": {**COLOURED, "augmentations": "color,rotation", "gain": True},
    "LooC++, gain": {**COLOURED, "augmentations": "color,rotation", "plus-plus": True, "gain": True},
    "untrained": {**TURNED, "augmentations": "none", "steps": 1, "before": True},
    "untrained, digits": {**WRITING, "augmentations": "none", "steps": 1, "before": True},
}
LABELS = "Supervised is a run of examples/supervised.py: 400 steps of 256 crops from 0.6 on; the other arms took 600 of 128, from 0.4 on"
WIDER = "LooC++'s features are three times as wide and ahead before training, {} (3); what training adds has a row of its own"
NOTES = {  # of the quarter turn what else was tried, one run each of seed 0: linear probes of class and turn
    "recovers-turn-rotation": "scenes:easy, 600 steps of 128, --distinct: class 26.1, turn 29.0, of the random network 20.3, 32.2; "
                              "handwriting, 400 steps, --distinct: class 96.4, turn 82.4, without it 96.4, 84.8, MoCo + Rotation 91.0, "
                              "81.2",
    "plus-plus-hue": WIDER.format("46.6 to 40.2, +6.4 +- 5.6"),
    "plus-plus-linear": WIDER.format("14.4 to 12.3, +2.2 +- 0.7"),
    **{f"supervised-{name}": LABELS for name in ("class-linear", "turn-rotation", "turn-oriented")},
}  # fmt: skip


@lru_cache
def example(settings: str, seed: int) -> dict[str, float]:
    """A run of examples/looc.py, or what it says of a ConvNet that examples/supervised.py trained: see LABELS."""
    plain = json.loads(settings)
    if "supervised" in plain:
        steps = min(plain.pop("supervised"), plain.pop("steps", 400))
        plain["score"] = trained("supervised", {"data": plain["data"], "steps": steps}, seed)
    return run_example("looc", plain, seed)


def run(settings: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Arms that differ in what is asked alone share a run: its seconds are counted to the first of them, 0 to the others.

    space: the scores of this head's space. gain: what training adds. before: of the network before its first step, since a step without
    learning moves BatchNorm's statistics.
    """
    found = example(json.dumps({key: value for key, value in settings.items() if key not in ASKED}, sort_keys=True), seed)
    own: dict[str, float] = {}
    if "space" in settings:
        heads = {name: name.replace("space", f"head_{settings['space']}_after") for name in SPACES}
        own = {name: found[head] for name, head in heads.items() if head in found}  # of handwriting nobody knows the hue
    if "gain" in settings:
        own = {name: found[name.replace("gain", "after")] - found[name.replace("gain", "before")] for name in GAINS}
    if "before" in settings:
        own = {name: found[name.replace("after", "before")] for name in PROBES if name in found}
    return found | own


def row(name: str, statement: str, source: str, paper: str, ahead: str, behind: str, metric: str = "linear_after") -> Claim:
    known = ("linear_after", "rotation_after", "shots_5_after", "shots_10_after") if "digits" in ahead else tuple(PROBES)
    return Claim(f"looc-{name}", f"LooC: {statement}, by a probe of the {(PROBES | SPACES | GAINS)[metric]}", f"Xiao et al. 2021, {source}",
                 paper, {arm: ARMS[arm] for arm in (ahead, behind)}, metric, (ahead, behind), run, log="looc", metrics=known,
                 quick={"steps": 20}, note=NOTES.get(name, ""))  # fmt: skip


def first(name: str, statement: str, ahead: str, behind: str, top1: str, rotation: str = "") -> list[Claim]:
    """Rows of the first table; the paper's numbers are given from the arm behind to the arm ahead."""
    metrics = {"rotation_after": rotation, "oriented_after": rotation} if rotation else {"linear_after": top1}
    return [row(f"{name}-{metric.removesuffix('_after')}", statement, "table 1", f"{paper}, ImageNet-100", ahead, behind, metric)
            for metric, paper in metrics.items()]  # fmt: skip


def written(name: str, statement: str, ahead: str, behind: str, top1: str = "", rotation: str = "") -> list[Claim]:
    """Rows of the first table on handwriting, which has an upper side."""
    papers = {"linear": top1, "rotation": rotation}
    return [row(f"{name}-{metric}-digits", f"of handwriting, {statement}", "table 1", f"{paper}, ImageNet-100", f"{ahead}, digits",
                f"{behind}, digits", f"{metric}_after") for metric, paper in papers.items() if paper]  # fmt: skip


def second(arm: str, ahead: str, behind: str, **paper: str) -> list[Claim]:
    """Rows of the second table: `paper` holds the numbers of the arm behind and the arm ahead, where that is the paper's order."""
    names = {"hue": "iNaturalist-1k", "shots_5": "Flowers-102, 5 labels", "shots_10": "Flowers-102, 10 labels", "linear": "ImageNet-100"}
    return [row(f"{arm}-{metric.replace('_', '-')}", f"{ahead} beats {behind}", "table 2", f"{numbers} {names[metric]}", ahead, behind,
                f"{metric}_after") for metric, numbers in paper.items()]  # fmt: skip


CLAIMS = [
    *(row(f"over-random-{arm.split()[0].lower()}{'-digits' if words else ''}", f"{words}{arm} beats no training", "table 1", "not reported",
          *(f"{name}{', digits' if words else ''}" for name in (arm, "untrained")))
      for words in ("", "of handwriting, ") for arm in ("MoCo", "LooC + Rotation")),
    *first("rotation-class", "turns cost MoCo the class", "MoCo", "MoCo + Rotation", "79.4 -> 81.0"),
    *first("rotation-turn", "turns cost MoCo the turn", "MoCo", "MoCo + Rotation", "", "43.3 -> 61.1"),
    *first("same-class", "a turn of query and key alike costs more", "MoCo + Rotation", "MoCo + Rotation, the same", "78.1 -> 79.4"),
    *first("same-turn", "a turn of query and key alike keeps it", "MoCo + Rotation, the same", "MoCo + Rotation", "", "43.3 -> 45.5"),
    *first("recovers-class", "LooC + Rotation beats MoCo + Rotation", "LooC + Rotation", "MoCo + Rotation", "79.4 -> 80.2"),
    *first("recovers-turn", "LooC + Rotation beats MoCo + Rotation", "LooC + Rotation", "MoCo + Rotation", "", "43.3 -> 65.2"),
    *first("moco-class", "MoCo beats LooC + Rotation", "MoCo", "LooC + Rotation", "80.2 -> 81.0"),
    *first("moco-turn", "LooC + Rotation beats MoCo", "LooC + Rotation", "MoCo", "", "61.1 -> 65.2"),
    *first("supervised-class", "labels beat MoCo", "Supervised", "MoCo", "81.0 -> 83.7"),
    *first("supervised-turn", "labels beat LooC + Rotation", "Supervised", "LooC + Rotation", "", "65.2 -> 72.3"),
    *written("recovers", "LooC + Rotation beats MoCo + Rotation", "LooC + Rotation", "MoCo + Rotation", "79.4 -> 80.2", "43.3 -> 65.2"),
    *written("rotation", "MoCo beats MoCo + Rotation", "MoCo", "MoCo + Rotation", "79.4 -> 81.0", "43.3 -> 61.1"),
    *written("moco-keeps", "MoCo beats LooC + Rotation", "MoCo", "LooC + Rotation", "80.2 -> 81.0"),
    *written("moco", "LooC + Rotation beats MoCo", "LooC + Rotation", "MoCo", rotation="61.1 -> 65.2"),
    *written("same-costs", "turns of their own beat one turn for both", "MoCo + Rotation", "MoCo + Rotation, the same", "78.1 -> 79.4"),
    *written("same", "one turn for both beats turns of their own", "MoCo + Rotation, the same", "MoCo + Rotation", rotation="43.3 -> 45.5"),
    *second("color", "LooC, color", "MoCo, hue", hue="36.2 -> 41.2", shots_5="67.9 -> 68.2", shots_10="77.3 -> 77.6",
            linear="81.0 -> 81.1"),
    *second("rotation", "LooC, rotation", "MoCo, hue", hue="36.2 -> 40.0", shots_5="67.9 -> 70.1", shots_10="77.3 -> 79.3"),
    *second("both", "LooC, both", "MoCo, hue", hue="36.2 -> 44.0", shots_5="67.9 -> 70.9", shots_10="77.3 -> 80.8"),
    *second("rotation-costs", "MoCo, hue", "LooC, rotation", linear="80.2 -> 81.0"),
    *second("both-costs", "MoCo, hue", "LooC, both", linear="79.2 -> 81.0"),
    *second("plus-plus", "LooC++, both", "LooC, both", hue="44.0 -> 46.1", linear="79.2 -> 81.2"),
    *second("plus-plus-costs", "LooC, both", "LooC++, both", shots_5="68.1 -> 70.9", shots_10="78.8 -> 80.8"),
    *(row(f"plus-plus-gain-{metric.removesuffix('_gain')}", "LooC++ gains more by training than LooC", "table 2", "not in a table",
          "LooC++, gain", "LooC, gain", metric) for metric in GAINS),
    row("plus-plus-turn", "LooC++ keeps more than MoCo", "sec. 4", "not in a table", "LooC++, both", "MoCo, hue", "rotation_after"),
    row("head-rotation", "the head of rotation keeps what the invariant one drops", "fig. 2", "not in a table", "head rotation",
        "head invariant", "rotation_space"),
    row("head-rotation-digits", "of handwriting, the head of rotation keeps what the invariant one drops", "fig. 2", "not in a table",
        "head rotation, digits", "head invariant, digits", "rotation_space"),
    row("head-color", "the head of colour keeps what the invariant one drops", "fig. 2", "not in a table", "head color",
        "head invariant", "hue_space"),
    row("head-own", "each head keeps its own alone: colour's more than rotation's", "fig. 2", "not in a table", "head color",
        "head rotation", "hue_space"),
]  # fmt: skip
