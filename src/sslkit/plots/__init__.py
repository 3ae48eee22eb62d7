"""Pictures from tensors, written to PNG files. matplotlib is imported only where a figure needs it, and never through pyplot."""

from sslkit.plots._curves import curve_panels, curves
from sslkit.plots.attention import attention_heads, attention_sheet
from sslkit.plots.hog import hog_glyphs
from sslkit.plots.masks import mask_sheet
from sslkit.plots.neighbours import neighbour_picture
from sslkit.plots.reconstruction import reconstruction_sheet
from sslkit.plots.sheet import GREEN, RED, contact_sheet, save_picture

__all__ = [
    "GREEN",
    "RED",
    "attention_heads",
    "attention_sheet",
    "contact_sheet",
    "curve_panels",
    "curves",
    "hog_glyphs",
    "mask_sheet",
    "neighbour_picture",
    "reconstruction_sheet",
    "save_picture",
]
