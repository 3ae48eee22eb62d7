"""Saliency of scikit-image's photographs against outlines drawn by hand: `python docs/photographs.py` writes picture and table.

Needs scikit-image, which `make bench` installs. Outlines are (column, row) of the full photograph, good to a few pixels.
"""

from pathlib import Path

import torch
from skimage import data
from skimage.draw import polygon2mask
from skimage.segmentation import slic
from torch import Tensor
from torch.nn.functional import interpolate

from sslkit.evaluation import f_beta, mean_absolute_error
from sslkit.plots import contact_sheet, save_picture
from sslkit.saliency import geodesic_saliency, markov_chain_saliency, robust_background_saliency

HERE = Path(__file__).parent
METHODS = {"GS": geodesic_saliency, "MC": markov_chain_saliency, "RBD": robust_background_saliency}
OUTLINES = {
    "astronaut": (  # the person, with the helmet
        (155, 60), (165, 45), (190, 28), (215, 17), (245, 17), (275, 30), (295, 55), (300, 85), (295, 115), (275, 135), (262, 140),
        (258, 165), (280, 190), (300, 220), (305, 240), (330, 255), (345, 280), (355, 310), (360, 345), (400, 343), (430, 350),
        (460, 370), (485, 405), (497, 450), (507, 470), (511, 480), (511, 511), (25, 511), (27, 450), (25, 380), (35, 320), (45, 290),
        (65, 250), (100, 215), (118, 200), (117, 185), (130, 165), (150, 152), (183, 150), (180, 130), (165, 115), (158, 95),
    ),
    "chelsea": (  # the cat, which leaves the picture on three sides
        (35, 0), (395, 0), (375, 35), (360, 70), (365, 120), (350, 155), (345, 170), (320, 225), (300, 280), (290, 300), (0, 300),
        (0, 160), (40, 110), (33, 60),
    ),
    "coffee": (  # cup, saucer, spoon
        (77, 215), (83, 180), (95, 150), (115, 115), (145, 85), (180, 66), (185, 58), (200, 40), (225, 27), (260, 20), (300, 19),
        (340, 27), (370, 42), (390, 60), (398, 72), (415, 66), (424, 75), (420, 95), (440, 130), (460, 160), (473, 190), (479, 225),
        (475, 260), (460, 300), (430, 335), (390, 362), (345, 380), (290, 388), (240, 384), (190, 368), (150, 345), (115, 310),
        (90, 270), (80, 240),
    ),
    "rocket": (  # without tower and lights
        (309, 180), (311, 145), (313, 135), (322, 127), (331, 137), (333, 148), (333, 177), (334, 200), (335, 235), (332, 240),
        (332, 405), (312, 405), (312, 240), (310, 235),
    ),
}  # fmt: skip


def photograph(name: str) -> tuple[Tensor, Tensor]:
    """uint8 [1, 3, height, width], bool [1, height, width]."""
    image = torch.from_numpy(getattr(data, name)().copy()).movedim(2, 0)[None]
    rows_columns = [(row, column) for column, row in OUTLINES[name]]
    return image, torch.from_numpy(polygon2mask(tuple(image.shape[2:]), rows_columns))[None]


def tile(picture: Tensor) -> Tensor:
    """[1, 1 or 3, height, width] in [0, 1] -> [3, 160, 220]."""
    return interpolate(picture.float(), (160, 220), mode="bilinear", antialias=True)[0].expand(3, -1, -1)


def main() -> None:
    tiles, found = [], {name: [] for method in METHODS for name in (method, f"{method}, SLIC of scikit-image")}
    for name in OUTLINES:
        image, truth = photograph(name)
        maps = {method: estimate(image) for method, estimate in METHODS.items()}
        tiles += [tile(image / 255), *map(tile, maps.values()), tile(truth[:, None])]
        height, width = image.shape[2:]
        regions = slic(image[0].movedim(0, 2).numpy(), max(200, height * width // 600), compactness=20, start_label=0)
        labels = torch.from_numpy(regions)[None]
        maps |= {f"{method}, SLIC of scikit-image": estimate(image, superpixels=labels) for method, estimate in METHODS.items()}
        for method, saliency in maps.items():
            found[method].append((f_beta(saliency[:, 0], truth).maximum, mean_absolute_error(saliency[:, 0], truth)))
    sheet = contact_sheet(torch.stack(tiles), columns=len(METHODS) + 2, titles=["photograph", *METHODS, "by hand"] * len(OUTLINES))
    print(save_picture(sheet, HERE / "photographs.png"))
    print("| max F / mean absolute error |", " | ".join(OUTLINES), "| mean |")
    print("|---" * (len(OUTLINES) + 2) + "|")
    for method, scores in found.items():
        mean = torch.tensor(scores, dtype=torch.float64).mean(dim=0).tolist()
        print(f"| {method} |", " | ".join(f"{f:.3f} / {error:.3f}" for f, error in (*scores, mean)), "|")


if __name__ == "__main__":
    main()
