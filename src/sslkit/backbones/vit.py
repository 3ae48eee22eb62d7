"""The vision transformer, for images and clips: embed, locate, blocks, norm."""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sslkit._checks import wrong
from sslkit.backbones._blocks import Blocks
from sslkit.backbones._embed import PatchEmbed
from sslkit.backbones._init import Init, initialise
from sslkit.backbones._masks import check_mask, need_both
from sslkit.backbones._relative import RelativePositionBias
from sslkit.backbones._tokens import Tokens
from sslkit.backbones.positions import RESAMPLE, Resample, resample_positions, sincos_positions
from sslkit.patches import grid_of

if TYPE_CHECKING:
    from sslkit.maskers import TokenMask

Positions = Literal["learned", "sincos", "separable", "relative"]


class ViT(nn.Module):
    """Vision transformer whose four stages can be called one by one.

        patches, grid = embed(images)                        one linear map of every patch or tubelet
        patches       = where(replace, mask_token, patches)                           BEiT, MaskFeat, iBOT
        sequence      = locate(patches, grid)                + positions; prefix tokens in front
        sequence      = sequence without hidden tokens                                MAE; their pixels are not even read
        out           = norm(blocks(sequence))

    Args:
        image_size: of the position table, in pixels: a side or (height, width). Any multiple of the patch is accepted later.
        patch: side of a token in pixels.
        dim: size of a token.
        depth: number of blocks.
        heads: of every attention; divides dim.
        tubelet: frames per token; None: the model takes images [batch, channels, height, width], else clips with time before height.
        frames: of the position table, for clips.
        channels: of the images.
        prefix: tokens in front: "cls", "dist" (DeiT), then any number of "reg" (registers), each kind in one run.
        prefix_positions: whether each prefix token has a slot in the position table; one answer for all, or one for each. Default: cls and
            dist have one, registers do not.
        positions: "learned"; "sincos", a fixed table; "separable" (clips), a learned table over space plus one over time; "relative"
            (images), a bias of all attentions by the difference of places (BEiT), see `RelativePositionBias`; None.
        resample: how the table is read on another grid, see `resample_positions`; a property of the weights. Prefix slots stay as they are.
        mlp_ratio: hidden units per token size.
        qkv_bias: of queries, keys and values.
        layer_scale: start value of the layer scale, None for none.
        drop_path: stochastic depth of the last block, falling linearly to 0 in the first.
        norm_eps: of every LayerNorm.
        final_norm: False leaves `norm` out, for models that pool first and normalise later.
        init: "timm", "dino", "mae" or "beit", see `initialise`.

    State-dict names are timm's, DINO's and MAE's: cls_token, dist_token, reg_token, pos_embed, patch_embed.proj, blocks.0.norm1 and so on;
    separable tables are those of SlowFast: pos_embed_spatial, pos_embed_temporal, pos_embed_class; the relative one is BEiT's:
    rel_pos_bias.relative_position_bias_table.

    Raises:
        ValueError: sizes that do not fit each other, an unknown word, an image size that is no multiple of the patch.

    Source: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words"; Arnab et al. 2021 (ViViT) for tubelets; Darcet et al. 2024
    for registers; Bao et al. 2022 (BEiT) for relative positions.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int],
        patch: int,
        dim: int,
        depth: int,
        heads: int,
        *,
        tubelet: int | None = None,
        frames: int | None = None,
        channels: int = 3,
        prefix: Sequence[str] = ("cls",),
        prefix_positions: bool | Sequence[bool] | None = None,
        positions: Positions | None = "learned",
        resample: Resample = "size",
        mlp_ratio: float = 4,
        qkv_bias: bool = True,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        norm_eps: float = 1e-6,
        final_norm: bool = True,
        init: Init = "timm",
    ) -> None:
        super().__init__()
        wants = {"separable": True, "relative": False}.get(str(positions), tubelet is not None)  # clips
        if (tubelet is None) != (frames is None) or wants != (tubelet is not None):
            raise wrong("ViT", given=f"tubelet={tubelet}, frames={frames}, positions={positions!r}",
                        expected="tubelet and frames together, for clips; separable positions only then, relative ones only for images",
                        mend="pass tubelet=2, frames=16 for clips, and neither for images")  # fmt: skip
        if resample not in RESAMPLE or positions not in ("learned", "sincos", "separable", "relative", None):
            raise wrong("ViT", given=f"positions={positions!r}, resample={resample!r}",
                        expected=f'"learned", "sincos", "separable", "relative" or None; resample one of {", ".join(map(repr, RESAMPLE))}',
                        mend="leave both at their defaults, or take a word of these lists")  # fmt: skip
        self.prefix, self._has_slot = _read_prefix(prefix, prefix_positions)
        self.dim, self.patch, self.tubelet, self.channels, self.resample = dim, patch, tubelet, channels, resample
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        size = (height, width) if frames is None else (frames, height, width)
        self.base = grid_of(size, patch, tubelet=tubelet or 1)  # the grid of the position table
        self.patch_embed = PatchEmbed(patch, dim, channels=channels, tubelet=tubelet)
        for name, run in groupby(self.prefix):
            self.register_parameter(f"{name}_token", nn.Parameter(torch.zeros(1, len(list(run)), dim)))
        self.positions = positions
        self._make_positions()
        self.rel_pos_bias = RelativePositionBias((self.base[0], self.base[1]), heads) if positions == "relative" else None
        self.blocks = Blocks(depth, dim, heads, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, layer_scale=layer_scale, drop_path=drop_path,
                             norm_eps=norm_eps)  # fmt: skip
        self.norm = nn.LayerNorm(dim, eps=norm_eps) if final_norm else nn.Identity()
        initialise(self, init)

    def _make_positions(self) -> None:
        slots = sum(self._has_slot)
        space, tokens = self.base[-2] * self.base[-1], self.base[0] * self.base[1] * (self.base[2] if len(self.base) == 3 else 1)
        if self.positions == "learned":
            self.pos_embed = nn.Parameter(torch.zeros(1, slots + tokens, self.dim))
        elif self.positions == "sincos":
            table = sincos_positions(self.base, self.dim, prefix=slots)[None]
            self.register_buffer("pos_embed", table.to(torch.get_default_dtype()))
        elif self.positions == "separable":
            self.pos_embed_spatial = nn.Parameter(torch.zeros(1, space, self.dim))
            self.pos_embed_temporal = nn.Parameter(torch.zeros(1, self.base[0], self.dim))
            if slots:
                self.pos_embed_class = nn.Parameter(torch.zeros(1, slots, self.dim))

    def positions_at(self, grid: tuple[int, ...]) -> tuple[Tensor | None, Tensor | None]:
        """The position table of a grid: of the prefix slots [slots, dim], and of the tokens [tokens, dim]; None where there are none."""
        slots = sum(self._has_slot)
        if self.positions in (None, "relative"):
            return None, None
        if self.positions == "separable":
            space = resample_positions(self.pos_embed_spatial[0], self.base[1:], grid[1:], self.resample)
            time = resample_positions(self.pos_embed_temporal[0], self.base[:1], grid[:1], self.resample)
            return self.pos_embed_class[0] if slots else None, (time[:, None] + space).flatten(0, 1)
        table = self.pos_embed[0]
        return (table[:slots] if slots else None), resample_positions(table[slots:], self.base, grid, self.resample)

    def embed(self, images: Tensor, *, keep: "TokenMask | None" = None) -> tuple[Tensor, tuple[int, ...]]:
        """Images -> patch tokens [batch, tokens, dim] and the grid. With `keep`, the visible ones, from their pixels alone."""
        grid = self.patch_embed.grid(images)
        if keep is None:
            return self.patch_embed(images), grid
        check_mask("ViT", "keep", keep, images.shape[0], grid)
        return self.patch_embed(images, keep.ids_keep), grid

    def locate(self, patches: Tensor, grid: tuple[int, ...], *, keep: "TokenMask | None" = None) -> Tensor:
        """Adds positions to patch tokens and puts the prefix in front: [batch, prefix + tokens, dim].

        With `keep`, `patches` are the visible tokens of the grid, and get the positions of their places.
        """
        slots, table = self.positions_at(grid)
        if table is not None:
            patches = patches + (table if keep is None else functional.embedding(keep.ids_keep, table))
        if not self.prefix:
            return patches
        prefix = torch.cat([getattr(self, f"{name}_token")[0] for name, _ in groupby(self.prefix)])  # [prefix, dim]
        if slots is not None:
            rows = iter(slots.unbind())
            prefix = torch.stack([token + next(rows) if has else token for token, has in zip(prefix.unbind(), self._has_slot, strict=True)])
        return torch.cat([prefix.expand(patches.shape[0], -1, -1), patches], dim=1)

    def forward(
        self,
        images: Tensor,
        *,
        keep: "TokenMask | None" = None,
        replace: "TokenMask | None" = None,
        mask_token: Tensor | None = None,
        layers: Sequence[int] = (),
        attention_of: int | None = None,
    ) -> Tokens:
        """All four stages.

        Args:
            images: floating [batch, channels, height, width], or clips [batch, channels, time, height, width]; multiples of the patch.
            keep: hidden tokens are left out (MAE); positions are those of the full grid.
            replace: hidden tokens become `mask_token` before positions are added (BEiT).
            mask_token: for `replace`: [dim], or a parameter with axes of length 1 in front.
            layers: numbers of blocks whose outputs are wanted too, -1 for the last.
            attention_of: number of the block whose attention weights are wanted.

        Returns:
            `Tokens`; dtype as the parameters or autocast say, attention float32 or wider.

        Raises:
            ValueError: the images do not fit, a mask is for another batch or grid, or `replace` comes without `mask_token` or the reverse.
        """
        need_both("ViT", replace, mask_token)
        if replace is None or mask_token is None:
            patches, grid = self.embed(images, keep=keep)
        else:
            grid = self.patch_embed.grid(images)
            check_mask("ViT", "replace", replace, images.shape[0], grid)
            # blank, though nothing is seen of it: a NaN would reach, as 0 * NaN, the gradient of the filters.
            patches = self.patch_embed(images, hidden=replace.mask)
            patches = replace.replace(patches, mask_token.flatten())
            if keep is not None:
                check_mask("ViT", "keep", keep, images.shape[0], grid)
                patches = keep.keep(patches)
        sequence = self.locate(patches, grid, keep=keep)
        ids = None if keep is None else keep.ids_keep
        bias = None if self.rel_pos_bias is None else self.rel_pos_bias(grid, len(self.prefix), ids)
        sequence, outputs, attention = self.blocks(sequence, layers=layers, attention_of=attention_of, bias=bias)
        sequence = self.norm(sequence)
        front = len(self.prefix)
        return Tokens(sequence[:, :front], sequence[:, front:], grid, outputs, attention, self.prefix)


def _read_prefix(prefix: Sequence[str], slots: bool | Sequence[bool] | None) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    names = tuple(prefix)
    runs = [name for name, _ in groupby(names)]
    if set(names) - {"cls", "dist", "reg"} or len(runs) != len(set(runs)) or max(names.count("cls"), names.count("dist")) > 1:
        raise wrong("ViT", given=f"prefix={prefix!r}", expected='a tuple of at most one "cls", at most one "dist", and one run of "reg"',
                    mend='write ("cls", "reg", "reg", "reg", "reg") for four registers, () for no prefix')  # fmt: skip
    if slots is None:
        return names, tuple(name != "reg" for name in names)
    flags = (slots,) * len(names) if isinstance(slots, bool) else tuple(slots)
    if len(flags) != len(names):
        raise wrong("ViT", given=f"prefix_positions={slots!r} for the prefix {names}", expected="one bool, or one for each token",
                    mend="False is timm's no_embed_class")  # fmt: skip
    return names, flags
