"""MAE against no pre-training, on handwriting and on scenes, and its ablations on handwriting. Rows that share arms share their runs."""

from collections.abc import Callable
from functools import partial

from benchmarks.claims._example import run_and_finetune, run_example
from benchmarks.claims.claim import Claim

DIGITS = {"data": "digits", "size": 32, "no-flip": True}
RUN = partial(run_and_finetune, "mae", {"labels": 100, "steps": 150})
METRICS = ("knn_after", "linear_after", "few_shot_after", "finetuned")
PROBES = {
    "knn_after": "k-NN",
    "linear_after": "a linear probe",
    "few_shot_after": "a linear probe with five labels a class",
    "finetuned": "fine-tuning with 100 labels",
}

LONGER = (
    "more steps help: in a run of 8000 steps, seed 0, step 1100 gave linear 21.9, k-NN 10.3, few-shot 10.7; step 6000 gave 39.5, 12.3, 12.9"
)
SCENES = {"data": "scenes:easy", "size": 96, "patch": 8, "crop": 0.5, "flip": True}
DEFAULT = {**DIGITS, "steps": 600}
ARMS = {
    "default": DEFAULT,
    "grid 75": {**DEFAULT, "mask": "grid"},
    "block 75": {**DEFAULT, "mask": "block"},
    "block 50": {**DEFAULT, "mask": "block", "ratio": 0.5},
    "raw pixels": {**DEFAULT, "target": "pixels"},
    "PCA": {**DEFAULT, "target": "pca"},
    "[M] in the encoder": {**DEFAULT, "encoder": "tokens"},
    "decoder of 2": {**DEFAULT, "decoder-depth": 2},
    "decoder of 4": {**DEFAULT, "decoder-depth": 4},
    "decoder 32 wide": {**DEFAULT, "decoder-dim": 32},
    "decoder 128 wide": {**DEFAULT, "decoder-dim": 128},
    "no crop": {**DEFAULT, "augment": "none"},
    "fixed crop": {**DEFAULT, "augment": "crop-fixed"},
    "crop and colour": {**DEFAULT, "augment": "crop-jitter"},
}


def ablation(name: str, table: str, statement: str, ahead: str, behind: str, *more: str, lin: str, ft: str) -> list[Claim]:
    """A row of the paper's table 1: one claim by the frozen features, one by fine-tuning."""
    row = partial(Claim, source=f"He et al. 2022, table 1 ({table})", arms={arm: ARMS[arm] for arm in (ahead, behind, *more)},
                  better=(ahead, behind), run=RUN, metrics=METRICS, log="mae", quick={"steps": 60})  # fmt: skip
    return [
        row(f"mae-{name}-frozen", f"MAE: {statement} (frozen features)", paper=f"{lin} linear, ImageNet", metric="few_shot_after"),
        row(f"mae-{name}-finetuned", f"MAE: {statement} (fine-tuned)", paper=f"{ft} fine-tuned, ImageNet", metric="finetuned"),
    ]


def over_random(name: str, metric: str, settings: dict[str, object], run: Callable[..., dict[str, float]]) -> Claim:
    """Pre-training against none: the untrained network is the run that ends after one step at rate 0."""
    known = "scratch 82.6, MAE 85.9 fine-tuned, ViT-L, ImageNet" if metric == "finetuned" else "not reported"
    arms = {"MAE": {**settings, "steps": 3000}, "untrained": {**settings, "steps": 1, "lr": 0.0}}
    full = f"{name}-{metric.removesuffix('_after').replace('_', '-')}"
    statement = f"MAE beats no training, by {PROBES[metric]}, on {settings['data']}"
    return Claim(full, statement, "He et al. 2022, table 3", known, arms, metric, ("MAE", "untrained"), run, log=name,
                 metrics=METRICS if run is RUN else METRICS[:3], note=LONGER if full.endswith("scenes-linear") else "")  # fmt: skip


CLAIMS = [
    *(over_random("mae-over-random", metric, DIGITS, RUN) for metric in METRICS),
    *(over_random("mae-over-random-scenes", metric, SCENES, partial(run_example, "mae")) for metric in METRICS[:3]),
    *ablation("grid", "f", "random masking beats the grid", "default", "grid 75", lin="66.0 -> 73.5", ft="84.0 -> 84.9"),
    *ablation(
        "block", "f", "random masking beats blocks", "default", "block 75", "block 50",
        lin="block 50 72.3, block 75 63.9, random 73.5", ft="block 50 83.9, block 75 82.8, random 84.9",
    ),
    *ablation("normalised", "d", "normalised pixels beat raw ones", "default", "raw pixels", lin="73.5 -> 73.9", ft="84.9 -> 85.4"),
    *ablation("pca", "d", "pixels beat their principal components", "raw pixels", "PCA", lin="72.3 -> 73.5", ft="84.6 -> 84.9"),
    *ablation(
        "mask-token", "c", "an encoder without mask tokens is better", "default", "[M] in the encoder",
        lin="59.6 -> 73.5", ft="84.2 -> 84.9",
    ),
    *ablation(
        "decoder-depth", "a", "a deeper decoder is better", "decoder of 4", "default", "decoder of 2",
        lin="1 block 65.5, 4 blocks 71.9", ft="1 block 84.8, 4 blocks 84.9",
    ),
    *ablation(
        "decoder-width", "b", "a wider decoder is better", "decoder 128 wide", "decoder 32 wide", "default",
        lin="128 wide 69.1, 512 wide 73.5", ft="128 wide 84.9, 512 wide 84.8",
    ),
    *ablation("crop", "e", "random crops beat none", "default", "no crop", "fixed crop", lin="65.7 -> 73.5", ft="84.0 -> 84.9"),
    *ablation("colour", "e", "colour jitter does not help", "default", "crop and colour", lin="71.9 -> 73.5", ft="84.3 -> 84.9"),
]  # fmt: skip
