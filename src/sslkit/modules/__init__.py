"""Parts of a method that own tensors."""

from sslkit.modules.dino_head import DINOHead
from sslkit.modules.memory_bank import MemoryBank
from sslkit.modules.momentum import MomentumEncoder
from sslkit.modules.multi_head import MultiHeadProjector
from sslkit.modules.predictors import MLPPredictor
from sslkit.modules.projectors import MLPProjector
from sslkit.modules.prototypes import Prototypes
from sslkit.modules.support_set import Neighbours, SupportSet
from sslkit.modules.views import encode_views

__all__ = [
    "DINOHead",
    "MLPPredictor",
    "MLPProjector",
    "MemoryBank",
    "MomentumEncoder",
    "MultiHeadProjector",
    "Neighbours",
    "Prototypes",
    "SupportSet",
    "encode_views",
]
