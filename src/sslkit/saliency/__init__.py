"""Where the object is: estimates from a picture alone, of trained networks, of attention."""

from sslkit.saliency.attention import attention_saliency
from sslkit.saliency.basnet import BASNet
from sslkit.saliency.class_activation import class_activation_map
from sslkit.saliency.geodesic import geodesic_saliency
from sslkit.saliency.gradient import gradient_saliency
from sslkit.saliency.markov_chain import markov_chain_saliency
from sslkit.saliency.robust_background import robust_background_saliency
from sslkit.saliency.superpixels import superpixels

__all__ = [
    "BASNet",
    "attention_saliency",
    "class_activation_map",
    "geodesic_saliency",
    "gradient_saliency",
    "markov_chain_saliency",
    "robust_background_saliency",
    "superpixels",
]
