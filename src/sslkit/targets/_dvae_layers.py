"""Encoder and decoder of DALL-E's discrete VAE, by the names of the released weights.

block:    id(x) + gain * res(x),  gain = 1 / (groups * blocks)^2,  res: ReLU and convolution, four times, a quarter as wide inside
encoder:  7 x 7, then groups of h, 2h, 4h, 8h channels, halved by maxima after the first three, then ReLU, 1 x 1
decoder:  1 x 1, then groups of 8h, 4h, 2h, h channels, pixels doubled after the first three, then ReLU, 1 x 1
"""

import math
from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class _Convolution(nn.Module):
    """Zero padding, stride 1; the released names."""

    def __init__(self, channels: int, out: int, side: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(out, channels, side, side) / math.sqrt(channels * side**2))
        self.b = nn.Parameter(torch.zeros(out))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.w, self.b, padding=self.w.shape[-1] // 2)


class _Block(nn.Module):
    """id(x) + gain * res(x)."""

    def __init__(self, channels: int, out: int, sides: tuple[int, ...], gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.id_path = _Convolution(channels, out, 1) if channels != out else nn.Identity()
        widths = [channels, out // 4, out // 4, out // 4, out]
        path = OrderedDict[str, nn.Module]()
        for i, side in enumerate(sides):
            path[f"relu_{i + 1}"], path[f"conv_{i + 1}"] = nn.ReLU(), _Convolution(widths[i], widths[i + 1], side)
        self.res_path = nn.Sequential(path)

    def forward(self, x: Tensor) -> Tensor:
        return self.id_path(x) + self.gain * self.res_path(x)  # type: ignore[no-any-return]


class _Tower(nn.Module):
    """input, four groups with a change of size after the first three, ReLU and output."""

    def __init__(self, first: nn.Module, widths: tuple[int, ...], sides: tuple[int, ...], count: int, size: nn.Module, out: int) -> None:
        super().__init__()
        gain = 1 / (4 * count) ** 2
        blocks = OrderedDict[str, nn.Module](input=first)
        for group, (before, width) in enumerate(pairwise(widths), start=1):
            parts = OrderedDict[str, nn.Module]()
            for block in range(1, count + 1):
                parts[f"block_{block}"] = _Block(before if block == 1 else width, width, sides, gain)
            if group < 4:
                parts["size"] = size
            blocks[f"group_{group}"] = nn.Sequential(parts)
        blocks["output"] = nn.Sequential(OrderedDict[str, nn.Module](relu=nn.ReLU(), conv=_Convolution(widths[-1], out, 1)))
        self.blocks = nn.Sequential(blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)  # type: ignore[no-any-return]


class Encoder(_Tower):
    """[batch, 3, height, width] in (0, 1) -> logits [batch, vocabulary, height / 8, width / 8]."""

    def __init__(self, hidden: int, vocabulary: int, count: int) -> None:
        widths = (hidden, hidden, 2 * hidden, 4 * hidden, 8 * hidden)
        super().__init__(_Convolution(3, hidden, 7), widths, (3, 3, 3, 1), count, nn.MaxPool2d(2), vocabulary)


class Decoder(_Tower):
    """Weights of words [batch, vocabulary, h, w] -> [batch, 6, 8 h, 8 w]: means and logarithms of the scales of logits."""

    def __init__(self, hidden: int, vocabulary: int, first: int, count: int) -> None:
        widths = (first, 8 * hidden, 4 * hidden, 2 * hidden, hidden)
        super().__init__(_Convolution(vocabulary, first, 1), widths, (1, 3, 3, 3), count, nn.Upsample(scale_factor=2), 6)
