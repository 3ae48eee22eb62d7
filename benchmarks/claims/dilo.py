"""DiLo on pictures whose background tells the class in four of five cases: table 2, and what is left in the features. Rows share runs.

The probe is learned where the background tells, and asked where the same objects stand before others: `swapped`. The masks are the
generator's own except in the rows of (a) and figure 3, and SimCLR is the base except in those of table 3: the paper's is MoCo, which learns
slower here.
"""

from collections.abc import Mapping
from typing import Any

from benchmarks.claims._example import run_example, trained
from benchmarks.claims.claim import Claim

METRICS = ("swapped_after", "linear_after", "family_after", "f_beta", "mae")
DILO = {"data": "scenes:easy", "steps": 300}
EASY = {"data": "scenes:easy"}
NETWORK = {**EASY, "steps": 150}  # of BASNet, on pictures whose background tells nothing
CLASSIFIER = {**EASY, "steps": 400}
BASES = {"MoCo v1": "moco1", "MoCo v2": "moco2", "InstDist": "instdist", "CMC": "cmc"}
ARMS: dict[str, dict[str, Any]] = {
    "SimCLR": {**DILO, "ratio": 0.0},
    "DiLo": DILO,
    **{f"DiLo-{name.upper()}": {**DILO, "saliency": name} for name in ("gs", "mc", "rbd")},
    **{f"{round(100 * ratio)} % pasted": {**DILO, "ratio": ratio} for ratio in (0.3, 0.7, 1.0)},
    **{f"on {name}": {**DILO, "background": name} for name in ("grayscale", "image")},
    **{f"blend {name}": {**DILO, "blend": name} for name in ("none", "gaussian")},
    "DiLo-BASNET": {**DILO, "saliency": "basnet", "network": NETWORK},
    **{f"DiLo-{name.upper()}": {**DILO, "saliency": name, "teacher": CLASSIFIER} for name in ("cam", "gradient")},
    **{name: {**DILO, "base": base, "ratio": 0.0} for name, base in BASES.items()},
    **{f"DiLo on {name}": {**DILO, "base": base} for name, base in BASES.items()},
}


def run(settings: Mapping[str, Any], seed: int) -> dict[str, float]:
    """A run of examples/dilo.py. Arms of one seed share a BASNet and a classifier, whose seconds the first is counted."""
    plain = {key: value for key, value in settings.items() if key not in ("network", "teacher")}
    if "network" in settings:
        plain["network"] = trained("saliency", settings["network"], seed)
    if "teacher" in settings:
        plain["teacher"] = trained("supervised", settings["teacher"], seed)
    return run_example("dilo", plain, seed)


def row(name: str, statement: str, source: str, paper: str, ahead: str, behind: str, metric: str = "swapped_after", *,
        larger: bool = True) -> Claim:  # fmt: skip
    quick: dict[str, Any] = {"steps": 20}
    for part in ("network", "teacher"):
        if part in ARMS[ahead]:
            quick[part] = {**ARMS[ahead][part], "steps": 5}
    return Claim(
        f"dilo-{name}",
        f"DiLo: {statement}",
        f"Zhao et al. 2021, {source}",
        f"{paper} linear, ImageNet" if paper else "not in a table",
        {arm: ARMS[arm] for arm in (ahead, behind)},
        metric,
        (ahead, behind),
        run,
        log="dilo",
        metrics=METRICS,
        larger=larger,
        quick=quick,
    )


CLAIMS = [
    row("swapped", "objects are known again before other backgrounds", "fig. 1, sec. 1", "", "DiLo", "SimCLR"),
    row("family", "features hold less of the background", "sec. 1", "", "DiLo", "SimCLR", "family_after", larger=False),
    row("unswapped", "it helps before the backgrounds of training", "table 3", "MoCo v1 60.6 -> 62.8", "DiLo", "SimCLR", "linear_after"),
    *(row(f"saliency-{s.lower()}", f"masks by {s} help", "table 2 (a)", f"60.6 -> {p}", f"DiLo-{s}", "SimCLR")
      for s, p in (("GS", "62.7"), ("MC", "62.1"), ("RBD", "62.8"))),
    row("saliency-basnet", "masks by BASNet help", "table 2 (a)", "60.6 -> 65.0", "DiLo-BASNET", "SimCLR"),
    row("saliency-basnet-rbd", "masks by BASNet help more than those by RBD", "table 2 (a)", "62.8 -> 65.0", "DiLo-BASNET", "DiLo-RBD"),
    *(row(f"saliency-{s}", f"masks by {words} of a classifier help", "fig. 3", "", f"DiLo-{s.upper()}", "SimCLR")
      for s, words in (("cam", "class activation"), ("gradient", "gradients"))),
    *(row(f"on-{base}", f"it helps {name}", "table 3", paper, f"DiLo on {name}", name)
      for (name, base), paper in zip(BASES.items(), ("60.6 -> 62.8", "67.5 -> 67.9", "56.5 -> 59.3", "63.4 -> 65.0"), strict=True)),
    row("ratio-30", "30 % of the views pasted do better than half", "table 2 (b)", "62.2 -> 62.8", "30 % pasted", "DiLo"),
    row("ratio-70", "half of the views pasted do better than 70 %", "table 2 (b)", "61.6 -> 62.2", "DiLo", "70 % pasted"),
    row("ratio-100", "half of the views pasted do better than all", "table 2 (b)", "47.6 -> 62.2", "DiLo", "100 % pasted"),
    row("background-grayscale", "grey backgrounds do better than textures", "table 2 (c)", "60.6 -> 62.8", "on grayscale", "DiLo"),
    row("background-image", "pictures do better than textures", "table 2 (c)", "60.6 -> 62.1", "on image", "DiLo"),
    row("blend-none", "mixed blending does better than none", "table 2 (d)", "62.4 -> 62.8", "DiLo", "blend none"),
    row("blend-gaussian", "mixed blending does better than always blurred", "table 2 (d)", "62.5 -> 62.8", "DiLo", "blend gaussian"),
]  # fmt: skip
