"""How wrong a prediction is. Pure functions of tensors; state, where a method has any, is a small module beside its loss."""

from sslkit.losses._nt_xent import nt_xent

__all__ = ["nt_xent"]
