"""transformers: ViTModel and DeiTModel; Dinov2Model, with and without registers; BeitModel; bare or inside a model with a head."""

# mypy: disable-error-code="no-any-return"
# What the user's modules return is not known to the type checker.

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sslkit._checks import wrong
from sslkit.backbones._adapt.base import Adapted, gather_bias
from sslkit.backbones._blocks import attention_weights
from sslkit.patches import grid_of

if TYPE_CHECKING:
    from sslkit.maskers import TokenMask


class TransformersViT(Adapted):
    """ViTModel and DeiTModel. Other image sizes read the position table as interpolate_pos_encoding=True does."""

    library = "transformers"

    def __init__(self, model: Any) -> None:
        embeddings = model.base_model.embeddings
        registers = embeddings.register_tokens.shape[1] if hasattr(embeddings, "register_tokens") else 0
        prefix = ["cls", *(["dist"] if hasattr(embeddings, "distillation_token") else []), *["reg"] * registers]
        stem = embeddings.patch_embeddings
        super().__init__(model, stem=stem, dim=model.base_model.config.hidden_size, units=tuple(stem.patch_size), prefix=prefix,
                         resample="antialias" if registers else "size")  # fmt: skip
        if not all(hasattr(getattr(block, "attention", None), "q_proj") for block in self.blocks):
            raise wrong("adapt", given=f"a {type(model).__name__} whose attention has no q_proj, k_proj, v_proj",
                        expected="the layout of transformers 5",
                        mend="pip install --upgrade transformers")  # fmt: skip

    @property
    def body(self) -> Any:
        """The model without its head."""
        return self.model.base_model

    @property
    def base(self) -> tuple[int, ...]:
        return tuple(n // self.patch for n in self.body.embeddings.patch_embeddings.image_size)

    @property
    def blocks(self) -> Sequence[Any]:
        return getattr(self.body, "layers", ())

    def norm(self, tokens: Tensor) -> Tensor:
        return self.body.layernorm(tokens)

    def _grid(self, size: tuple[int, ...]) -> tuple[int, ...]:
        built = tuple(self.body.embeddings.patch_embeddings.image_size)
        return self.base if size == built else grid_of(size, self.patch)

    def _patches(self, images: Tensor) -> Tensor:
        embed = self.body.embeddings.patch_embeddings
        return embed(images.to(embed.projection.weight.dtype))

    def locate(self, patches: Tensor, grid: tuple[int, ...]) -> Tensor:
        embeddings = self.body.embeddings
        front = [embeddings.cls_token, *([embeddings.distillation_token] if "dist" in self.prefix else [])]
        sequence = torch.cat([*(token.expand(patches.shape[0], -1, -1) for token in front), patches], dim=1)
        return embeddings.dropout(self._add_positions(sequence, grid))

    def _add_positions(self, sequence: Tensor, grid: tuple[int, ...]) -> Tensor:
        table = self.body.embeddings.position_embeddings if grid == self.base else self._interpolated(sequence, grid)
        return sequence + table

    def _interpolated(self, sequence: Tensor, grid: tuple[int, ...]) -> Tensor:
        size = tuple(n * self.patch for n in grid)
        if self.base[0] != self.base[1]:
            raise self._wrong_size(size, "a model built for square images, as which the library reads its position table",
                                   "build it for square images; others may be passed then")  # fmt: skip
        return self.body.embeddings.interpolate_pos_encoding(sequence, *size)

    def _weights(self, block: Any, tokens: Tensor, shared: Any) -> Tensor:
        return _weights_of(block.attention, block.layernorm_before(tokens), None)


class TransformersDinov2(TransformersViT):
    """Dinov2Model, Dinov2WithRegistersModel. Registers enter after the positions and have none."""

    @property
    def blocks(self) -> Sequence[Any]:
        return self.body.encoder.layer

    def _add_positions(self, sequence: Tensor, grid: tuple[int, ...]) -> Tensor:
        sequence = sequence + self._interpolated(sequence, grid)
        registers = getattr(self.body.embeddings, "register_tokens", None)
        if registers is None:
            return sequence
        return torch.cat([sequence[:, :1], registers.expand(sequence.shape[0], -1, -1), sequence[:, 1:]], dim=1)

    def _weights(self, block: Any, tokens: Tensor, shared: Any) -> Tensor:
        return _weights_of(block.attention, block.norm1(tokens), None)


class TransformersBeit(TransformersViT):
    """BeitModel with absolute positions, and relative biases shared or of each layer, which it fits to other sizes by itself."""

    def _patches(self, images: Tensor) -> Tensor:
        return self.body.embeddings.patch_embeddings(images)

    def _add_positions(self, sequence: Tensor, grid: tuple[int, ...]) -> Tensor:
        if self.body.embeddings.position_embeddings is None:
            return sequence
        return sequence + self._interpolated(sequence, grid)

    def _shared(self, grid: tuple[int, ...], keep: "TokenMask | None") -> Any:
        """Grid, mask, and the bias of all layers: [1, heads, 1 + tokens, 1 + tokens], or that of the kept ones, per sample."""
        return grid, keep, self._bias(self.body.shared_position_bias, grid, keep)

    def _bias(self, part: Any, grid: tuple[int, ...], keep: "TokenMask | None") -> Tensor | None:
        if part is None:
            return None
        bias = part(grid)
        return bias if keep is None else gather_bias(bias[0], keep)

    def _both(self, block: Any, shared: Any) -> Tensor | None:
        """The layer's own bias and the shared one."""
        grid, keep, common = shared
        own = self._bias(block.relative_position_bias, grid, keep)
        return common if own is None else own if common is None else own + common

    def _step(self, block: Any, tokens: Tensor, shared: Any) -> tuple[Tensor, Any]:
        grid, keep, common = shared
        if keep is None or block.relative_position_bias is None:
            size = tuple(n * self.patch for n in grid)
            return block(tokens, attention_mask=common, resolution=size), shared
        # Inside the layer, its own table would be that of the full grid: the layer in its own order, with the bias of the kept tokens.
        out, _ = block.attention(block.layernorm_before(tokens), attention_mask=self._both(block, shared))
        tokens = tokens + block.drop_path(block.lambda_1 * block.dropout(out))
        out = block.mlp(block.layernorm_after(tokens))
        return tokens + block.drop_path(block.lambda_2 * block.dropout(out)), shared

    def _weights(self, block: Any, tokens: Tensor, shared: Any) -> Tensor:
        return _weights_of(block.attention, block.layernorm_before(tokens), self._both(block, shared))


def _weights_of(attn: Any, tokens: Tensor, bias: Tensor | None) -> Tensor:
    q, k = (part(tokens).unflatten(-1, (-1, attn.head_dim)).transpose(1, 2) for part in (attn.q_proj, attn.k_proj))
    return attention_weights(q, k, attn.scaling, bias)  # q, k: [batch, heads, tokens, dim / heads]
