"""Which tokens are hidden. A masker is a frozen dataclass that gives a TokenMask: a fixed number in every row, each row drawn by itself."""

from sslkit.maskers._base import Masker
from sslkit.maskers.blockwise import BlockwiseMasker
from sslkit.maskers.cell import CellMasker
from sslkit.maskers.cube import CubeMasker
from sslkit.maskers.frame import FrameMasker
from sslkit.maskers.grid import GridMasker
from sslkit.maskers.mask import TokenMask
from sslkit.maskers.multi_block import MultiBlockMasker
from sslkit.maskers.random import RandomMasker
from sslkit.maskers.tube import TubeMasker

__all__ = [
    "BlockwiseMasker",
    "CellMasker",
    "CubeMasker",
    "FrameMasker",
    "GridMasker",
    "Masker",
    "MultiBlockMasker",
    "RandomMasker",
    "TokenMask",
    "TubeMasker",
]
