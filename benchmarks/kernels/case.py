"""One kernel, one direction, at the size of real training, in all its forms."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """What is measured.

    `forms(device, small)` makes inputs on a device and gives a call for each form, without arguments: "fused", the kernel and its
    launcher; "reference", the definition in plain PyTorch, eager; "public", what published code does. `small` inputs are for tests.

    `floor_bytes(device, small)`: what any form must move: every input that is needed, read once, every result, written once.
    `loops`: how often the hot loop of the machine code runs, in all programs together; 0 if there is none.
    """

    name: str
    size: str
    forms: Callable[[torch.device, bool], dict[str, Call]]
    floor_bytes: Callable[[bool], int]
    backward: bool = False
    loops: int = 0
    tolerance: float = 0.0  # between forms, relative to the largest number


def random(device: torch.device, *shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Tensor:
    """Normal numbers, drawn on the device: gigabytes would take long to bring there."""
    return torch.randn(shape, generator=torch.Generator(device).manual_seed(seed), device=device).to(dtype)


def levels(device: torch.device, *shape: int) -> Tensor:
    """uint8 pictures with edges, shades and noise."""
    *front, height, width = shape
    coarse = random(device, *front, max(height // 16, 1), max(width // 16, 1), dtype=torch.float32)
    smooth = coarse.repeat_interleave(16, -1).repeat_interleave(16, -2)[..., :height, :width]
    return (128 + 60 * smooth + 8 * random(device, *shape, dtype=torch.float32, seed=1)).clamp(0, 255).to(torch.uint8)


def kept_ids(device: torch.device, batch: int, tokens: int, kept: int) -> Tensor:
    """[batch, kept], unique in a row, ascending, as maskers give them."""
    noise = torch.rand(batch, tokens, generator=torch.Generator(device).manual_seed(2), device=device)
    return noise.argsort(dim=1)[:, :kept].sort(dim=1).values


def size_of(*tensors: tuple[tuple[int, ...], torch.dtype]) -> int:
    """Bytes of tensors given by shape and dtype."""
    return sum(torch.Size(shape).numel() * dtype.itemsize for shape, dtype in tensors)


def backward_of(forward: Callable[..., Tensor], leaves: tuple[Tensor, ...], grad: Callable[[Tensor], Tensor]) -> Call:
    """The backward pass alone of an autograd form: its graph is made once, outside of what is timed."""
    leaves = tuple(leaf.detach().requires_grad_() for leaf in leaves)
    out = forward(*leaves)
    weights = grad(out)
    return lambda: torch.autograd.grad(out, leaves, weights, retain_graph=True)
