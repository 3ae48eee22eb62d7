"""Attention of the class token as a map of the image."""

import torch
from torch import Tensor
from torch.nn import functional

from sslkit._checks import bind_axes, need_floating, wrong
from sslkit.saliency._unit_range import unit_range


@torch.no_grad()
def attention_saliency(attention: Tensor, grid: tuple[int, int], *, size: tuple[int, int] | None = None, head: int | None = None) -> Tensor:
    """Where the class token looks: the mean of its heads, enlarged bilinearly, stretched to [0, 1].

    Args:
        attention: [batch, heads, tokens], of the class token over patch tokens alone; floating. Of a `ViT` called with attention_of=-1:
            `tokens.attention[:, :, 0, len(tokens.names):]`.
        grid: (h, w) of the tokens, row by row.
        size: (height, width) of the images; None: the grid.
        head: this head alone; None: the mean of all.

    Returns:
        [batch, 1, height, width] in [0, 1], float32 or wider; 0 where all tokens are looked at alike.

    Raises:
        ValueError: the axes, or a grid of another number of tokens.
        TypeError: not floating.

    Source: Caron et al. 2021 (DINO), fig. 1 and 3.
    """
    tokens = bind_axes("attention_saliency", attention=(attention, "batch heads tokens"))["tokens"]
    need_floating("attention_saliency", attention=attention)
    if len(grid) != 2 or grid[0] * grid[1] != tokens:
        raise wrong("attention_saliency", given=f"grid={tuple(grid)} for {tokens} tokens", expected=f"a grid (h, w) of {tokens}",
                    mend="leave the prefix out of attention, and pass Tokens.grid")  # fmt: skip
    wide = attention.to(torch.promote_types(attention.dtype, torch.float32))
    maps = (wide.mean(dim=1) if head is None else wide[:, head]).view(-1, 1, *grid)
    if size is not None:
        maps = functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    return unit_range(maps)
