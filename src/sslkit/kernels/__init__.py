"""Operations in the place of chains of torch calls: the same result with less memory and time.

Each is a registered operator that compiles and exports; those on tokens differentiate twice, `hog` is a target. A folder holds its
definition in plain PyTorch (`reference.py`) and its registration (`op.py`); `explain` says which version runs.
"""

from sslkit.kernels._choose import Choice, explain, use_backend
from sslkit.kernels._gather_tokens.op import gather_tokens
from sslkit.kernels._hog.op import hog
from sslkit.kernels._replace_tokens.op import replace_tokens
from sslkit.kernels._scatter_tokens.op import scatter_tokens

__all__ = ["Choice", "explain", "gather_tokens", "hog", "replace_tokens", "scatter_tokens", "use_backend"]
