"""One result for some samples of a batch, another for the others."""

from collections.abc import Callable

import torch
from torch import Tensor

Rows = dict[str, Tensor]  # one row a sample
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def eager_cpu(*images: Tensor) -> bool:
    """True where values may be looked at and written over: on a CPU, nothing is compiled, and no gradient is asked for."""
    return not torch.compiler.is_compiling() and all(x.device.type == "cpu" and not x.requires_grad for x in images)


def choose(flag: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """torch.where(flag, yes, no), one dtype; flag bool, [batch] or [batch, channels, height, width]."""
    flag = flag if flag.ndim == 4 else flag[:, None, None, None]
    if not eager_cpu(yes, no) or no.itemsize not in _BITS:
        return torch.where(flag, yes, no)
    # where is not vectorised on a CPU: the same choice on the bits, several times as fast, also right for nan and inf
    bits = _BITS[no.itemsize]
    mask = flag.to(bits).neg_()  # all ones where chosen
    return ((yes.view(bits) ^ no.view(bits)) & mask).bitwise_xor_(no.view(bits)).view(no.dtype)


def only(flag: Tensor, compute: Callable[[Tensor, Rows], Tensor], images: Tensor, parameters: Rows) -> Tensor:
    """compute(images, parameters) where flag [batch] is set, images elsewhere. On a CPU nothing else is computed."""
    if not eager_cpu(images):
        return choose(flag, compute(images, parameters), images)
    rows = flag.nonzero()[:, 0]
    if len(rows) in (0, len(flag)):
        return compute(images, parameters) if len(rows) else images
    done = compute(images.index_select(0, rows), {key: value[rows] for key, value in parameters.items()})
    return images.index_copy(0, rows, done)
