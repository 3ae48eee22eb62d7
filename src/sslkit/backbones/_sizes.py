"""The published sizes of the ViT."""

from collections.abc import Sequence
from typing import TypedDict, Unpack

from sslkit.backbones._init import Init
from sslkit.backbones.positions import Resample
from sslkit.backbones.vit import Positions, ViT


class ViTOptions(TypedDict, total=False):
    """Keyword options of `ViT`, which a factory hands on unchanged; type checkers know them by name."""

    tubelet: int | None
    frames: int | None
    channels: int
    prefix: Sequence[str]
    prefix_positions: bool | Sequence[bool] | None
    positions: Positions | None
    resample: Resample
    mlp_ratio: float
    qkv_bias: bool
    layer_scale: float | None
    drop_path: float
    norm_eps: float
    final_norm: bool
    init: Init


def vit_tiny(image_size: int | tuple[int, int] = 224, patch: int = 16, **options: Unpack[ViTOptions]) -> ViT:
    """192 numbers, 12 blocks, 3 heads: 5.5 M parameters at patch 16. Options as in `ViT`. Source: Touvron et al. 2021 (DeiT), table 1."""
    return ViT(image_size, patch, 192, 12, 3, **options)


def vit_small(image_size: int | tuple[int, int] = 224, patch: int = 16, **options: Unpack[ViTOptions]) -> ViT:
    """384 numbers, 12 blocks, 6 heads: 21.7 M parameters at patch 16. Options as in `ViT`. Source: Touvron et al. 2021 (DeiT), table 1."""
    return ViT(image_size, patch, 384, 12, 6, **options)


def vit_base(image_size: int | tuple[int, int] = 224, patch: int = 16, **options: Unpack[ViTOptions]) -> ViT:
    """768 numbers, 12 blocks, 12 heads: 85.8 M parameters at patch 16. Options as in `ViT`. Source: Dosovitskiy et al. 2021, table 1."""
    return ViT(image_size, patch, 768, 12, 12, **options)


def vit_large(image_size: int | tuple[int, int] = 224, patch: int = 16, **options: Unpack[ViTOptions]) -> ViT:
    """1024 numbers, 24 blocks, 16 heads: 303.3 M parameters at patch 16. Options as in `ViT`. Source: Dosovitskiy et al. 2021, table 1."""
    return ViT(image_size, patch, 1024, 24, 16, **options)


def vit_huge(image_size: int | tuple[int, int] = 224, patch: int = 14, **options: Unpack[ViTOptions]) -> ViT:
    """1280 numbers, 32 blocks, 16 heads: 630.8 M parameters at patch 14. Options as in `ViT`. Source: Dosovitskiy et al. 2021, table 1."""
    return ViT(image_size, patch, 1280, 32, 16, **options)
