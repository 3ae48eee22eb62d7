"""NNCLR on handwriting, views by crops alone: rows of its tables. Rows that share arms share their runs."""

from functools import partial

from benchmarks.claims._example import run_example
from benchmarks.claims.claim import Claim

METRICS = ("few_shot_after", "knn_after", "linear_after", "few_shot_before", "knn_before", "linear_before", "match")
DEFAULT = {"steps": 300}
ARMS = {
    "NN": DEFAULT,
    "view": {**DEFAULT, "positive": "view"},
    "queue 128": {**DEFAULT, "queue": 128},
    "top 4": {**DEFAULT, "topk": 4},
    "soft": {**DEFAULT, "neighbour": "soft"},
}


def row(name: str, statement: str, table: str, paper: str, behind: str) -> Claim:
    return Claim(f"nnclr-{name}", f"NNCLR, crops alone: {statement}, by a linear probe with five labels a class",
                 f"Dwibedi et al. 2021, {table}", paper, {arm: ARMS[arm] for arm in ("NN", behind)}, "few_shot_after", ("NN", behind),
                 partial(run_example, "nnclr"), metrics=METRICS[1:], seeds=(0, 1, 2, 3, 4), quick={"steps": 20}, log="nnclr")  # fmt: skip


CLAIMS = [
    row("positive", "the nearest neighbour is a better positive than the view itself", "table 4",
        "71.4 -> 74.5 linear, ImageNet, full augmentation", "view"),
    row("soft", "the nearest row is a better positive than a soft mean of all", "table of the type of neighbour",
        "71.4 -> 74.9 linear, ImageNet", "soft"),
    row("topk", "the nearest is better than one of the four nearest", "table of k", "73.8 -> 74.9 linear, ImageNet", "top 4"),
    row("queue", "a larger support set is better", "table of queue sizes", "8192: 73.6, 98304: 75.4 linear, ImageNet", "queue 128"),
]  # fmt: skip
