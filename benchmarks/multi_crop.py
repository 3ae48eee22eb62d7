"""DINO's 2 + 8 views against torchvision, picture by picture: on uint8 tensors, and on PIL pictures as the authors' code does.

Every job draws its own parameters, so no agreement is checked here: tests/augmentations compares every operation with torchvision's at
equal parameters. Pictures are decoded before the clock starts; views are not normalised.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2.functional import to_pil_image

from benchmarks.harness import Report, command, compare
from sslkit.augmentations import dino

BLUR = (1.0, 0.1, 0.5)  # of the first global view, the second, the local ones
LOCAL = 8
# name -> batch, picture, side of the global views, of the local ones
CASES = {"32": (128, (32, 32), 32, 16), "photo": (8, (375, 500), 224, 96)}


class PILBlur:
    """The authors' blur."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


def view(size: int, scale: tuple[float, float], blur: float, solarize: float, pil: bool) -> v2.Transform:
    """One view out of torchvision's parts, for one picture."""
    blurred = PILBlur() if pil else v2.GaussianBlur(2 * (size // 10 // 2) + 1, (0.1, 2.0))
    return v2.Compose([
        v2.RandomResizedCrop(size, scale=scale, interpolation=InterpolationMode.BICUBIC, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
        v2.RandomGrayscale(0.2),
        v2.RandomApply([blurred], p=blur),
        v2.RandomSolarize(128, p=solarize),
        *([v2.PILToTensor()] if pil else []),
    ])  # fmt: skip


def torchvision_views(size: int, local: int, pil: bool) -> list[Callable[[Any], Tensor]]:
    far, near = (0.4, 1.0), (0.05, 0.4)
    first, second = view(size, far, BLUR[0], 0.0, pil), view(size, far, BLUR[1], 0.2, pil)
    return [first, second, *[view(local, near, BLUR[2], 0.0, pil)] * LOCAL]


def one_by_one(views: list[Callable[[Any], Tensor]], pictures: Sequence[Any]) -> list[Tensor]:
    return [torch.stack([view(picture) for picture in pictures]) for view in views]


def run(case: str, rounds: int = 5) -> Report:
    batch, picture, size, local = CASES[case]
    # smooth, as photographs are: what a blur or a resize costs does not depend on it, and to look at it helps
    coarse = torch.rand(batch, 3, *(max(2, side // 16) for side in picture), generator=torch.Generator().manual_seed(0))
    floats = torch.nn.functional.interpolate(coarse, size=picture, mode="bicubic").clamp(0, 1)
    levels = (floats * 255).round().to(torch.uint8)
    pictures = [to_pil_image(image) for image in levels]
    ours = dino(size, local, LOCAL, blur=BLUR)
    jobs = {
        "sslkit, uint8, Pillow's forms": partial(dino(size, local, LOCAL, blur=BLUR, pillow=True), levels),
        "sslkit, uint8": partial(ours, levels),
        "sslkit, float32": partial(ours, floats),
        "torchvision.v2, PIL, picture by picture": partial(one_by_one, torchvision_views(size, local, True), pictures),
        "torchvision.v2, uint8, picture by picture": partial(one_by_one, torchvision_views(size, local, False), levels),
    }
    title = f"DINO's 2 + {LOCAL} views of {batch} x {picture[0]} x {picture[1]} to {size} x {size} and {local} x {local}"
    reference = "torchvision.v2, PIL, picture by picture"
    report = compare(f"multi_crop_{case}", jobs, rounds=rounds, reference=reference, agree=None, title=title, more=("pillow",))
    rates = tuple(f"{row.job}: {1000 * batch / row.cpu_ms.median:.1f} pictures per CPU second" for row in report.rows)
    return replace(report, notes=(*rates, "parameters are drawn by each job for itself, so no agreement is checked"))


main = command(__doc__, run, list(CASES), rounds=5)

if __name__ == "__main__":
    main()
