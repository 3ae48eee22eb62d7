"""Masks from attention (DINO): where most of the attention lies."""

import math

import torch
from torch import Tensor

from sslkit._checks import bind_axes, need_between, need_floating, need_whole, wrong


@torch.no_grad()
def attention_masks(attention: Tensor, mass: float = 0.6, *, grid: tuple[int, ...] | None = None, patch: int = 1) -> Tensor:
    """The fewest tokens that hold at least a given share of the attention.

        keep[n]  where  sum of all attention above attention[n]  <  mass * sum of all attention

    so the largest is kept always, and without the smallest of those kept the share would fall below. Among equals the first are taken.

    Args:
        attention: [..., tokens], not negative, of one query over patch tokens alone; rows need not sum to 1. Of the class token of a `ViT`
            called with attention_of=-1, registers left out: `tokens.attention[:, :, 0, len(tokens.names):]`, [batch, heads, tokens].
        mass: the share, in (0, 1].
        grid: (h, w) of the tokens, row by row: the result is a picture.
        patch: with a grid, pixels a token along each side; 1 keeps the grid.

    Returns:
        bool [..., tokens]; with a grid, [..., h * patch, w * patch], each token a square. A row of zeros keeps nothing.

    Raises:
        ValueError: mass outside (0, 1], a grid of another number of tokens, a patch without a grid.
        TypeError: not floating.

    Source: Caron et al. 2021 (DINO), sec. 4.2.2 and fig. 4, `visualize_attention.py`, which sorts from below and keeps what lies above
    1 - mass: the same set.
    """
    tokens = bind_axes("attention_masks", attention=(attention, "... tokens"))["tokens"]
    need_floating("attention_masks", attention=attention)
    need_between("attention_masks", 0, 1, mass=mass)
    need_whole("attention_masks", patch=patch)
    if mass == 0:
        raise wrong("attention_masks", given="mass=0", expected="a mass in (0, 1]", mend="0.6 is DINO's")
    if (patch != 1 and grid is None) or (grid is not None and (len(grid) != 2 or math.prod(grid) != tokens)):
        raise wrong("attention_masks", given=f"grid={grid}, patch={patch} for {tokens} tokens", expected=f"a grid (h, w) of {tokens}",
                    mend="leave the prefix out of attention, and pass Tokens.grid")  # fmt: skip
    wide = attention.to(torch.promote_types(attention.dtype, torch.float32))
    falling, ids = wide.sort(dim=-1, descending=True, stable=True)
    sums = falling.cumsum(dim=-1)
    above = torch.cat([torch.zeros_like(sums[..., :1]), sums[..., :-1]], dim=-1)  # not sums - falling, which rounds
    kept = above < mass * sums[..., -1:]
    masks = torch.zeros_like(kept).scatter(-1, ids, kept)  # [..., tokens]
    if grid is None:
        return masks
    return masks.view(*masks.shape[:-1], *grid).repeat_interleave(patch, dim=-2).repeat_interleave(patch, dim=-1)
