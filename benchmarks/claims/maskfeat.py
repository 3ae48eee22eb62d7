"""MaskFeat on generated pictures: HOG against pixels and against no training. Rows that share arms share their runs."""

from functools import partial

from benchmarks.claims._example import run_example
from benchmarks.claims.claim import Claim

METRICS = {"knn_after": "k-NN", "linear_after": "a linear probe", "few_shot_after": "a linear probe with five labels a class"}
SCENES = {"data": "scenes:easy", "size": 96, "patch": 8, "steps": 1200}
ARMS = {"HOG": {**SCENES, "target": "hog"}, "pixels": {**SCENES, "target": "pixels"}, "untrained": {**SCENES, "steps": 1, "lr": 0.0}}
PIXELS = "k-NN on raw pixels finds 30.5: the features of so short a training beat those of no training, not the pictures themselves"


def row(name: str, statement: str, paper: str, ahead: str, behind: str) -> list[Claim]:
    """One claim a metric."""
    return [
        Claim(f"maskfeat-{name}-{metric.removesuffix('_after').replace('_', '-')}", f"MaskFeat: {statement}, by {words}",
              "Wei et al. 2022, table 2", paper, {arm: ARMS[arm] for arm in (ahead, behind)}, metric, (ahead, behind),
              partial(run_example, "maskfeat"), log="maskfeat", metrics=tuple(METRICS), quick={"steps": 20},
              note=PIXELS if metric == "knn_after" and name == "over-random" else "")
        for metric, words in METRICS.items()
    ]  # fmt: skip


CLAIMS = [
    *row("over-random", "HOG beats no training", "81.8 -> 83.6 fine-tuned, ImageNet", "HOG", "untrained"),
    *row("hog", "HOG beats pixels", "82.5 -> 83.6 fine-tuned, ImageNet", "HOG", "pixels"),
]
