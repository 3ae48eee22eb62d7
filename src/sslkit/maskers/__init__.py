"""Which tokens are hidden. A masker is a frozen dataclass that gives a TokenMask: a fixed number in every row, each row drawn by itself."""

from sslkit.maskers._base import Masker
from sslkit.maskers.grid import GridMasker
from sslkit.maskers.mask import TokenMask
from sslkit.maskers.random import RandomMasker

__all__ = ["GridMasker", "Masker", "RandomMasker", "TokenMask"]
