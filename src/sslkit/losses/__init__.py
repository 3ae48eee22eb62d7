"""How wrong a prediction is. Pure functions of tensors; state, where a method has any, is a small module beside its loss."""

from sslkit.losses._info_nce import info_nce
from sslkit.losses._nt_xent import nt_xent
from sslkit.losses.barlow_twins import barlow_twins_loss
from sslkit.losses.basnet import basnet_loss
from sslkit.losses.byol import byol_loss, simsiam_loss
from sslkit.losses.dcl import dcl_loss
from sslkit.losses.deepcluster import Clusters, deepcluster_loss, spherical_kmeans
from sslkit.losses.dino import DINOCenter, dino_loss, dino_mse_loss
from sslkit.losses.distillation import hard_distillation_loss, soft_distillation_loss
from sslkit.losses.ibot import ibot_loss
from sslkit.losses.instance_discrimination import nce_loss, nce_normalizer
from sslkit.losses.koleo import koleo_loss
from sslkit.losses.looc import looc_loss
from sslkit.losses.masked import masked_cross_entropy, masked_mse
from sslkit.losses.moco import moco_v3_loss
from sslkit.losses.nnclr import nnclr_loss
from sslkit.losses.sinkhorn import sinkhorn_knopp
from sslkit.losses.swav import swav_codes, swav_loss
from sslkit.losses.vicreg import vicreg_loss

__all__ = [
    "Clusters",
    "DINOCenter",
    "barlow_twins_loss",
    "basnet_loss",
    "byol_loss",
    "dcl_loss",
    "deepcluster_loss",
    "dino_loss",
    "dino_mse_loss",
    "hard_distillation_loss",
    "ibot_loss",
    "info_nce",
    "koleo_loss",
    "looc_loss",
    "masked_cross_entropy",
    "masked_mse",
    "moco_v3_loss",
    "nce_loss",
    "nce_normalizer",
    "nnclr_loss",
    "nt_xent",
    "simsiam_loss",
    "sinkhorn_knopp",
    "soft_distillation_loss",
    "spherical_kmeans",
    "swav_codes",
    "swav_loss",
    "vicreg_loss",
]
