"""The nine rows of DINO's ablation (table 7), one backbone and one evaluation: six of DINO, BYOL, MoCo v2 and SwAV.

The paper's first row has local crops. Here it has not: objects of these pictures are small, and local views may miss them.
"""

from benchmarks.claims.dino import row

CLAIMS = [
    *(row(f"momentum-{metric.removesuffix('_after')}", "without momentum it collapses", "rows 1, 2: 76.1, 0.1 linear, ImageNet", "DINO",
          "no momentum", metric) for metric in ("linear_after", "knn_after")),
    row("sinkhorn", "centring does as well as Sinkhorn-Knopp", "rows 1, 3: 76.1, 76.0 linear, ImageNet", "DINO", "Sinkhorn-Knopp"),
    row("multi-crop", "local crops help", "rows 1, 4: 76.1, 72.5 linear, ImageNet", "2 + 4 crops", "DINO"),
    row("mse", "cross-entropy beats MSE", "rows 1, 5: 76.1, 62.4 linear, ImageNet", "DINO", "MSE"),
    row("predictor", "a predictor does not help", "rows 1, 6: 76.1, 75.6 linear, ImageNet", "DINO", "predictor"),
    row("byol", "it beats BYOL", "rows 1, 7: 76.1, 71.4 linear, ImageNet", "DINO", "BYOL"),
    row("moco", "it beats MoCo v2", "rows 1, 8: 76.1, 71.6 linear, ImageNet", "DINO", "MoCo v2"),
    row("swav", "it beats SwAV", "rows 1, 9: 76.1, 71.8 linear, ImageNet", "DINO", "SwAV"),
]  # fmt: skip
