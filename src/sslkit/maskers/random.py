"""Tokens hidden uniformly at random (MAE)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sslkit._checks import bind_axes, need_floating, wrong
from sslkit.maskers._base import Masker, check_count, check_ratio, hidden_count
from sslkit.maskers._places import eager, places, smallest
from sslkit.maskers.mask import TokenMask, check_grid, known


@dataclass(frozen=True)
class RandomMasker(Masker):
    """Hides a fixed number of tokens per sample, chosen uniformly: `count`, or round(ratio * tokens) of them, exactly.

        noise[b, n] ~ U[0, 1)
        visible in row b: the tokens - hidden places of smallest noise; of equal ones, the first

    With `ratio` the authors' code keeps int(tokens * (1 - ratio)), which is one token less where 1 - ratio is inexact: 9 of 100 at
    0.9. Pass `count=` to have such a count. From one generator the masks are those of their code, which draws the same noise.

    Args:
        ratio: fraction hidden, in [0, 1).
        count: tokens hidden, in the place of ratio.

    Raises:
        ValueError: ratio outside [0, 1), a negative count; when called, a count above the grid's tokens.

    Source: He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", sec. 3, "Masking".
    """

    ratio: float = 0.75
    count: int | None = None

    def __post_init__(self) -> None:
        check_ratio("RandomMasker", self.ratio)
        check_count("RandomMasker", self.count)

    @staticmethod
    def from_noise(noise: Tensor, kept: int, grid: tuple[int, ...]) -> TokenMask:
        """Keeps the `kept` tokens of smallest noise, as MAE does; of equal ones, the first.

        Args:
            noise: [batch, tokens], floating, without NaN. 16-bit noise ties in nearly every row: draw it in float32.
            kept: visible tokens in every row.
            grid: (h, w) or (t, h, w).

        Raises:
            ValueError: noise does not fill the grid, or kept is not in 0..tokens.
            TypeError: noise is not floating.
        """
        grid = check_grid("RandomMasker.from_noise", grid)
        tokens = math.prod(grid)
        bind_axes("RandomMasker.from_noise", noise=(noise, f"batch {tokens}"))
        need_floating("RandomMasker.from_noise", noise=noise)
        if not 0 <= kept <= tokens:
            raise wrong("RandomMasker.from_noise", given=f"kept={kept}", expected=f"0..{tokens}, the tokens of grid {grid}",
                        mend="pass tokens - hidden")  # fmt: skip
        if noise.dtype == torch.float64:  # its digits do not fit into a packed key
            return TokenMask.from_ids_keep(noise.argsort(dim=1, stable=True)[:, :kept], grid)
        return _smallest(noise.detach().float(), kept, grid)

    def slots(self, grid: tuple[int, ...]) -> int:
        return math.prod(grid)

    def from_uniforms(self, u: Tensor, grid: tuple[int, ...]) -> TokenMask:
        kept = math.prod(grid) - hidden_count("RandomMasker", self.ratio, self.count, grid)
        return _smallest(u, kept, grid, uniform=True)


def _smallest(noise: Tensor, kept: int, grid: tuple[int, ...], *, uniform: bool = False) -> TokenMask:
    """The mask that leaves the `kept` smallest of float32 noise [batch, tokens] visible.

        key = order-preserving bits of the noise, then the place       no two keys of a row are equal

    so the result does not depend on how the smallest are found. `uniform`: the noise is whole multiples of 2**-24 in [0, 1).
    """
    tokens = noise.shape[1]
    if uniform and eager(noise):
        among = torch.from_numpy(smallest(_uniform_key(noise), kept))
        return known(~among, places(among, kept), grid)
    bits = (noise + 0.0).view(torch.int32)  # + 0.0: of two signs of zero, one
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # negative floats are ordered backwards
    key = (bits.long() << 32) | torch.arange(tokens, device=noise.device)  # [batch, tokens]
    visible: Tensor = smallest(key, kept)
    return known(~visible, places(visible, kept), grid)


def _uniform_key(noise: Tensor) -> Any:
    """The key of uniform noise, numpy: 24 + 8 bits where the places of a row fit into 8, half the memory."""
    import numpy as np

    tokens = noise.shape[1]
    key: Any
    if tokens <= 256:
        key = (noise.numpy() * np.float32(2**32)).astype(np.uint32)  # the 24 bits, moved up by 8
    else:
        key = noise.numpy().view(np.int32).astype(np.int64)
        key <<= 32
    key |= np.arange(tokens, dtype=key.dtype)
    return key
