"""Where some tokens look, and where the heads of one look."""

import torch
from torch import Tensor

from sslkit._checks import bind_axes, wrong
from sslkit.patches import grid_of
from sslkit.plots.sheet import as_bytes, contact_sheet

COLOURS = ((230, 60, 50), (50, 175, 70), (60, 120, 240), (240, 170, 30), (190, 80, 220), (30, 190, 200))  # of the points, then again


def attention_sheet(
    images: Tensor,
    attention: Tensor,
    points: Tensor,
    patch: int,
    *,
    head: int | None = None,
    side: int = 96,
) -> Tensor:
    """A row for each image: the image with its reference points, then for each point a map of where its token looks.

        map of point n: mean over heads of  attention[b, head, prefix + n, prefix + m]  at every token m,  divided by its maximum

    Black is 0, white the maximum. Points and their maps have frames of one colour. The columns of the prefix (class token, registers) are
    left out: what a token looks at there is not shown.

    Args:
        images: [batch, channels, height, width], channels 1 or 3; uint8 or floating in [0, 1].
        attention: [batch, heads, prefix + tokens, prefix + tokens], rows sum to 1: `Tokens.attention` of a network that was given
            attention_of=-1, or another block. A relative bias is in it.
        points: [batch, points], integers: tokens of the grid, counted row by row; or [points], the same for all images.
        patch: side of a token in pixels.
        head: this head alone; None: the mean of all.
        side: pictures of a smaller side are enlarged by a whole factor, to at least this.

    Returns:
        uint8 [3, sheet height, sheet width], see `contact_sheet`.

    Raises:
        ValueError: the shapes disagree, the attention has fewer tokens than the images, no such head, or a point outside of the grid.
        TypeError: points are not integers.

    Source: Bao et al. 2022, "BEiT: BERT Pre-Training of Image Transformers", fig. 2.
    """
    images, attention, points = (x.detach().cpu() for x in (images, attention, points))
    points = points.expand(len(images), -1) if points.ndim == 1 else points
    sizes = bind_axes("attention_sheet", images=(images, "batch channels height width"), attention=(attention, "batch heads length length"),
                      points=(points, "batch points"))  # fmt: skip
    grid, heads = grid_of((sizes["height"], sizes["width"]), patch), sizes["heads"]
    tokens = grid[0] * grid[1]
    if sizes["length"] < tokens or (head is not None and not -heads <= head < heads):
        raise wrong("attention_sheet", given=f"attention {list(attention.shape)}, head={head}, for images of {grid[0]} x {grid[1]} tokens",
                    expected=f"{tokens} tokens or more, and one of its heads",
                    mend="pass Tokens.attention of these very images, none of their tokens left out")  # fmt: skip
    if points.is_floating_point() or points.dtype == torch.bool:
        raise wrong("attention_sheet", given=f"points of dtype {points.dtype}", expected="integers, numbers of tokens",
                    mend="pass row * columns + column of each", kind=TypeError)  # fmt: skip
    if ((points < 0) | (points >= tokens)).any():  # on the CPU: it is drawn there anyway
        raise wrong("attention_sheet", given=f"points from {int(points.min())} to {int(points.max())}", expected=f"0..{tokens - 1}",
                    mend="pass row * columns + column of each")  # fmt: skip
    weights = attention.float()[:, :, -tokens:, -tokens:]  # the prefix stands in front
    weights = weights.mean(dim=1) if head is None else weights[:, head]  # [batch, tokens, tokens]
    maps = weights.take_along_dim(points.long()[..., None], dim=1)  # [batch, points, tokens]
    maps = maps / maps.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    factor = max(1, -(-side // min(sizes["height"], sizes["width"])))
    shown = _large(as_bytes(images), factor)  # [batch, 3, height, width]
    looked = _large(as_bytes(maps.view(*maps.shape[:2], 1, *grid)), patch * factor)  # [batch, points, 3, height, width]
    for b, row in enumerate(points.tolist()):
        for n, token in enumerate(row):
            for picture in (shown[b], looked[b, n]):
                _frame(picture, divmod(token, grid[1]), patch * factor, COLOURS[n % len(COLOURS)])
    cells = torch.cat([shown[:, None], looked], dim=1)  # [batch, 1 + points, 3, height, width]
    return contact_sheet(cells.flatten(0, 1), columns=cells.shape[1])


def attention_heads(images: Tensor, attention: Tensor, masks: Tensor, patch: int, *, alone: bool = False, side: int = 96) -> Tensor:
    """A row for each image: the image, then on a dark copy what the heads of a token look at, each head in a colour of its own.

        colour of token n: that of the head h with masks[b, h, n] whose share, attention[b, h, n] / sum of attention[b, h], is largest there
        pixel = grey / 4 where no head looks,  (0.4 + 0.6 grey) * colour of its token elsewhere,   grey: mean of the channels, in [0, 1]

    Shares, not weights: a head that spends most of its attention on the prefix counts like the others. Colours come again after six heads.

        tokens = model(images, attention_of=-1)                              # a ViT, or an adapted model
        weights = tokens.attention[:, :, 0, len(tokens.names):]              # of the class token, over patches
        sheet = attention_heads(images, weights, attention_masks(weights, 0.6), patch)

    Args:
        images: [batch, channels, height, width], channels 1 or 3; uint8 or floating in [0, 1].
        attention: [batch, heads, tokens], not negative, of one token over patch tokens; the grid is read row by row.
        masks: bool, like attention: which tokens each head keeps.
        patch: side of a token in pixels.
        alone: one more picture for each head, its mask by itself, in a frame of its colour.
        side: pictures of a smaller side are enlarged by a whole factor, to at least this.

    Returns:
        uint8 [3, sheet height, sheet width], see `contact_sheet`.

    Raises:
        ValueError: the shapes disagree, the images have another number of tokens, or masks are not bool.

    Source: Caron et al. 2021 (DINO), fig. 3; how colours that meet are joined is not published.
    """
    images, attention, masks = (x.detach().cpu() for x in (images, attention, masks))
    sizes = bind_axes("attention_heads", images=(images, "batch channels height width"), attention=(attention, "batch heads tokens"),
                      masks=(masks, "batch heads tokens"))  # fmt: skip
    grid = grid_of((sizes["height"], sizes["width"]), patch)
    if sizes["tokens"] != grid[0] * grid[1]:
        raise wrong("attention_heads", given=f"attention {list(attention.shape)} for images of {grid[0]} x {grid[1]} tokens",
                    expected=f"{grid[0] * grid[1]} tokens",
                    mend="leave the prefix out: attention[:, :, 0, len(tokens.names):]")  # fmt: skip
    if masks.dtype != torch.bool:
        raise wrong("attention_heads", given=f"masks of dtype {masks.dtype}", expected="torch.bool", mend="pass attention_masks(attention)")
    shares = attention.float() / attention.float().sum(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    owner = shares.masked_fill(~masks, -1).argmax(dim=1)  # [batch, tokens]
    tints = [COLOURS[head % len(COLOURS)] for head in range(sizes["heads"])]
    colours = torch.tensor(tints) / 255  # [heads, 3]
    factor = max(1, -(-side // min(sizes["height"], sizes["width"])))
    original = _large(as_bytes(images), factor)  # [batch, 3, height, width]
    grey = original.float().mean(dim=1, keepdim=True) / 255

    def paint(kept: Tensor, colour: Tensor) -> Tensor:
        """kept [batch, tokens], colour [batch, tokens, 3] -> uint8 [batch, 3, height, width]."""
        where = _large(kept.view(-1, 1, *grid), patch * factor)
        colour = _large(colour.mT.reshape(len(kept), 3, *grid), patch * factor)
        return as_bytes(torch.where(where, (0.4 + 0.6 * grey) * colour, grey / 4))

    cells = [original, paint(masks.any(dim=1), colours[owner])]
    cells += [paint(masks[:, h], colours[h].expand(*owner.shape, 3)) for h in range(len(tints))] if alone else []
    frames = [None, None, *tints] * len(images) if alone else None
    return contact_sheet(torch.stack(cells, dim=1).flatten(0, 1), columns=len(cells), frames=frames)


def _large(x: Tensor, factor: int) -> Tensor:
    """A fresh copy, each pixel `factor` times along both axes."""
    return x.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)


def _frame(picture: Tensor, at: tuple[int, int], side: int, colour: tuple[int, int, int]) -> None:
    """Draws the border of a token, an eighth of its side, into [3, height, width]."""
    border = torch.ones(side, side, dtype=torch.bool)
    width = max(1, side // 8)
    border[width:-width, width:-width] = False
    square = picture[:, at[0] * side : (at[0] + 1) * side, at[1] * side : (at[1] + 1) * side]
    square[:, border] = torch.tensor(colour, dtype=torch.uint8)[:, None]
