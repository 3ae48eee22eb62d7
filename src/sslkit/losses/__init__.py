"""How wrong a prediction is. Pure functions of tensors; state, where a method has any, is a small module beside its loss."""

from sslkit.losses._nt_xent import nt_xent
from sslkit.losses.masked import masked_cross_entropy, masked_mse

__all__ = ["masked_cross_entropy", "masked_mse", "nt_xent"]
