"""torchvision: VisionTransformer, and MViT for clips."""

# mypy: disable-error-code="no-any-return"
# What the user's modules return is not known to the type checker.

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sslkit.backbones._adapt.base import Adapted, split_heads
from sslkit.backbones._adapt.pooling import Pooling
from sslkit.backbones._blocks import attention_weights


class TorchvisionViT(Adapted):
    """VisionTransformer: one class token, the image size that it was built for."""

    library = "torchvision"

    def __init__(self, model: Any) -> None:
        super().__init__(model, stem=model.conv_proj, dim=model.hidden_dim, units=(model.patch_size, model.patch_size), prefix=("cls",),
                         resample="size")  # fmt: skip

    @property
    def base(self) -> tuple[int, ...]:
        side = self.model.image_size // self.model.patch_size
        return side, side

    @property
    def blocks(self) -> Sequence[Any]:
        return self.model.encoder.layers

    def norm(self, tokens: Tensor) -> Tensor:
        return self.model.encoder.ln(tokens)

    def _grid(self, size: tuple[int, ...]) -> tuple[int, ...]:
        side = self.model.image_size
        if size != (side, side):
            raise self._wrong_size(size, f"({side}, {side}), the only size that torchvision's takes",
                                   "resize the images, or take timm's with dynamic_img_size=True")  # fmt: skip
        return self.base

    def _patches(self, images: Tensor) -> Tensor:
        return self.model.conv_proj(images).flatten(2).transpose(1, 2)

    def locate(self, patches: Tensor, grid: tuple[int, ...]) -> Tensor:
        sequence = torch.cat([self.model.class_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        return self.model.encoder.dropout(sequence + self.model.encoder.pos_embedding)

    def _weights(self, block: Any, tokens: Tensor, shared: Any) -> Tensor:
        attn = block.self_attention  # a torch.nn.MultiheadAttention, which would return its weights after the dropout
        qkv = functional.linear(block.ln_1(tokens), attn.in_proj_weight, attn.in_proj_bias)
        q, k, _ = split_heads(qkv, attn.num_heads)
        return attention_weights(q, k, attn.head_dim**-0.5)


class TorchvisionMViT(Pooling):
    """MViT, for clips [batch, channels, time, height, width]."""

    library = "torchvision"

    def __init__(self, model: Any) -> None:
        super().__init__(model, dim=model.norm.normalized_shape[0], prefix=("cls",))
        self._stem = (model.pos_encoding.temporal_size, *model.pos_encoding.spatial_size)

    @staticmethod
    def _steps(model: Any) -> list[Any]:
        return [model.conv_proj, *(block.attn.pool_q.pool for block in model.blocks if block.attn.pool_q is not None)]

    def _patches(self, images: Tensor) -> Tensor:
        return self.model.conv_proj(images).flatten(2).transpose(1, 2)

    def locate(self, patches: Tensor, grid: tuple[int, ...]) -> Tensor:
        return self.model.pos_encoding(patches)

    def _step(self, block: Any, tokens: Tensor, shared: Any) -> tuple[Tensor, Any]:
        return block(tokens, shared)
