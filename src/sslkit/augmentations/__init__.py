"""What the network sees. Each augmentation samples and applies apart: `parameters = a.sample(...)`, `a.apply(images,
parameters)`."""

from sslkit.augmentations._base import Augmentation
from sslkit.augmentations.blur import GaussianBlur
from sslkit.augmentations.color_jitter import ColorJitter
from sslkit.augmentations.compose import Compose
from sslkit.augmentations.copy_paste import CopyPaste, ImageBackgrounds
from sslkit.augmentations.crop import RandomResizedCrop
from sslkit.augmentations.flip import HorizontalFlip
from sslkit.augmentations.grayscale import Grayscale
from sslkit.augmentations.leave_one_out import LeaveOneOut
from sslkit.augmentations.multi_crop import MultiCrop
from sslkit.augmentations.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from sslkit.augmentations.paired import PairedCrop
from sslkit.augmentations.quarter_turn import QuarterTurn
from sslkit.augmentations.recipes import beit, dino, looc, moco_v2, nnclr, simclr, supervised
from sslkit.augmentations.solarize import Solarize
from sslkit.augmentations.texture import RandomTexture

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Augmentation",
    "ColorJitter",
    "Compose",
    "CopyPaste",
    "GaussianBlur",
    "Grayscale",
    "HorizontalFlip",
    "ImageBackgrounds",
    "LeaveOneOut",
    "MultiCrop",
    "Normalize",
    "PairedCrop",
    "QuarterTurn",
    "RandomResizedCrop",
    "RandomTexture",
    "Solarize",
    "beit",
    "dino",
    "looc",
    "moco_v2",
    "nnclr",
    "simclr",
    "supervised",
]
