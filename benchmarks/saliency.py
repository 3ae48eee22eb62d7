"""Superpixels against scikit-image's SLIC, RBD against a form of scikit-image and scipy, copy-paste's blend against its formula.

The peer of RBD is written here from the description in `robust_background_saliency`, picture by picture, with scipy's shortest paths and
Cholesky factor; on equal superpixels it gives the same maps. Pictures are scikit-image's photographs, cropped and resized.
"""

from functools import partial

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.harness import Report, command, compare
from sslkit.augmentations import CopyPaste
from sslkit.saliency import robust_background_saliency, superpixels

NAMES = ("astronaut", "chelsea", "coffee", "rocket")
TITLES = {
    "superpixels": "196 superpixels of 4 photographs of 224 x 224, 10 rounds",
    "rbd": "RBD of 8 photographs of 128 x 128, superpixels included",
    "copy_paste": "64 x 3 x 224 x 224 on other pictures, float32, blend none",
}


def photographs(count: int, side: int) -> Tensor:
    """Square crops of scikit-image's photographs: uint8 [count, 3, side, side]."""
    from skimage import data

    out = []
    for i in range(count):
        picture = torch.from_numpy(getattr(data, NAMES[i % len(NAMES)])().copy()).movedim(2, 0)[None]
        short = min(picture.shape[2:])
        left = (picture.shape[3] - short) * (i // len(NAMES))
        crop = picture[:, :, :short, left : left + short].float()
        out.append(interpolate(crop, size=(side, side), mode="bilinear", antialias=True).round().clamp(0, 255).to(torch.uint8))
    return torch.cat(out)


def slic_each(pictures: list[np.ndarray], count: int, connected: bool = True) -> list[np.ndarray]:
    from skimage.segmentation import slic

    return [slic(p, n_segments=count, compactness=20, start_label=0, enforce_connectivity=connected) for p in pictures]


def weight(d: np.ndarray, sigma: float) -> np.ndarray:
    return np.where(d > 3 * sigma, 0, np.exp(-(d**2) / (2 * sigma**2)))


def rbd(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """One picture [height, width, 3] uint8, float64 throughout."""
    from skimage.color import rgb2lab
    from skimage.filters import threshold_otsu

    labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    height, width, n = *labels.shape, labels.max() + 1
    flat, size = labels.ravel(), np.bincount(labels.ravel())

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(flat, weights=values.ravel(), minlength=n) / size

    colour = rgb2lab(np.stack([mean(picture[..., c] / 255) for c in range(3)], axis=1)[None])[0]
    rows, columns = np.mgrid[1 : height + 1, 1 : width + 1]
    place = np.stack([mean(rows) / height, mean(columns) / width], axis=1)
    edges = np.zeros((n, n), dtype=bool)
    for a, b in ((labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])):
        edges[a, b] = edges[b, a] = True
    np.fill_diagonal(edges, False)
    band = np.ones_like(labels, dtype=bool)
    band[8:-8, 8:-8] = False
    border = np.zeros(n, dtype=bool)
    border[np.unique(labels[band])] = True
    around = border[:, None] & border & ~np.eye(n, dtype=bool)
    distance = np.linalg.norm(colour[:, None] - colour, axis=2)
    near = edges | (edges.astype(float) @ edges > 0)
    np.fill_diagonal(near, False)
    has = edges.any(axis=1)
    m1, m2 = (np.where(e, distance, np.inf).min(axis=1)[has].mean() for e in (edges, near))
    steps = np.sort(distance[np.triu(edges)])[::-1]
    top = steps[: max(1, int(0.01 * len(steps) + 0.5))].mean()
    geo, neighbour = max(5, min(10, 3 * m1, top / 10)), min(3 * m1, 0.2 * top, 20)
    i, j = np.nonzero(edges | around)
    ways = dijkstra(coo_matrix((np.maximum(0, distance[i, j] - m2) + 1e-12, (i, j)), shape=(n, n)).tocsr())  # 0 would be no edge
    similar = weight(ways, geo)
    con = similar[:, border].sum(axis=1) / np.sqrt(similar.sum(axis=1))
    background = 1 - np.exp(-(con**2) / 2)
    contrast = (distance * weight(np.linalg.norm(place[:, None] - place, axis=2), 0.4)) @ background
    contrast = (contrast - contrast.min()) / (contrast.max() - contrast.min())
    contrast[contrast < threshold_otsu(np.floor(255 * contrast + 0.5).astype(np.uint8)) / 255] = 0
    smooth = np.where(near | around, weight(distance, neighbour), 0) + 0.1 * edges
    held = np.where(con > 3, 1000, background)
    system = np.diag(smooth.sum(axis=1) + 5 * held + contrast) - smooth
    s = cho_solve(cho_factor(system), contrast)
    return ((s - s.min()) / (s.max() - s.min()))[labels]


def rbd_each(pictures: list[np.ndarray], labels: list[np.ndarray] | None = None) -> np.ndarray:
    return np.stack([rbd(p, q) for p, q in zip(pictures, labels or slic_each(pictures, 200), strict=True)])


class Given:
    """Backgrounds in the order they are asked for."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.at = images, 0

    def __call__(self, u: Tensor, size: tuple[int, int]) -> Tensor:
        first, self.at = self.at, (self.at + len(u)) % len(self.images)
        return self.images[first : first + len(u)]


def formula(front: Tensor, mask: Tensor, behind: Tensor) -> Tensor:
    return front * mask + (1 - mask) * behind


def run(job: str, rounds: int) -> Report:
    more = ("scikit-image", "scipy")
    if job == "superpixels":
        x = photographs(4, 224)
        arrays = [p.movedim(0, 2).numpy() for p in x]
        jobs = {"sslkit": partial(superpixels, x, count=196), "sslkit, stride 2": partial(superpixels, x, count=196, stride=2),
                "scikit-image, stray pixels left": partial(slic_each, arrays, 196, False),
                "scikit-image": partial(slic_each, arrays, 196)}  # fmt: skip
        note = ("regions differ, so answers are not compared here: what they are good for is, in tests/saliency",)
        return compare("saliency_superpixels", jobs, rounds=rounds, agree=None, title=TITLES[job], more=more, notes=note)
    if job == "rbd":
        x = photographs(8, 128)
        arrays, labels = [p.movedim(0, 2).numpy() for p in x], superpixels(x, count=200)
        mine = robust_background_saliency(x, superpixels=labels)[:, 0].double().numpy()
        off = np.abs(mine - rbd_each(arrays, list(labels.numpy()))).mean(axis=(1, 2))
        if (off > 1e-3).sum() > 1:  # a value on Otsu's threshold may fall either way
            raise AssertionError(f"rbd: on equal superpixels the maps differ by {off}")
        jobs = {"sslkit": partial(robust_background_saliency, x), "scikit-image and scipy": partial(rbd_each, arrays)}
        note = (f"on equal superpixels the maps differ by {np.median(off):.1e} (median over pictures of the mean over pixels)",)
        return compare("saliency_rbd", jobs, rounds=rounds, agree=None, title=TITLES[job], more=more, notes=note)
    generator = torch.Generator().manual_seed(0)
    front, behind = torch.rand(2, 64, 3, 224, 224, generator=generator)
    mask = torch.rand(64, 1, 224, 224, generator=generator)
    paste = CopyPaste(Given(behind), blend="none", probability=1.0)
    parameters = paste.sample(64, generator=generator)
    jobs = {"sslkit": partial(paste.apply, front, mask, parameters),
            "sslkit, out=": partial(paste.apply, front, mask, parameters, out=torch.empty_like(front)),
            "f m + (1 - m) b": partial(formula, front, mask, behind)}  # fmt: skip
    return compare("copy_paste", jobs, rounds=rounds, title=TITLES[job])


main = command(__doc__, run, list(TITLES), rounds=7)

if __name__ == "__main__":
    main()
