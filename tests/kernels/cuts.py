"""What the tests of gather_patches share: pictures and clips, ids, and one pixel at a time to compare with."""

from itertools import product

import torch
from hypothesis import strategies as st
from tests.kernels.operations import seeded, unique_ids

from sslkit.patches import grid_of

MEAN, STD = (0.485, 0.456, 0.406, 0.3), (0.229, 0.224, 0.225, 0.2)  # four channels, of which the pictures take theirs


def pictures(*shape, dtype=torch.uint8, seed=0):
    """Levels, or floats that every dtype holds exactly."""
    levels = torch.randint(0, 256, shape, generator=seeded(seed), dtype=torch.uint8)
    return levels if dtype == torch.uint8 else ((levels.to(torch.float64) - 128) / 64).to(dtype)


def some_ids(images, patch, kept, seed=0, dtype=torch.int64, **frames):
    tokens = torch.Size(grid_of(tuple(images.shape[2:]), patch, **frames)).numel()
    return unique_ids(len(images), tokens, min(kept, tokens), seed, dtype)


def by_loop(images, ids, patch, tubelet=1, frame_stride=1, mean=None, std=None, order="cpq"):
    """[batch, kept, values], float64, pixel by pixel."""
    grid = (1, *grid_of(tuple(images.shape[2:]), patch, tubelet=tubelet, frame_stride=frame_stride))[-3:]
    clips, channels = (images[:, :, None] if images.ndim == 4 else images).to(torch.float64), images.shape[1]
    out = torch.empty(*ids.shape, channels * tubelet * patch**2, dtype=torch.float64)
    for b, k in product(range(len(ids)), range(ids.shape[1])):
        line, w = divmod(ids[b, k].item(), grid[2])
        t, h = divmod(line, grid[1])
        for c, u, p, q in product(range(channels), range(tubelet), range(patch), range(patch)):
            x = clips[b, c, (t * tubelet + u) * frame_stride, h * patch + p, w * patch + q] / (255 if images.dtype == torch.uint8 else 1)
            place = ((c * tubelet + u) * patch + p) * patch + q if order == "cpq" else ((u * patch + p) * patch + q) * channels + c
            out[b, k, place] = (x - (mean[c] if mean else 0)) / (std[c] if std else 1)
    return out


@st.composite
def cuts(draw, side=3, patches=(1, 5), dtypes=(torch.uint8, torch.float32), batches=(0, 2)):
    """(images, ids, patch, options) of any kind: images or clips, the last frames left over, no channels' numbers, or some."""
    patch, channels, batch = draw(st.integers(*patches)), draw(st.integers(1, 4)), draw(st.integers(*batches))
    grid, frames = [draw(st.integers(1, side)) for _ in range(2)], {}
    size = [n * patch for n in grid]
    if draw(st.booleans()):
        frames = {"tubelet": draw(st.integers(1, 2)), "frame_stride": draw(st.integers(1, 2))}
        size = [
            draw(st.integers(1, 2)) * frames["tubelet"] * frames["frame_stride"] - draw(st.integers(0, frames["frame_stride"] - 1)),
            *size,
        ]
    seed = draw(st.integers(0, 99))
    images = pictures(batch, channels, *size, dtype=draw(st.sampled_from(dtypes)), seed=seed)
    ids = some_ids(images, patch, draw(st.integers(0, 4)), seed, draw(st.sampled_from([torch.int64, torch.int32])), **frames)
    numbers = {name: values[:channels] for name, values in (("mean", MEAN), ("std", STD)) if draw(st.booleans())}
    return images, ids, patch, {**frames, **numbers, "order": draw(st.sampled_from(["cpq", "pqc"]))}
