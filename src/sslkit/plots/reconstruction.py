"""What a masked model sees, what it paints, and what was there."""

import torch
from torch import Tensor

from sslkit._checks import bind_axes, wrong
from sslkit.patches import grid_of, patchify, unpatchify
from sslkit.plots.sheet import as_bytes, contact_sheet


def reconstruction_sheet(
    images: Tensor,
    painted: Tensor,
    mask: Tensor,
    patch: int,
    *,
    overlay: bool = False,
    triplets: int = 2,
    side: int = 96,
    grey: int = 127,
) -> Tensor:
    """Triplets, from left to right: the visible tokens, the model's picture, the original.

    Args:
        images: the originals, [batch, channels, height, width], channels 1 or 3; uint8 or floating in [0, 1].
        painted: the model's pictures, of the same shape, in [0, 1] (cut off there).
        mask: [batch, tokens], bool, True = hidden.
        patch: side of a token in pixels.
        overlay: puts the visible tokens over the model's picture. No loss is taken on them, so without it they look worse than they need.
        triplets: in a row of the sheet.
        side: pictures of a smaller side are enlarged by a whole factor, to at least this.
        grey: level of what is hidden, 0..255.

    Returns:
        uint8 [3, sheet height, sheet width], see `contact_sheet`.

    Raises:
        ValueError: the shapes disagree, or the mask does not fill the pictures' grid.

    Source: He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", fig. 2.
    """
    sizes = bind_axes("reconstruction_sheet", images=(images, "batch channels height width"),
                      painted=(painted, "batch channels height width"), mask=(mask, "batch tokens"))  # fmt: skip
    grid = grid_of((sizes["height"], sizes["width"]), patch)
    if mask.dtype != torch.bool or sizes["tokens"] != grid[0] * grid[1]:
        raise wrong("reconstruction_sheet", given=f"mask {list(mask.shape)} of dtype {mask.dtype}",
                    expected=f"bool [batch, {grid[0] * grid[1]}], True = hidden",
                    mend="pass mask.mask of the TokenMask that the model was given")  # fmt: skip
    originals, pictures = as_bytes(images), as_bytes(painted)
    hidden = mask.cpu()[..., None]
    tokens = patchify(originals, patch)
    seen = unpatchify(tokens.masked_fill(hidden, grey), grid, patch)
    if overlay:
        pictures = unpatchify(torch.where(hidden, patchify(pictures, patch), tokens), grid, patch)
    factor = max(1, -(-side // min(sizes["height"], sizes["width"])))
    cells = torch.stack([seen, pictures, originals], dim=1).flatten(0, 1)  # [3 * batch, 3, height, width]
    cells = cells.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    return contact_sheet(cells, columns=3 * triplets, titles=["visible", "painted", "original"] * len(images))
