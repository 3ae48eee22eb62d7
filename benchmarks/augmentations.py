"""SimCLR's views against torchvision.

torchvision draws once per call, so parameters per sample mean a call per sample; it gets uint8, its fastest form. Both draw their own
parameters, so no agreement is checked here: tests/augmentations compares every operation with torchvision's at equal parameters.
"""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from benchmarks.harness import Report, command, compare
from sslkit.augmentations import simclr

SMALL, LARGE = (0.4, 0.4, 0.4, 0.5), (0.8, 0.8, 0.8, 0.2)
# name -> batch, picture, size of the views, crop scale, jitter, blur probability
CASES = {
    "32": (256, (32, 32), 32, (0.4, 1.0), SMALL, 0.0),
    "224": (64, (224, 224), 224, (0.08, 1.0), LARGE, 0.5),
    "photo": (16, (375, 500), 224, (0.08, 1.0), LARGE, 0.5),
}


def torchvision_simclr(size: int, scale: tuple[float, float], jitter: tuple[float, ...], blur: float) -> v2.Transform:
    """The same chain out of torchvision's parts, for one uint8 image [channels, height, width]."""
    steps = [
        v2.RandomResizedCrop(size, scale=scale, interpolation=InterpolationMode.BICUBIC, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(*jitter)], p=0.8),
        v2.RandomGrayscale(0.2),
    ]
    if blur:
        steps.append(v2.RandomApply([v2.GaussianBlur(2 * (size // 10 // 2) + 1, (0.1, 2.0))], p=blur))
    return v2.Compose(steps)


def per_sample(transform: v2.Transform, images: Tensor) -> list[Tensor]:
    return [torch.stack([transform(image) for image in images]) for _ in range(2)]


def run(case: str, rounds: int = 5) -> Report:
    batch, picture, size, scale, jitter, blur = CASES[case]
    levels = torch.randint(0, 256, (batch, 3, *picture), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours, theirs = simclr(size, scale=scale, jitter=jitter, blur=blur), torchvision_simclr(size, scale, jitter, blur)
    jobs = {
        "sslkit, uint8": partial(ours, levels),
        "sslkit, float32": partial(ours, levels.float() / 255),
        "torchvision.v2, uint8, sample by sample": partial(per_sample, theirs, levels),
    }
    title = f"SimCLR's two views of {batch} x {picture[0]} x {picture[1]} to {size} x {size}, blur {blur}"
    report = compare(f"augmentations_{case}", jobs, rounds=rounds, agree=None, title=title)
    rates = tuple(f"{row.job}: {1000 * batch / row.cpu_ms.median:.0f} pairs of views per CPU second" for row in report.rows)
    return replace(report, notes=(*rates, "parameters are drawn by each job for itself, so no agreement is checked"))


main = command(__doc__, run, list(CASES), rounds=5)

if __name__ == "__main__":
    main()
