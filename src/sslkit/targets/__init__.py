"""What is to be predicted at the hidden tokens."""

from sslkit.kernels import hog
from sslkit.targets.pca import PatchPCA
from sslkit.targets.pixels import normalized_pixels, unnormalized_pixels

__all__ = ["PatchPCA", "hog", "normalized_pixels", "unnormalized_pixels"]
