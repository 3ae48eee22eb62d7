"""Parts of a method that own tensors."""

from sslkit.modules.dino_head import DINOHead
from sslkit.modules.momentum import MomentumEncoder
from sslkit.modules.predictors import MLPPredictor
from sslkit.modules.projectors import MLPProjector
from sslkit.modules.views import encode_views

__all__ = ["DINOHead", "MLPPredictor", "MLPProjector", "MomentumEncoder", "encode_views"]
