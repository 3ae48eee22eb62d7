"""Where the class token of a ViT looks: DINO's against that of labels and of no training, by masks of 60 % of the attention (fig. 4)."""

from collections.abc import Mapping
from typing import Any

from benchmarks.claims._example import run_example
from benchmarks.claims.claim import Claim

VIT: dict[str, Any] = {"data": "scenes:easy", "size": 32, "backbone": "vit", "patch": 4}
ARMS: dict[str, dict[str, Any]] = {
    "DINO": {**VIT, "steps": 800, "batch": 64, "lr": 1e-3},
    "labels": {**VIT, "steps": 800, "batch": 64, "lr": 1e-3, "example": "supervised"},
    "untrained": {**VIT, "steps": 1, "batch": 64, "lr": 0.0},
}
METRICS = {"jaccard": "the Jaccard index of attention and object", "linear": "a linear probe", "knn": "k-NN"}


def run(settings: Mapping[str, Any], seed: int) -> dict[str, float]:
    """A run of examples/dino.py or examples/supervised.py; the scores by the same names. With labels, the classifier is the probe."""
    plain = {key: value for key, value in settings.items() if key != "example"}
    if "example" in settings:
        found = run_example(settings["example"], plain, seed)
        return {"jaccard": found["jaccard"], "linear": found["accuracy"], "knn": found["knn"]}
    found = run_example("dino", plain, seed)
    return {name: found[f"{name}_after"] for name in METRICS} | {f"{name}_teacher": found[f"{name}_teacher"] for name in METRICS}


NOTE = ("one preset was tried, of nine CPU minutes and 51,200 pictures, the paper's of about 10^9: its attention is off "
        "the objects, perhaps as backgrounds tell these pictures apart more easily")  # fmt: skip


def row(name: str, statement: str, paper: str, behind: str, metric: str) -> Claim:
    return Claim(f"dino-attention-{name}-{metric}", f"DINO, ViT: {statement}, by {METRICS[metric]}", "Caron et al. 2021, fig. 4", paper,
                 {arm: ARMS[arm] for arm in ("DINO", behind)}, metric, ("DINO", behind), run, log="dino-attention",
                 metrics=tuple(METRICS), quick={"steps": 20}, note=NOTE if (name, metric) == ("labels", "jaccard") else "")  # fmt: skip


CLAIMS = [
    row("labels", "it looks at the object more than a network trained with labels", "ViT-S/16: 27.3 -> 45.9, VOC12", "labels", "jaccard"),
    *(row("over-random", "it beats no training", "ViT-S/16: 22.0 -> 45.9, VOC12" if metric == "jaccard" else "not reported", "untrained",
          metric) for metric in METRICS),
]  # fmt: skip
