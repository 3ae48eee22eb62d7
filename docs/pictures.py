"""The pictures of the documentation: `python docs/pictures.py` writes them beside this file."""

from pathlib import Path

import torch
from torch import Generator, Tensor

from sslkit.augmentations import ImageBackgrounds, RandomTexture, looc
from sslkit.datasets import Scenes
from sslkit.maskers import (
    BlockwiseMasker,
    CellMasker,
    CubeMasker,
    FrameMasker,
    GridMasker,
    Masker,
    MultiBlockMasker,
    RandomMasker,
    TokenMask,
    TubeMasker,
)
from sslkit.plots import contact_sheet, mask_sheet, save_picture

HERE = Path(__file__).parent
DRAWS = 4096


def planes(mask: TokenMask) -> Tensor:
    return mask.mask.view(-1, *mask.grid)


def sheet(name: str, grid: tuple[int, ...], maskers: dict[str, Masker], title: str, **options: int) -> Path:
    rows = {label: planes(masker(DRAWS, grid, generator=Generator().manual_seed(0))) for label, masker in maskers.items()}
    context, targets = MultiBlockMasker()(DRAWS, grid, generator=Generator().manual_seed(0))
    rows["MultiBlockMasker()\ncontext = what is\nnot hidden"] = planes(context)
    rows["MultiBlockMasker()\nthe first of\nfour targets"] = planes(targets[0])
    return mask_sheet(rows, HERE / name, title=title, **options)


def images() -> dict[str, Masker]:
    return {
        "RandomMasker(0.75)": RandomMasker(0.75),
        "GridMasker()": GridMasker(),
        "BlockwiseMasker(0.4)\nexact": BlockwiseMasker(0.4),
        "BlockwiseMasker(0.4,\nexact=False)": BlockwiseMasker(0.4, exact=False),
        'BlockwiseMasker(0.4,\nexact=False,\nvariant="paper")': BlockwiseMasker(0.4, exact=False, variant="paper"),
        "BlockwiseMasker(0.75)": BlockwiseMasker(0.75),
    }


def looc_views() -> Path:
    """Three generated pictures, a query of each, and its keys: they share one augmentation with it, or none. No flip, to see the turns."""
    scenes, spaces = Scenes("test", 112), ("color", "rotation", "texture")
    pictures = scenes.batch((0, 1, 6)).images
    texture = RandomTexture(ImageBackgrounds(scenes.backgrounds(range(100))), strength=1.0, radius=7)
    draw = looc(112, spaces, texture=texture, scale=(0.5, 1.0), jitter=(0.4, 0.4, 0.4, 0.5), blur=0, flip=0)
    columns = [pictures, *draw(pictures, generator=Generator().manual_seed(6))]
    titles = ["picture", "query", "key 0", *(f"key of {space}" for space in spaces)] * len(pictures)
    sheet = contact_sheet(torch.stack(columns, dim=1).flatten(0, 1), columns=len(columns), titles=titles)
    return save_picture(sheet, HERE / "looc.png")


def main() -> None:
    square = {**images(), "CellMasker(0.6)": CellMasker(0.6)}
    print(sheet("masks_square.png", (14, 14), square, "Images, 14 x 14 tokens"))
    print(sheet("masks_wide.png", (7, 21), {**images(), "CellMasker(0.6, cell=7)": CellMasker(0.6, cell=7)}, "Images, 7 x 21 tokens"))
    clips: dict[str, Masker] = {
        "RandomMasker(0.9)": RandomMasker(0.9),
        "TubeMasker(0.9)": TubeMasker(0.9),
        "TubeMasker(0.4,\nBlockwiseMasker(\nmin_patches=4))": TubeMasker(0.4, BlockwiseMasker(min_patches=4)),
        "FrameMasker(0.4)": FrameMasker(0.4),
        "CubeMasker(0.4)": CubeMasker(0.4),
        "CellMasker(0.6, cell=7)": CellMasker(0.6, cell=7),
    }
    print(sheet("masks_video.png", (8, 7, 7), clips, "Clips, 8 x 7 x 7 tokens, frames from left to right", samples=2, cell=6))
    print(looc_views())


if __name__ == "__main__":
    main()
