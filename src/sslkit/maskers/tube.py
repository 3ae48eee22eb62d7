"""One mask of a frame, at all times (VideoMAE)."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sslkit._checks import wrong
from sslkit.maskers._base import Masker, check_axes, check_ratio
from sslkit.maskers.mask import TokenMask, at_all_times
from sslkit.maskers.random import RandomMasker


@dataclass(frozen=True)
class TubeMasker(Masker):
    """Hides columns of a clip: a mask of one frame, the same at all times.

        mask[b, (t, i, j)] = spatial mask[b, (i, j)]        t * round(ratio * h * w) tokens hidden

    Tubes are always whole. Code that repeats one frame's noise over time and keeps k tokens of it splits a tube where k is no multiple
    of t.

    Args:
        ratio: fraction hidden, in [0, 1).
        spatial: the masker of a frame: a class, or one with options, `BlockwiseMasker(min_patches=4)`; its ratio is replaced by this
            one. Kept with that ratio.

    Raises:
        ValueError: ratio outside [0, 1), a spatial masker that has a count, or no ratio; when called, a grid that is not (t, h, w), or
            a frame that is wrong for the spatial masker.

    Source: Tong et al. 2022, "VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video Pre-Training", sec. 3.3,
    "Tube masking"; Wei et al. 2022 (MaskFeat), table 6.
    """

    ratio: float = 0.9
    spatial: Masker | type[Masker] = RandomMasker

    def __post_init__(self) -> None:
        check_ratio("TubeMasker", self.ratio)
        given: Any = self.spatial
        if isinstance(given, type) and issubclass(given, Masker):
            given = given()
        if not isinstance(given, Masker) or not hasattr(given, "ratio") or getattr(given, "count", None) is not None:
            raise wrong("TubeMasker", given=f"spatial={self.spatial!r}", expected="a masker of images that takes a ratio, without a count",
                        mend="pass RandomMasker or BlockwiseMasker(min_patches=4), and the ratio to TubeMasker")  # fmt: skip
        object.__setattr__(self, "spatial", dataclasses.replace(given, ratio=self.ratio))  # type: ignore[type-var]

    def slots(self, grid: tuple[int, ...]) -> int:
        check_axes("TubeMasker", grid, 3, "use the spatial masker itself for images")
        return self._spatial.slots(grid[1:])

    def from_uniforms(self, u: Tensor, grid: tuple[int, ...]) -> TokenMask:
        return at_all_times(self._spatial.from_uniforms(u, grid[1:]), grid)

    @property
    def _spatial(self) -> Masker:
        return self.spatial  # type: ignore[return-value]  # an instance since __post_init__
