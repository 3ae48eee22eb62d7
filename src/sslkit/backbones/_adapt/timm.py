"""timm: VisionTransformer (and the distilled one), Beit, MultiScaleVit (MViTv2)."""

# mypy: disable-error-code="no-any-return"
# What the user's modules return is not known to the type checker.

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from sslkit.backbones._adapt.base import Adapted, gather_bias, is_a, split_heads
from sslkit.backbones._adapt.pooling import Pooling
from sslkit.backbones._blocks import attention_weights
from sslkit.patches import grid_of

if TYPE_CHECKING:
    from sslkit.maskers import TokenMask

_VIT = "timm.models.vision_transformer"


def _run(block: Callable[..., Any], *inputs: Any, recompute: bool, **options: Any) -> Any:
    """The block, recomputed in the backward pass where the model is set to that by `set_grad_checkpointing`."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False, **options)
    return block(*inputs, **options)


class TimmViT(Adapted):
    """VisionTransformer with any prefix, no_embed_class, dynamic_img_size, pre_norm, patch dropout (in the place of which `keep` acts)."""

    library = "timm"

    def __init__(self, model: Any) -> None:
        registers = 0 if model.reg_token is None else model.reg_token.shape[1]
        tokens = {"cls": model.cls_token, "dist": getattr(model, "dist_token", None)}
        prefix = [*(name for name, token in tokens.items() if token is not None), *["reg"] * registers]
        super().__init__(model, stem=model.patch_embed, dim=model.embed_dim, units=model.patch_embed.feat_ratio(as_scalar=False),
                         prefix=prefix, resample="antialias")  # fmt: skip
        attentions = ("timm.layers.attention.Attention", f"{_VIT}.Attention")
        self._readable = all(
            is_a(block, f"{_VIT}.Block", f"{_VIT}.ResPostBlock") and is_a(block.attn, *attentions) for block in model.blocks
        )
        self._pre_norm = is_a(model.blocks[0], f"{_VIT}.Block")

    @property
    def base(self) -> tuple[int, ...]:
        return tuple(self.model.patch_embed.grid_size)

    def _grid(self, size: tuple[int, ...]) -> tuple[int, ...]:
        embed = self.model.patch_embed
        if not self.model.dynamic_img_size:
            if size != tuple(embed.img_size):
                raise self._wrong_size(size, f"{tuple(embed.img_size)}, for which it was built",
                                       "build it with dynamic_img_size=True, or call its set_input_size before")  # fmt: skip
        elif not embed.dynamic_img_pad:
            grid_of(size, self.patch)  # raises what is no multiple
        return tuple(embed.dynamic_feat_size(size))

    def _patches(self, images: Tensor) -> Tensor:
        patches: Tensor = self.model.patch_embed(images)
        return patches.flatten(1, 2) if self.model.dynamic_img_size else patches

    def locate(self, patches: Tensor, grid: tuple[int, ...]) -> Tensor:
        if self.model.dynamic_img_size:
            patches = patches.reshape(patches.shape[0], *grid, self.dim)  # timm resamples its table to the shape it meets
        return self.model._pos_embed(patches)

    def _thin(self, sequence: Tensor, keep: "TokenMask | None") -> Tensor:
        thinned = self.model.patch_drop(sequence) if keep is None else super()._thin(sequence, keep)
        return self.model.norm_pre(thinned)

    def _step(self, block: Any, tokens: Tensor, shared: Any) -> tuple[Tensor, Any]:
        return _run(block, tokens, recompute=bool(self.model.grad_checkpointing)), shared

    def _weights(self, block: Any, tokens: Tensor, shared: Any) -> Tensor:
        if not self._readable:
            return super()._weights(block, tokens, shared)
        attn = block.attn
        q, k, _ = split_heads(attn.qkv(block.norm1(tokens) if self._pre_norm else tokens), attn.num_heads)
        return attention_weights(attn.q_norm(q), attn.k_norm(k), attn.scale)


class TimmBeit(Adapted):
    """Beit with absolute positions, and relative biases shared or of each block."""

    library = "timm"

    def __init__(self, model: Any) -> None:
        super().__init__(model, stem=model.patch_embed, dim=model.embed_dim, units=model.patch_embed.patch_size, prefix=("cls",),
                         resample="antialias")  # fmt: skip

    @property
    def base(self) -> tuple[int, ...]:
        return tuple(self.model.patch_embed.grid_size)

    def _grid(self, size: tuple[int, ...]) -> tuple[int, ...]:
        if size != (built := tuple(self.model.patch_embed.img_size)):
            raise self._wrong_size(size, f"{built}, for which it was built", "call its set_input_size before")
        return self.base

    def _patches(self, images: Tensor) -> Tensor:
        return self.model.patch_embed(images)

    def locate(self, patches: Tensor, grid: tuple[int, ...]) -> Tensor:
        model = self.model
        sequence = torch.cat([model.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        return model.pos_drop(sequence if model.pos_embed is None else sequence + model.pos_embed)

    def _shared(self, grid: tuple[int, ...], keep: "TokenMask | None") -> Any:
        """The mask, and the bias that all blocks share: [heads, 1 + tokens, 1 + tokens], or that of the kept ones, per sample."""
        bias = None if self.model.rel_pos_bias is None else self.model.rel_pos_bias()
        return keep, bias if bias is None or keep is None else gather_bias(bias, keep)

    def _step(self, block: Any, tokens: Tensor, shared: Any) -> tuple[Tensor, Any]:
        keep, bias = shared
        recompute = bool(self.model.grad_checkpointing)
        if keep is None or block.attn.relative_position_bias_table is None:
            return _run(block, tokens, recompute=recompute, shared_rel_pos_bias=bias), shared
        # Inside the block, its own table would be that of the full grid.
        return _run(_beit_block, block, tokens, self._bias(block, shared), recompute=recompute), shared

    def _bias(self, block: Any, shared: Any) -> Tensor | None:
        """Own and shared bias, of the tokens that are there."""
        keep, bias = shared
        if block.attn.relative_position_bias_table is None:
            return bias
        own = block.attn._get_rel_pos_bias()[0]  # [heads, 1 + tokens, 1 + tokens]
        own = own if keep is None else gather_bias(own, keep)
        return own if bias is None else own + bias

    def _weights(self, block: Any, tokens: Tensor, shared: Any) -> Tensor:
        q, k, _ = _beit_qkv(block.attn, block.norm1(tokens))
        return attention_weights(q, k, block.attn.scale, self._bias(block, shared))


def _beit_qkv(attn: Any, tokens: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values, each [batch, heads, tokens, dim / heads]; keys have no bias to learn."""
    bias = None if attn.q_bias is None else torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
    return split_heads(functional.linear(tokens, attn.qkv.weight, bias), attn.num_heads)


def _beit_block(block: Any, tokens: Tensor, bias: Tensor | None) -> Tensor:
    """A block of Beit with a bias from outside in the place of its own."""
    attn, scale1, scale2 = block.attn, *(1 if gamma is None else gamma for gamma in (block.gamma_1, block.gamma_2))
    q, k, v = _beit_qkv(attn, block.norm1(tokens))
    drop = attn.attn_drop.p if attn.training else 0.0
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=drop).transpose(1, 2).flatten(2)
    tokens = tokens + block.drop_path1(scale1 * attn.proj_drop(attn.proj(out)))
    return tokens + block.drop_path2(scale2 * block.mlp(block.norm2(tokens)))


class TimmMViT(Pooling):
    """MultiScaleVit."""

    library = "timm"

    def __init__(self, model: Any) -> None:
        super().__init__(model, dim=model.num_features, prefix=() if model.cls_token is None else ("cls",))
        first = model.stages[0].blocks[0].attn
        stride = (1, 1) if first.pool_q is None else first.pool_q.stride
        self._stem = tuple(n * by for n, by in zip(model.stages[0].feat_size, stride, strict=True))
        self._any_size = model.pos_embed is None and first.rel_pos_type != "spatial"

    @staticmethod
    def _steps(model: Any) -> list[Any]:
        pools = [block.attn.pool_q for stage in model.stages for block in stage.blocks]
        return [model.patch_embed.proj, *(pool for pool in pools if pool is not None)]

    @property
    def blocks(self) -> Sequence[Any]:
        return [block for stage in self.model.stages for block in stage.blocks]

    def _patches(self, images: Tensor) -> Tensor:
        patches, _ = self.model.patch_embed(images)
        return patches

    def locate(self, patches: Tensor, grid: tuple[int, ...]) -> Tensor:
        model = self.model
        sequence = patches if model.cls_token is None else torch.cat([model.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        return sequence if model.pos_embed is None else sequence + model.pos_embed

    def _step(self, block: Any, tokens: Tensor, shared: Any) -> tuple[Tensor, Any]:
        return _run(block, tokens, shared, recompute=self.model.stages[0].grad_checkpointing)
