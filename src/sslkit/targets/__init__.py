"""What is to be predicted at the hidden tokens."""

from sslkit.targets.pca import PatchPCA
from sslkit.targets.pixels import normalized_pixels, unnormalized_pixels

__all__ = ["PatchPCA", "normalized_pixels", "unnormalized_pixels"]
