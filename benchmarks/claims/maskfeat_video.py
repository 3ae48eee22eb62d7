"""MaskFeat on generated clips: HOG against no training and pixels (table 1), cubes against tubes and frames (table 6). Rows share runs."""

from functools import partial

from benchmarks.claims._example import run_example
from benchmarks.claims.claim import Claim

METRICS = {
    "motion_linear_after": "the motion by a linear probe",
    "motion_knn_after": "the motion by k-NN",
    "shape_linear_after": "the shape by a linear probe",
    "shape_knn_after": "the shape by k-NN",
}
CLIPS = {"data": "scenes:easy", "steps": 700}
ARMS = {
    "HOG, cubes": CLIPS,
    "untrained": {**CLIPS, "steps": 1, "lr": 0.0},
    "pixels, cubes": {**CLIPS, "target": "pixels"},
    "HOG, tubes": {**CLIPS, "mask": "tube"},
    "HOG, frames": {**CLIPS, "mask": "frame"},
}


def row(name: str, statement: str, paper: str, source: str, behind: str, metrics: tuple[str, ...]) -> list[Claim]:
    """One claim a metric, cubes of HOG ahead."""
    found = []
    for metric in metrics:
        found.append(
            Claim(f"maskfeat-video-{name}-{metric.removesuffix('_after').replace('_', '-')}",
                  f"MaskFeat on clips: {statement}, {METRICS[metric]}", f"Wei et al. 2022, {source}", f"{paper} fine-tuned, K400",
                  {arm: ARMS[arm] for arm in ("HOG, cubes", behind)}, metric, ("HOG, cubes", behind),
                  partial(run_example, "maskfeat_video"), log="maskfeat-video", metrics=tuple(METRICS), quick={"steps": 20})
        )  # fmt: skip
    return found


LINEAR = ("motion_linear_after", "shape_linear_after")
CLAIMS = [
    *row("over-random", "it beats no training", "81.1 -> 82.2", "table 1", "untrained", tuple(METRICS)),
    *row("hog", "HOG beats pixels", "80.7 -> 82.2", "table 1", "pixels, cubes", LINEAR),
    *row("tube", "cubes beat tubes", "81.9 -> 82.2", "table 6", "HOG, tubes", LINEAR),
    *row("frame", "cubes beat frames", "81.0 -> 82.2", "table 6", "HOG, frames", LINEAR),
]
