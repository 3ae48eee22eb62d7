"""DINO on generated pictures: against no training, and the rows of the paper's ablation. Rows that share arms share their runs."""

from functools import partial

from benchmarks.claims._example import run_example
from benchmarks.claims.claim import Claim

METRICS = {"knn_after": "k-NN", "linear_after": "a linear probe", "few_shot_after": "a linear probe with five labels a class"}
TEACHER = ("knn_teacher", "linear_teacher")
DEFAULT = {"steps": 800}
ARMS = {
    "DINO": DEFAULT,
    "untrained": {"steps": 1, "lr": 0.0},
    "no momentum": {**DEFAULT, "momentum": "none"},
    "teacher of the last epoch": {**DEFAULT, "momentum": "epoch"},
    "Sinkhorn-Knopp": {**DEFAULT, "teacher": "sinkhorn"},
    "MSE": {**DEFAULT, "loss": "mse"},
    "predictor": {**DEFAULT, "predictor": True},
    "2 + 4 crops": {**DEFAULT, "crops": "2+4"},
}


def row(name: str, statement: str, paper: str, ahead: str, behind: str, metric: str = "linear_after", source: str = "table 7") -> Claim:
    return Claim(f"dino-{name}", f"DINO: {statement}, by {METRICS[metric]}", f"Caron et al. 2021, {source}", paper,
                 {arm: ARMS[arm] for arm in (ahead, behind)}, metric, (ahead, behind), partial(run_example, "dino"), log="dino",
                 metrics=(*METRICS, *TEACHER), quick={"steps": 20})  # fmt: skip


CLAIMS = [
    *(row(f"over-random-{metric.removesuffix('_after').replace('_', '-')}", "it beats no training", "not reported", "DINO", "untrained",
          metric) for metric in METRICS),
    *(row(f"momentum-{metric.removesuffix('_after')}", "without momentum it collapses", "rows 1, 2: 76.1, 0.1 linear, ImageNet", "DINO",
          "no momentum", metric) for metric in ("linear_after", "knn_after")),
    row("epoch", "a running mean is a better teacher than the last epoch", "not in the table",
        "DINO", "teacher of the last epoch", source="fig. 6"),
    row("sinkhorn", "centring does as well as Sinkhorn-Knopp", "rows 1, 3: 76.1, 76.0 linear, ImageNet", "DINO", "Sinkhorn-Knopp"),
    row("mse", "cross-entropy beats MSE", "rows 1, 5: 76.1, 62.4 linear, ImageNet", "DINO", "MSE"),
    row("predictor", "a predictor does not help", "rows 1, 6: 76.1, 75.6 linear, ImageNet", "DINO", "predictor"),
    row("multi-crop", "local crops help", "rows 1, 4: 76.1, 72.5 linear, ImageNet", "2 + 4 crops", "DINO"),
]  # fmt: skip
