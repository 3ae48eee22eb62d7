"""DINO on generated pictures: against no training; teacher, size of batch and of pictures. The ablation's nine rows: dino_ablation.py."""

from collections.abc import Mapping
from typing import Any

from benchmarks.claims._example import run_example
from benchmarks.claims.claim import Claim

METRICS = {"knn_after": "k-NN", "linear_after": "a linear probe", "few_shot_after": "a linear probe with five labels a class"}
DEFAULT: dict[str, Any] = {"steps": 600, "batch": 128}
BASELINES: dict[str, Any] = {"data": "scenes:easy", "size": 32, "steps": 600, "batch": 128}
ARMS: dict[str, dict[str, Any]] = {
    "DINO": DEFAULT,
    "untrained": {"steps": 1, "before": True},
    "no momentum": {**DEFAULT, "momentum": "none"},
    "teacher of the last epoch": {**DEFAULT, "momentum": "epoch"},
    "Sinkhorn-Knopp": {**DEFAULT, "teacher": "sinkhorn"},
    "MSE": {**DEFAULT, "loss": "mse"},
    "predictor": {**DEFAULT, "predictor": True},
    "2 + 4 crops": {**DEFAULT, "crops": "2+4"},
    "batch 64": {**DEFAULT, "batch": 64},
    "pictures of 24": {**DEFAULT, "size": 24},
    "BYOL": {**BASELINES, "example": "siamese", "method": "byol"},
    "SwAV": {**BASELINES, "example": "siamese", "method": "swav"},
    "MoCo v2": {**BASELINES, "example": "moco", "flip": True, "momentum": 0.99},
}


def run(settings: Mapping[str, Any], seed: int) -> dict[str, float]:
    """A run of examples/dino.py, or of the example that is named; with `before`, its scores are those of the network before the first step.

    A step without learning is no fair control: it moves BatchNorm's running statistics, which costs k-NN 1 to 8 points.
    """
    options = {key: value for key, value in settings.items() if key not in ("example", "before")}
    found = run_example(settings.get("example", "dino"), options, seed)
    return found | ({name: found[name.replace("after", "before")] for name in METRICS} if settings.get("before") else {})


# What was tried, linear probes of seed 0.
NOTES = {
    "over-random-linear": "by steps and batch: 300 of 256 30.7, 300 of 64 23.8, 600 of 128 38.9 (taken), 800 of 256 50.2",
    "moco": "MoCo v2, 400 steps: momentum of the keys' encoder 0.99 37.0 (taken), 0.95 with temperature 0.1 13.2, 0.07 18.6, smaller crops "
    "13.7, a third of the rate 17.0; with 0.95 it learned nothing",
    "predictor": "with a predictor nothing is learned at this length: 16.6 is the level of no training, 17.8; no other setting was tried",
    "multi-crop": "objects of these pictures are small, and local views may miss them; no other scale of theirs was tried",
    "sinkhorn": "both with DINO's preset; none was sought for Sinkhorn-Knopp",
}


def row(name: str, statement: str, paper: str, ahead: str, behind: str, metric: str = "linear_after", source: str = "table 7") -> Claim:
    return Claim(f"dino-{name}", f"DINO: {statement}, by {METRICS[metric]}", f"Caron et al. 2021, {source}", paper,
                 {arm: ARMS[arm] for arm in (ahead, behind)}, metric, (ahead, behind), run, log="dino", metrics=tuple(METRICS),
                 quick={"steps": 20}, note=NOTES.get(name, ""))  # fmt: skip


CLAIMS = [
    *(row(f"over-random-{metric.removesuffix('_after').replace('_', '-')}", "it beats no training", "not reported", "DINO", "untrained",
          metric) for metric in METRICS),
    row("epoch", "a running mean is a better teacher than the last epoch", "not in the table", "DINO", "teacher of the last epoch",
        source="fig. 6"),
    row("batch", "a larger batch does better: 128 against 64", "128: 57.9, 1024: 59.9 k-NN, ImageNet", "DINO", "batch 64", "knn_after",
        "table 9"),
    row("resolution", "more pixels do better: 32 against 24", "patches of 16: 72.8, of 8: 77.0 k-NN, ImageNet", "DINO", "pictures of 24",
        "knn_after", "fig. 5"),
]  # fmt: skip
