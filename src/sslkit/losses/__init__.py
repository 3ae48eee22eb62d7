"""How wrong a prediction is. Pure functions of tensors; state, where a method has any, is a small module beside its loss."""

from sslkit.losses._nt_xent import nt_xent
from sslkit.losses.dino import DINOCenter, dino_loss, dino_mse_loss
from sslkit.losses.distillation import hard_distillation_loss, soft_distillation_loss
from sslkit.losses.ibot import ibot_loss
from sslkit.losses.koleo import koleo_loss
from sslkit.losses.masked import masked_cross_entropy, masked_mse
from sslkit.losses.sinkhorn import sinkhorn_knopp

__all__ = [
    "DINOCenter",
    "dino_loss",
    "dino_mse_loss",
    "hard_distillation_loss",
    "ibot_loss",
    "koleo_loss",
    "masked_cross_entropy",
    "masked_mse",
    "nt_xent",
    "sinkhorn_knopp",
    "soft_distillation_loss",
]
