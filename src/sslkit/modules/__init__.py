"""Parts of a method that own tensors."""

from sslkit.modules.projectors import MLPProjector

__all__ = ["MLPProjector"]
