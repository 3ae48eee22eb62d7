"""What turns images into embeddings."""

from sslkit.backbones.convnet import ConvNet, convnet_small

__all__ = ["ConvNet", "convnet_small"]
