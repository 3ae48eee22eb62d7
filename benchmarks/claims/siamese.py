"""The baselines of the tables on generated pictures: each against no training. Rows share the untrained runs, and some with DINO's."""

from benchmarks.claims.claim import Claim
from benchmarks.claims.dino import ARMS, BASELINES, METRICS, run

PAPERS = {
    "byol": ("BYOL", "Grill et al. 2020", "74.3"),
    "simsiam": ("SimSiam", "Chen & He 2021", "71.3"),
    "swav": ("SwAV", "Caron et al. 2020", "71.8"),
    "deepcluster": ("DeepCluster v2", "Caron et al. 2020", "75.2 (multi-crop)"),
    "barlow": ("Barlow Twins", "Zbontar et al. 2021", "73.2"),
    "vicreg": ("VICReg", "Bardes et al. 2022", "73.2"),
    "instdist": ("InstDist", "Wu et al. 2018", "54.0"),
    "cmc": ("CMC", "Tian et al. 2020", "66.2"),
}


def arms(method: str) -> dict[str, dict[str, object]]:
    """The method, and its network without training. CMC has two networks, and so an untrained pair of its own."""
    settings = {**BASELINES, "example": "siamese", "method": method}
    untrained = {"untrained pair": {**settings, "steps": 1, "before": True}} if method == "cmc" else {"untrained": ARMS["untrained"]}
    return {PAPERS[method][0]: settings, **untrained}


CLAIMS = [
    Claim(f"siamese-{method}", f"{name} beats no training, by a linear probe", paper, f"{number} linear, ImageNet", arms(method),
          "linear_after", (name, list(arms(method))[1]), run, log="dino", metrics=tuple(METRICS), quick={"steps": 20})
    for method, (name, paper, number) in PAPERS.items()
]  # fmt: skip
