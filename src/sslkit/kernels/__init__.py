"""Operations in the place of chains of torch calls: the same result with less memory and time.

Each is a registered operator that compiles and exports; those on tokens and patches differentiate twice, the loss once, `hog` is a
target. A folder holds its definition in plain PyTorch (`reference.py`) and its registration (`op.py`); `explain` says which version
runs.
"""

from sslkit.kernels._choose import Choice, explain, use_backend
from sslkit.kernels._gather_patches.op import gather_patches
from sslkit.kernels._gather_tokens.op import gather_tokens
from sslkit.kernels._hog.op import hog
from sslkit.kernels._masked_pixel_loss.op import masked_pixel_loss
from sslkit.kernels._replace_tokens.op import replace_tokens
from sslkit.kernels._scatter_tokens.op import scatter_tokens
from sslkit.kernels._soft_cross_entropy.op import soft_cross_entropy

__all__ = [
    "Choice",
    "explain",
    "gather_patches",
    "gather_tokens",
    "hog",
    "masked_pixel_loss",
    "replace_tokens",
    "scatter_tokens",
    "soft_cross_entropy",
    "use_backend",
]
