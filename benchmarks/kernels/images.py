"""Pixels of visible patches (MAE's input) and histograms of oriented gradients (MaskFeat's target): 256 uint8 pictures of 224 x 224."""

import torch
from torch import Tensor

from benchmarks.hog import public as public_hog
from benchmarks.kernels.case import Call, Case, kept_ids, levels, size_of
from sslkit.kernels._gather_patches import reference as patches_reference
from sslkit.kernels._hog import reference as hog_reference
from sslkit.patches import patchify

BF16, I64, F32, U8 = torch.bfloat16, torch.int64, torch.float32, torch.uint8
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALE, BIAS = [1 / (255 * s) for s in STD], [-m / s for m, s in zip(MEAN, STD, strict=True)]
PATCH, KEPT, HIDDEN = 16, 49, 78


def _sizes(small: bool) -> tuple[int, int, int]:
    """Pictures, their side, and tokens of one."""
    return (2, 64, 16) if small else (256, 224, 196)


def public_patches(images: Tensor, ids: Tensor) -> Tensor:
    """A float picture, normalised, all its patches, and a copy of the kept ones by an index as wide as they are."""
    mean, std = (torch.tensor(x, device=images.device).view(-1, 1, 1) for x in (MEAN, STD))
    tokens = patchify((images.float() / 255 - mean) / std, PATCH, order="cpq").to(BF16)
    return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[2]))


def patches(device: torch.device, small: bool) -> dict[str, Call]:
    from sslkit.kernels._gather_patches import fused

    batch, side, tokens = _sizes(small)
    images, ids = levels(device, batch, 3, side, side), kept_ids(device, batch, tokens, tokens // 4)
    return {
        "fused": lambda: fused.forward(images, ids, PATCH, 1, 1, SCALE, BIAS, "cpq", BF16),
        "reference": lambda: patches_reference.forward(images, ids, PATCH, 1, 1, SCALE, BIAS, "cpq", BF16),
        "public": lambda: public_patches(images, ids),
    }


def patches_bytes(small: bool) -> int:
    batch, _, tokens = _sizes(small)
    kept, values = tokens // 4, 3 * PATCH**2
    return size_of(((batch, kept, values), U8), ((batch, kept), I64), ((batch, kept, values), BF16))


def hogs(device: torch.device, small: bool) -> dict[str, Call]:
    from sslkit.kernels._hog import fused

    batch, side, _ = _sizes(small)
    images = levels(device, batch, 3, side, side)
    floats = images.float()
    return {
        "fused": lambda: fused.forward(images, None, 8, 9, None, PATCH, 1),
        "reference": lambda: hog_reference.forward(images, None, 8, 9, None, PATCH, 1),
        "public": lambda: public_hog(floats),
    }


def hidden_hogs(device: torch.device, small: bool) -> dict[str, Call]:
    from sslkit.kernels._hog import fused

    batch, side, tokens = _sizes(small)
    images, ids = levels(device, batch, 3, side, side), kept_ids(device, batch, tokens, round(0.4 * tokens))
    floats, wide = images.float(), ids[..., None].expand(-1, -1, 108)
    return {
        "fused": lambda: fused.forward(images, ids, 8, 9, None, PATCH, 1),
        "reference": lambda: hog_reference.forward(images, ids, 8, 9, None, PATCH, 1),
        "public": lambda: public_hog(floats).gather(1, wide),
    }


def hog_bytes(small: bool) -> int:
    batch, side, tokens = _sizes(small)
    return size_of(((batch, 3, side, side), U8), ((batch, tokens, 108), F32))


def hidden_hog_bytes(small: bool) -> int:
    """Of the pictures, the pixels of the hidden patches; their neighbours' are read twice, or lie in a cache."""
    batch, _, tokens = _sizes(small)
    hidden = round(0.4 * tokens)
    return size_of(((batch, hidden, 3 * PATCH**2), U8), ((batch, hidden), I64), ((batch, hidden, 108), F32))


CUT = "256 x 3 x 224 x 224 uint8, 49 of 196 patches, to bf16"
CASES = [
    Case("gather_patches", CUT, patches, patches_bytes, tolerance=1e-2),
    Case("hog", "256 x 3 x 224 x 224 uint8, all patches", hogs, hog_bytes, loops=4 * 256 * 196 * 12 // 128, tolerance=2e-6),
    Case("hog, hidden", "256 x 3 x 224 x 224 uint8, 78 of 196 patches", hidden_hogs, hidden_hog_bytes, loops=4 * 256 * 78 * 12 // 128,
         tolerance=2e-6),
]  # fmt: skip
