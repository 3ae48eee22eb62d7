"""Histograms of oriented gradients, MaskFeat's target: ours, plain and compiled, against the public layer, scikit-image and OpenCV.

The public layer is written here from its description (SlowFast): Sobel by convolution, atan2, magnitudes scattered into a tensor
[batch, channels, bins, height, width], windows of a cell summed. Pictures have levels 0 to 255, so that all agree to rounding; ours
gets them as uint8, the public layer as float32. scikit-image and OpenCV (C++) take the strongest of three channels and make one histogram
a cell, a third of the numbers, and share the pixels out between cells and bins: their answers are others, only their time is compared.

Job `hidden` is the target of a step of MaskFeat: of 196 tokens the 78 that blocks hide, which the public layer picks out at the end.
"""

import importlib.util
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import Call, Report, command, compare
from sslkit.kernels import hog
from sslkit.maskers import BlockwiseMasker

SIZE, CELL, BINS, PATCH = 224, 8, 9, 16
BATCH = {"16": 16, "64": 64, "hidden": 64}  # 64 is a batch of MaskFeat in one process
TOKENS, HIDDEN = (SIZE // PATCH) ** 2, 78


def data(job: str) -> Tensor:
    """uint8 levels with edges, shades and noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(BATCH[job], 3, SIZE // 16, SIZE // 16, generator=generator)
    images = functional.interpolate(coarse, scale_factor=16, mode="bilinear") * 60 + 128
    return (images + 8 * torch.randn(images.shape, generator=generator)).clamp(0, 255).to(torch.uint8)


def public(images: Tensor, ids: Tensor | None = None) -> Tensor:
    """SlowFast's layer, and the order of values that its MaskFeat puts them in."""
    x = functional.pad(images, (1, 1, 1, 1), mode="reflect")
    sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]], device=x.device).expand(3, 1, 3, 3)
    gx, gy = functional.conv2d(x, sobel, groups=3), functional.conv2d(x, sobel.mT, groups=3)
    magnitude = torch.stack([gx, gy], dim=-1).norm(dim=-1)
    phase = torch.atan2(gx, gy) / math.pi * BINS
    batch, channels, height, width = magnitude.shape
    spread = magnitude.new_zeros(batch, channels, BINS, height, width)
    spread.scatter_add_(2, phase.floor().long().unsqueeze(2) % BINS, magnitude.unsqueeze(2))
    hist = functional.normalize(spread.unfold(3, CELL, CELL).unfold(4, CELL, CELL).sum(dim=(-1, -2)), dim=2)
    side = PATCH // CELL  # hist [batch, 3, bins, 28, 28]
    tokens = hist.unfold(3, side, side).unfold(4, side, side)  # [batch, 3, bins, 14, 14, side, side]
    tokens = tokens.permute(0, 3, 4, 1, 2, 5, 6).flatten(1, 2).flatten(2)
    return tokens if ids is None else tokens[torch.arange(len(ids))[:, None], ids]


def scikit_image(images: Tensor) -> list[Any]:
    from skimage.feature import hog as one

    return [one(image, BINS, (CELL, CELL), (1, 1), channel_axis=-1, feature_vector=False) for image in images.movedim(1, -1).numpy()]


def opencv(images: Tensor) -> list[Any]:
    import cv2

    cv2.setNumThreads(torch.get_num_threads())
    descriptor = cv2.HOGDescriptor((SIZE, SIZE), (CELL, CELL), (CELL, CELL), (CELL, CELL), BINS)
    return [descriptor.compute(image) for image in images.movedim(1, -1).contiguous().numpy()]


PEERS = {"scikit-image": ("skimage", scikit_image), "OpenCV": ("cv2", opencv)}
FORMS: dict[str, Callable[..., Any]] = {
    "sslkit": hog,
    "sslkit, compiled": partial(hog, backend="compiled"),
    "sslkit, the definition": partial(hog, backend="reference"),
    **{f"{name}, one histogram a cell": form for name, (module, form) in PEERS.items() if importlib.util.find_spec(module)},
    "public layer (SlowFast)": public,
}


def forms(job: str) -> list[str]:
    """Those that know what is hidden, where something is."""
    return [name for name in FORMS if job != "hidden" or "a cell" not in name]


def setup(job: str, form: str) -> Call:
    """Pictures and mask made, the call ready."""
    images = data(job)
    images = images.float() if FORMS[form] is public else images
    if job != "hidden":
        return partial(FORMS[form], images)
    masker = BlockwiseMasker(count=HIDDEN)
    mask = masker(len(images), (SIZE // PATCH, SIZE // PATCH), generator=torch.Generator().manual_seed(1))
    return partial(FORMS[form], images, ids=mask.ids_hidden)


def agree(mine: Any, reference: Tensor) -> None:
    """Bins are the same in every pixel, sums are in another order. Peers that define something else give lists."""
    if isinstance(mine, Tensor):
        torch.testing.assert_close(mine, reference, rtol=0, atol=2e-6)


def run(job: str, rounds: int = 7, memory: bool = True) -> Report:
    names = forms(job)
    jobs = {name: setup(job, name) for name in names}
    peaks = {name: partial(setup, job, name) for name in names} if memory else None
    rows = f"MaskFeat's target, {HIDDEN} hidden tokens of {TOKENS}" if job == "hidden" else "all tokens"
    peers = {} if job == "hidden" else PEERS
    absent = [f"{name} was not installed" for name, (module, _) in peers.items() if not importlib.util.find_spec(module)]
    return compare(f"hog_{job}", jobs, rounds=rounds, reference=names[-1], agree=agree, peaks=peaks,
                   title=f"HOG, {BATCH[job]} x 3 x {SIZE} x {SIZE} uint8, cells of {CELL}, {rows}",
                   notes=("shared machine; ratios are formed inside a round", "memory includes the result",
                          "compiled: without the first call, which compiles for some seconds", *absent),
                   more=("scikit-image", "opencv-python-headless"))  # fmt: skip


main = command(__doc__, run, list(BATCH), rounds=7)

if __name__ == "__main__":
    main()
