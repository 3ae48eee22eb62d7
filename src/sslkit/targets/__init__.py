"""What is to be predicted at the hidden tokens."""

from sslkit.kernels import hog
from sslkit.targets._features import features, pseudo_labels
from sslkit.targets.dvae import DVAE
from sslkit.targets.pca import PatchPCA
from sslkit.targets.pixels import normalized_pixels, unnormalized_pixels

__all__ = ["DVAE", "PatchPCA", "features", "hog", "normalized_pixels", "pseudo_labels", "unnormalized_pixels"]
