"""A regular grid of visible tokens (MAE's ablation)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sslkit._checks import wrong
from sslkit.maskers._base import Masker, check_ratio
from sslkit.maskers.mask import TokenMask


@dataclass(frozen=True)
class GridMasker(Masker):
    """Keeps one of every stride x stride tokens, the same for every sample.

        stride 2       . # . #
                       # # # #        . = visible: row and column are multiples of stride
                       . # . #        hidden: 1 - 1 / stride**2, here 75 %

    The visible one is the upper left of its cell; the paper does not say which. A clip's frames are all alike. On a grid whose sides
    are no multiples of stride, ceil(h / stride) * ceil(w / stride) tokens of a frame are visible.

    Args:
        stride: side of the cells; 2 if neither is given.
        ratio: the fraction hidden, in the place of stride: 0, 3/4, 8/9, 15/16, ... = 1 - 1 / stride**2.

    Raises:
        ValueError: a stride below 1, a ratio that no stride expresses, or both given and different; when called, `ratio` was given
            and the grid's sides are no multiples of the stride, so that another fraction would be hidden.

    Source: He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", sec. 4.1, "Mask sampling strategy", fig. 6.
    """

    stride: int | None = None
    ratio: float | None = None

    def __post_init__(self) -> None:
        stride = self.stride
        if self.ratio is not None:
            check_ratio("GridMasker", self.ratio)
            found = round((1 - self.ratio) ** -0.5)
            if abs(1 - 1 / found**2 - self.ratio) > 1e-3 / found**2 or stride not in (None, found):
                raise wrong("GridMasker", given=f"ratio={self.ratio}, stride={stride}", expected="1 - 1 / stride**2, as 0.75 or 8/9",
                            mend="pass stride= alone, or use RandomMasker for any ratio")  # fmt: skip
            stride = found
        stride = 2 if stride is None else stride
        if isinstance(stride, bool) or not isinstance(stride, int) or stride < 1:
            raise wrong("GridMasker", given=f"stride={stride!r}", expected="a whole number from 1 on", mend="pass stride=2")
        object.__setattr__(self, "stride", stride)

    def slots(self, grid: tuple[int, ...]) -> int:
        if self.ratio is not None and any(side % self._step for side in grid[-2:]):
            raise wrong("GridMasker", given=f"grid {grid} with ratio={self.ratio}", expected=f"sides in multiples of {self._step}",
                        mend=f"pass stride={self._step}, which takes what the grid gives")  # fmt: skip
        return 0

    def from_uniforms(self, u: Tensor, grid: tuple[int, ...]) -> TokenMask:
        places = torch.arange(math.prod(grid), device=u.device).view(-1, *grid[-2:])
        ids = places[:, :: self._step, :: self._step].flatten()
        return TokenMask.from_ids_keep(ids.expand(u.shape[0], -1), grid)

    @property
    def _step(self) -> int:
        return self.stride or 2
