"""Colour augmentation is what SimCLR cannot do without."""

from functools import partial

from benchmarks.claims._example import run_example
from benchmarks.claims.claim import Claim

CLAIM = Claim(
    name="simclr-crop-only",
    statement="SimCLR collapses when views differ by crop and flip alone",
    source="Dwibedi et al. 2021 (NNCLR), table 5",
    paper="67.9 -> 40.3 (-27.6) linear, ImageNet",
    arms={"full": {"steps": 300}, "crop only": {"steps": 300, "crop-only": True}},
    metric="linear_after",
    better=("full", "crop only"),
    run=partial(run_example, "simclr"),
    metrics=("knn_after", "knn_before", "knn_pixels"),
    quick={"steps": 100},
)
