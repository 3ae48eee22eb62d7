"""What MViT has in timm and torchvision: a stem that overlaps, and a grid that shrinks from block to block."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sslkit._checks import wrong
from sslkit.backbones._adapt.base import Adapted

if TYPE_CHECKING:
    from sslkit.maskers import TokenMask


class Pooling(Adapted):
    """A model of pooling attention.

    Masks for `replace` act on the grid after the stem, before class token and positions. They may lie on any whole fraction of that grid,
    such as `base`, the grid after the last block. Blocks hand on their grid beside the tokens.

    Source: Fan et al. 2021 (MViT), sec. 3; Wei et al. 2022 (MaskFeat), sec. 3.2.
    """

    keeps = False
    _stem: tuple[int, ...]  # the grid after the stem that the model was built for
    _any_size = False  # whether it takes others

    def __init__(self, model: Any, *, dim: int, prefix: Sequence[str]) -> None:
        stem, *_ = steps = self._steps(model)
        units = tuple(math.prod(along) for along in zip(*(step.stride for step in steps), strict=True))
        super().__init__(model, stem=stem, dim=dim, units=units, prefix=prefix, resample="size", embed_dim=stem.out_channels)

    @staticmethod
    def _steps(model: Any) -> list[Any]:
        """What the grid goes through: the convolution of the stem, then the pooling of queries in those blocks that have one."""
        raise NotImplementedError

    @property
    def base(self) -> tuple[int, ...]:
        return self._head(self._stem)

    def _grid(self, size: tuple[int, ...]) -> tuple[int, ...]:
        stem = self._steps(self.model)[0]
        built = tuple(n * stride for n, stride in zip(self._stem, stem.stride, strict=True))
        if tuple(size) != built and not self._any_size:
            raise self._wrong_size(size, f"{built}: its positions are tables for a grid {self._stem} after the stem",
                                   "resize the images to the size that it was built with")  # fmt: skip
        return _pooled(size, stem)

    def _head(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        for pool in self._steps(self.model)[1:]:
            grid = _pooled(grid, pool)
        return grid

    def _fit(self, mask: "TokenMask", batch: int, grid: tuple[int, ...]) -> "TokenMask":
        """The mask on the grid after the stem, by nearest neighbour."""
        if len(mask.grid) != len(grid) or any(n % m for n, m in zip(grid, mask.grid, strict=True)) or mask.mask.shape[0] != batch:
            raise wrong("adapt", given=f"replace for batch {mask.mask.shape[0]} and grid {mask.grid}",
                        expected=f"batch {batch} and the stem's grid {grid} or a whole fraction of it",
                        mend="draw the mask with masker(batch, model.base)")  # fmt: skip
        return mask.resize(grid)

    def _shared(self, grid: tuple[int, ...], keep: "TokenMask | None") -> Any:
        return grid


def _pooled(grid: Sequence[int], step: Any) -> tuple[int, ...]:
    """The grid after a convolution or pooling: (n + 2 padding - kernel) // stride + 1 along each axis."""
    axes = zip(grid, step.kernel_size, step.stride, step.padding, strict=True)
    return tuple((n + 2 * padding - kernel) // stride + 1 for n, kernel, stride, padding in axes)
