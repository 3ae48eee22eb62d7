"""The masked autoencoder: an encoder of visible tokens, a light decoder of all."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sslkit._checks import wrong
from sslkit.backbones._adapt.base import Adapted
from sslkit.backbones._blocks import Blocks
from sslkit.backbones._init import initialise
from sslkit.backbones._tokens import Tokens
from sslkit.backbones.positions import resample_positions, sincos_positions
from sslkit.backbones.vit import ViT

if TYPE_CHECKING:
    from sslkit.maskers import TokenMask


class MAE(nn.Module):
    """Masked autoencoder.

        visible    = encoder(images, keep=mask)
        full       = mask_token everywhere, decoder_embed(visible) at the visible tokens, prefix tokens in front
        prediction = decoder_pred(decoder_norm(decoder_blocks(full + decoder_pos_embed)))         without the prefix tokens

    Args:
        encoder: a `ViT`, or another library's model by `adapt`. The paper's is a ViT with positions="sincos" and init="mae".
        decoder_dim: size of the decoder's tokens, a multiple of decoder_heads and of 4 (16 for clips).
        decoder_depth: blocks of the decoder.
        decoder_heads: heads of the decoder.
        mlp_ratio: hidden units per token size, in the decoder.
        norm_eps: of the decoder's LayerNorms.
        values: numbers predicted per token; None: its pixels. Other targets have as many as they say: coefficients, visual words.

    The decoder's positions are the fixed sin-cos table (zeros for prefix tokens), read on other grids in the encoder's resample mode. The
    decoder, mask token included, starts as published ("mae" of `initialise`).

    State-dict names of the decoder are those of the public checkpoints: decoder_embed, mask_token, decoder_pos_embed, decoder_blocks.0,
    decoder_norm, decoder_pred. The encoder's stand below `encoder.`; `load_official(mae, state_dict, "mae")` puts them there.

    Source: He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", sec. 3 and appendix A.1.
    """

    def __init__(self, encoder: ViT | Adapted, decoder_dim: int = 512, decoder_depth: int = 8, decoder_heads: int = 16, *,
                 mlp_ratio: float = 4, norm_eps: float = 1e-6, values: int | None = None) -> None:  # fmt: skip
        super().__init__()
        if not isinstance(encoder, ViT | Adapted):
            raise wrong("MAE", given=f"encoder of type {type(encoder).__name__}", expected="a sslkit.backbones.ViT, or what adapt returns",
                        mend='pass vit_base(positions="sincos", init="mae")', kind=TypeError)  # fmt: skip
        if values is not None and values < 1:
            raise wrong("MAE", given=f"values={values}", expected="a whole number from 1 on",
                        mend="pass how many numbers the target has for a token, or None for its pixels")  # fmt: skip
        self.values = (encoder.tubelet or 1) * encoder.patch**2 * encoder.channels if values is None else values
        self.encoder = encoder
        self.decoder_embed = nn.Linear(encoder.dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        table = sincos_positions(encoder.base, decoder_dim, prefix=len(encoder.prefix))[None]
        self.decoder_pos_embed: Tensor
        self.register_buffer("decoder_pos_embed", table.to(torch.get_default_dtype()))
        self.decoder_blocks = Blocks(decoder_depth, decoder_dim, decoder_heads, mlp_ratio=mlp_ratio, norm_eps=norm_eps)
        self.decoder_norm = nn.LayerNorm(decoder_dim, eps=norm_eps)
        self.decoder_pred = nn.Linear(decoder_dim, self.values)
        for part in (self.decoder_embed, self.decoder_blocks, self.decoder_norm, self.decoder_pred):  # the encoder keeps its weights
            initialise(part, "mae")
        nn.init.normal_(self.mask_token, std=0.02)

    def decode(self, visible: Tokens, mask: "TokenMask") -> Tensor:
        """The decoder: visible tokens -> [batch, tokens, values] for all tokens of the grid."""
        front = visible.prefix.shape[1]
        x = self.decoder_embed(torch.cat([visible.prefix, visible.patches], dim=1)).to(self.mask_token.dtype)
        places = resample_positions(self.decoder_pos_embed[0, front:], self.encoder.base, visible.grid, self.encoder.resample)
        positions = torch.cat([self.decoder_pos_embed[0, :front], places])
        x = mask.restore(x, self.mask_token.flatten(), front, positions=positions)  # [batch, prefix + tokens, decoder_dim]
        x, _, _ = self.decoder_blocks(x)
        return self.decoder_pred(self.decoder_norm(x[:, front:]))  # type: ignore[no-any-return]

    def forward(self, images: Tensor, mask: "TokenMask") -> Tensor:
        """Predicts every token from the visible ones.

        Args:
            images: floating [batch, channels, height, width], or clips, as the encoder takes them.
            mask: its hidden tokens are neither embedded nor encoded; every row must hide the same number.

        Returns:
            [batch, tokens, values]; pixels: tubelet * patch**2 * channels of them, in the order "pqc" of `patchify`.

        Raises:
            ValueError: the images do not fit the encoder, or the mask is for another batch or grid.
        """
        return self.decode(self.encoder(images, keep=mask), mask)
