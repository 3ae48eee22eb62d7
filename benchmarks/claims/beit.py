"""BEiT's ablations on handwriting (table 4), and against no training: `python -m benchmarks.claims beit`. Rows share their runs."""

from collections.abc import Mapping
from typing import Any

from benchmarks.claims._example import run_example, trained
from benchmarks.claims.claim import Claim

METRICS = {"knn_after": "k-NN", "linear_after": "a linear probe", "few_shot_after": "a linear probe with five labels a class"}
DIGITS = {"data": "digits", "size": 32, "steps": 400, "no-flip": True}
TOKENIZER = {"data": "digits", "size": 64, "steps": 400, "no-flip": True}
TOKENS = {**DIGITS, "tokenizer": TOKENIZER}
PIXELS = {**DIGITS, "target": "pixels"}
ARMS: dict[str, dict[str, Any]] = {
    "BEiT": TOKENS,
    "random mask": {**TOKENS, "mask": "random"},
    "pixels": PIXELS,
    "pixels, random mask": {**PIXELS, "mask": "random"},
    "all recovered": {**TOKENS, "recover": "all"},
    "no mask, all recovered": {**TOKENS, "mask": "none", "recover": "all"},
    "longer": {**TOKENS, "steps": 1067},
    "untrained": {**PIXELS, "steps": 1, "lr": 0.0},
}
NOTE = "one preset was tried; of its three seeds words give 81.6, 65.6 and 63.8; pixels take 192 CPU seconds where words take 328"
QUICK = {"steps": 20, "tokenizer": {**TOKENIZER, "steps": 60}}


def run(settings: Mapping[str, Any], seed: int) -> dict[str, float]:
    """A run of examples/beit.py. Arms of one seed share a tokenizer, whose seconds are counted to the first of them in a process."""
    plain = {key: value for key, value in settings.items() if key != "tokenizer"}
    if settings.get("target") != "pixels":
        plain["dvae"] = trained("dvae", settings["tokenizer"], seed)
    return run_example("beit", plain, seed)


def row(name: str, statement: str, paper: str, ahead: str, behind: str) -> list[Claim]:
    """One claim a metric."""
    return [
        Claim(f"beit-{name}-{metric.removesuffix('_after').replace('_', '-')}", f"BEiT: {statement}, by {words}",
              "Bao et al. 2022, table 4", f"{paper} fine-tuned, ImageNet", {arm: ARMS[arm] for arm in (ahead, behind)}, metric,
              (ahead, behind), run, log="beit", metrics=tuple(METRICS), quick=QUICK,
              note=NOTE if (name, metric) == ("tokens", "linear_after") else "")
        for metric, words in METRICS.items()
    ]  # fmt: skip


CLAIMS = [
    *row("over-random", "pre-training beats none", "81.8 (table 1) -> 83.2", "BEiT", "untrained"),
    *row("tokens", "visual words beat pixels", "81.04 -> 82.86", "BEiT", "pixels"),
    *row("blockwise", "blockwise masks beat random ones", "82.77 -> 82.86", "BEiT", "random mask"),
    *row(
        "blockwise-pixels", "blockwise masks beat random ones where pixels are predicted", "80.50 -> 81.04", "pixels", "pixels, random mask"
    ),
    *row("hidden", "words of the hidden patches alone beat those of all", "82.59 -> 82.86", "BEiT", "all recovered"),
    *row("masking", "masks beat none where all words are predicted", "81.67 -> 82.59", "all recovered", "no mask, all recovered"),
    *row("longer", "8/3 of the steps are better", "82.86 -> 83.19", "longer", "BEiT"),
]
