"""What turns images into embeddings."""

from sslkit.backbones._export import export
from sslkit.backbones._mvit import maskfeat_mvit
from sslkit.backbones._sizes import vit_base, vit_huge, vit_large, vit_small, vit_tiny
from sslkit.backbones._tokens import Tokens
from sslkit.backbones.adapters import adapt
from sslkit.backbones.convnet import ConvNet, convnet_small
from sslkit.backbones.mae import MAE
from sslkit.backbones.official import load_official
from sslkit.backbones.vit import ViT

__all__ = [
    "MAE",
    "ConvNet",
    "Tokens",
    "ViT",
    "adapt",
    "convnet_small",
    "export",
    "load_official",
    "maskfeat_mvit",
    "vit_base",
    "vit_huge",
    "vit_large",
    "vit_small",
    "vit_tiny",
]
