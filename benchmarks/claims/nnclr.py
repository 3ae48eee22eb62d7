"""NNCLR on handwriting, views by crops alone, and on generated pictures: rows of its tables. Rows that share arms share their runs."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks.claims._example import run_example
from benchmarks.claims.claim import Claim

METRICS = ("few_shot_after", "knn_after", "linear_after", "few_shot_before", "knn_before", "linear_before", "match")
DEFAULT = {"steps": 300}
# 0.95 as in the MoCo example: after 300 steps an encoder of momentum 0.99 is still half of what it was when they began.
SECOND = {**DEFAULT, "momentum": 0.95}
SCENES = {"steps": 500, "data": "scenes", "size": 32, "flip": True, "queue": 2048}
ARMS: dict[str, dict[str, Any]] = {
    "NN": DEFAULT,
    "view": {**DEFAULT, "positive": "view"},
    "momentum, NN": SECOND,
    "momentum, view": {**SECOND, "positive": "view"},
    **{f"queue {size}": {**DEFAULT, "queue": size} for size in (512, 256, 128)},
    **{f"top {k}": {**DEFAULT, "topk": k} for k in (2, 4, 8, 16)},
    "crops 2+4": {**DEFAULT, "crops": "2+4"},
    "soft": {**DEFAULT, "neighbour": "soft"},
    "scenes, NN": {**SCENES, "augment": "full"},
    "scenes, view": {**SCENES, "augment": "full", "positive": "view"},
}


def row(name: str, statement: str, table: str, paper: str, ahead: str, behind: str, *others: str, revision: int = 1) -> Claim:
    return Claim(f"nnclr-{name}", f"NNCLR, crops alone: {statement}, by a linear probe with five labels a class",
                 f"Dwibedi et al. 2021, {table}", paper, {arm: ARMS[arm] for arm in (ahead, behind, *others)}, "few_shot_after",
                 (ahead, behind), partial(run_example, "nnclr"), metrics=METRICS[1:], seeds=(0, 1, 2, 3, 4), quick={"steps": 20},
                 log="nnclr", revision=revision)  # fmt: skip


def full_and_crop(settings: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Trains a method with its options `full`, then with its options `crop`; a change is what a score gains by crops alone."""
    shared = {key: value for key, value in settings.items() if key not in ("example", "full", "crop")}
    full, crop = (run_example(settings["example"], {**shared, **settings[arm]}, seed) for arm in ("full", "crop"))
    return {f"{score}_{name}": value for score in ("few_shot", "knn", "linear")
            for name, value in (("full", full[f"{score}_after"]), ("crop", crop[f"{score}_after"]),
                                ("change", crop[f"{score}_after"] - full[f"{score}_after"]))}  # fmt: skip


DIGITS = {"steps": 300, "data": "digits", "size": 16}
METHODS: dict[str, dict[str, Any]] = {
    "NNCLR": {"example": "nnclr", "full": {"augment": "full"}, "crop": {"augment": "crop"}},
    "SimCLR": {"example": "simclr", "full": {}, "crop": {"crop-only": True}},
    "BYOL": {"example": "siamese", "method": "byol", "full": {}, "crop": {"crop-only": True}},
}
DATA: dict[str, dict[str, dict[str, Any]]] = {
    "digits": {"NNCLR": DIGITS, "SimCLR": {**DIGITS, "no-flip": True}, "BYOL": {**DIGITS, "no-flip": True}},
    "scenes": {"NNCLR": {**SCENES, "steps": 300}, "SimCLR": {"steps": 300, "data": "scenes"}, "BYOL": {"steps": 300, "data": "scenes"}},
}


# Means of the three seeds.
FLOOR = ("linear probes, full augmentation and crops alone: NNCLR 27.1, 10.7, SimCLR 42.3, 10.2, BYOL 15.8, 11.8: by crops all end at the "
         "level of no training, about 12, so that who learned less loses less")  # fmt: skip


def crop_only(data: str, score: str, other: str, paper: str) -> Claim:
    probe = {"few_shot": "with five labels a class", "linear": "with all labels"}[score]
    arms = {f"{data}, {method}": {**DATA[data][method], **METHODS[method]} for method in ("NNCLR", other)}
    statement = f"without colours NNCLR loses less than {other}, {data}, by a linear probe {probe}"
    return Claim(f"nnclr-crop-only-{data}-{other.lower()}", statement, "Dwibedi et al. 2021, table 5", paper, arms, f"{score}_change",
                 (f"{data}, NNCLR", f"{data}, {other}"), full_and_crop, metrics=(f"{score}_full", f"{score}_crop"),
                 quick={"steps": 20}, log="nnclr", note=FLOOR if data == "scenes" else "")  # fmt: skip


CLAIMS = [
    row("positive", "the nearest neighbour is a better positive than the view itself", "table 4",
        "71.4 -> 74.5 linear, ImageNet, full augmentation", "NN", "view"),
    row("positive-momentum", "the same with a momentum encoder", "table 4",
        "72.5 -> 74.9 linear, ImageNet, full augmentation", "momentum, NN", "momentum, view"),
    row("momentum", "a momentum encoder makes better neighbours", "table 4",
        "74.5 -> 74.9 linear, ImageNet, full augmentation", "momentum, NN", "NN"),
    row("soft", "the nearest row is a better positive than a soft mean of all", "table of the type of neighbour",
        "71.4 -> 74.9 linear, ImageNet", "NN", "soft"),
    row("topk", "the nearest is better than one of the k nearest", "table of k",
        "k = 1, 2, 4, 8, 16: 74.9, 74.1, 73.8, 73.8, 73.8 linear, ImageNet", "NN", "top 4", "top 2", "top 8", "top 16", revision=2),
    row("queue", "a larger support set is better", "table of queue sizes",
        "8192, 16384, 32768, 65536, 98304: 73.6, 74.2, 74.9, 75.0, 75.4 linear, ImageNet", "NN", "queue 128", "queue 256", "queue 512"),
    row("multi-crop", "local views help", "table 1", "75.4 -> 75.6 linear, ImageNet", "crops 2+4", "NN"),
    Claim("nnclr-positive-scenes", "NNCLR, full augmentation, scenes: the nearest neighbour is a better positive than the view itself",
          "Dwibedi et al. 2021, table 4", "71.4 -> 74.5 linear, ImageNet", {arm: ARMS[arm] for arm in ("scenes, NN", "scenes, view")},
          "linear_after", ("scenes, NN", "scenes, view"), partial(run_example, "nnclr"), quick={"steps": 20}, log="nnclr",
          metrics=tuple(name for name in METRICS if name != "linear_after")),
    *(crop_only(data, score, other, f"{drop} against -4.7 linear, ImageNet")
      for data, score in (("digits", "few_shot"), ("scenes", "linear")) for other, drop in (("SimCLR", -27.6), ("BYOL", -13.1))),
]  # fmt: skip
