"""Histograms of oriented gradients: the public function and its registration."""

import math
from types import ModuleType

import torch
from torch import Tensor

from sslkit._checks import bind_axes, need_whole, wrong
from sslkit.kernels import _choose, _launch
from sslkit.kernels._hog import compiled, cpu, reference
from sslkit.kernels._images import AXES, axes_of, need_images
from sslkit.kernels._rows import need_ids


def hog(images: Tensor, *, cell: int = 8, bins: int = 9, window: int | None = None, ids: Tensor | None = None, patch: int = 16,
        tubelet: int = 1, frame_stride: int = 1, backend: _choose.HogBackend = "auto") -> Tensor:  # fmt: skip
    """Histograms of oriented gradients of every token: MaskFeat's target.

        gx = left - right, gy = top - bottom                      3 x 3, weights 1 2 1, the border mirrored
        bin = floor(bins * atan2(gx, gy) / pi) mod bins           the angle from the vertical; both directions count as one
        hist[k] = sum over the pixels of a cell in bin k of sqrt(gx^2 + gy^2)
        out = hist / max(|hist|, 1e-12)                           for each channel and cell by itself

        out[b, n, ((c * bins + k) * side + y) * side + x]         bin k of channel c in the cell (y, x) of token n; side = patch / cell

    Pass raw levels, best the uint8 image. Level and contrast of a channel cancel, so HOG of a normalised image is the same in theory;
    in floats its rounding decides where a pixel without a horizontal gradient goes (bin 0 or the last), which moves about three cells in
    ten of a photograph: targets differ from those of runs that normalise first. On levels every bin is that of exact arithmetic.

    Args:
        images: [batch, channels, height, width], or clips [batch, channels, time, height, width]; uint8 or floating, any channels.
            Height and width at least 2 and `patch`; rows and columns, and frames, that fill no token are left over.
        cell: side of a cell in pixels; divides `patch`.
        bins: directions over half a turn.
        window: side in pixels of a Gaussian (standard deviation window // 2), laid side by side from the top left, that weights the
            magnitudes; 16 in mmpretrain. None: all pixels count the same.
        ids: [batch, kept], int64 or int32, in any order: only these tokens. None: all. On a CPU it saves no time: all are computed first.
        patch: side of a token in pixels.
        tubelet: for clips, frames per token: its first one is taken. 2 in MaskFeat.
        frame_stride: for clips, only frames 0, s, 2s, ... are used.
        backend: "auto", "reference", "fused": on a GPU, with 9 bins and cells of 8 pixels, one kernel that reads the pixels of the
            tokens in `ids` and no others; or "compiled": the reference through torch.compile, on a CPU, some seconds for the first
            call with images of a size, then two to three times as fast as "auto"; for data loaders. See `explain`.

    Returns:
        [batch, tokens or kept, channels * bins * side**2], float32, no gradient; tokens row-major over (h, w) or (t, h, w). All >= 0,
        every histogram of unit length; 0 where a cell is flat. A NaN stays in the cells whose pixels it touches. float64 images are
        computed in float64, all others in float32, in and out of autocast.

    Raises:
        ValueError: wrong axes or numbers, images smaller than a token, or an explicit backend cannot run.
        TypeError: images are neither uint8 nor floating, or ids not int64 or int32.
        IndexError: an id is outside 0..tokens-1, on a CPU (on a GPU: a row of NaN, or a device-side assertion of the reference).

    Source: Wei et al. 2022 (MaskFeat), sec. 3.2 "HOG" and the authors' code, which it equals but for two things: flat cells are 0
    whatever the rounding, and the window fits any size.
    """
    _check(images, ids, cell, bins, window, patch, tubelet, frame_stride)
    chosen = _choose.requested("hog", backend)
    return torch.ops.sslkit.hog(images.detach(), ids, cell, bins, window, patch, tubelet, frame_stride, chosen)  # type: ignore[no-any-return]


def _check(
    images: Tensor, ids: Tensor | None, cell: int, bins: int, window: int | None, patch: int, tubelet: int, frame_stride: int
) -> None:
    bind_axes("hog", images=(images, axes_of(images)), **({} if ids is None else {"ids": (ids, "batch kept")}))
    if ids is not None:
        need_ids("hog", "ids", ids)
    need_images("hog", images)
    need_whole("hog", cell=cell, bins=bins, patch=patch, tubelet=tubelet, frame_stride=frame_stride)
    if patch % cell:
        raise wrong("hog", given=f"patch={patch}, cell={cell}", expected="whole cells in a patch", mend=f"pass a patch like {2 * cell}")
    if window is not None and (window != int(window) or window < 2):
        raise wrong("hog", given=f"window={window}", expected="None or a whole number from 2 on", mend="pass 16, or leave it out")
    if images.ndim == 4 and (tubelet, frame_stride) != (1, 1):
        raise wrong("hog", given=f"images {list(images.shape)} with tubelet={tubelet}, frame_stride={frame_stride}", expected="a clip",
                    mend="pass clips [batch, channels, time, height, width], or leave both at 1")  # fmt: skip
    least = (max(patch, 2), max(patch, 2)) if images.ndim == 4 else (1 + (tubelet - 1) * frame_stride, max(patch, 2), max(patch, 2))
    for size, needed, axis in zip(images.shape[2:], least, AXES[images.ndim].split()[2:], strict=True):
        if size < needed:
            raise wrong("hog", given=f"images {list(images.shape)} with {axis}={size}", expected=f"at least {needed}",
                        mend="pass larger images, or a smaller patch or tubelet")  # fmt: skip


def _times(images: Tensor, tubelet: int, frame_stride: int) -> int:
    """Tokens along the time: whole tubelets of the frames 0, s, 2s, ..."""
    return 1 if images.ndim == 4 else (images.shape[2] + frame_stride - 1) // frame_stride // tubelet


def _shape(images: Tensor, ids: Tensor | None, cell: int, bins: int, patch: int, tubelet: int, frame_stride: int) -> tuple[int, int, int]:
    """Of the result."""
    height, width = images.shape[-2:]
    tokens = _times(images, tubelet, frame_stride) * (height // patch) * (width // patch)
    return images.shape[0], tokens if ids is None else ids.shape[1], images.shape[1] * bins * (patch // cell) ** 2


def _limit(cell: int, bins: int, values: int) -> str | None:
    """Why the fused version cannot make so many values of such cells, None if it can."""
    if (cell, bins) != (8, 9):
        return f"cell={cell} and bins={bins}"
    return f"{values // bins} cells" if values // bins >= _launch.LIMIT else None


def _version(images: Tensor, backend: _choose.HogBackend, limit: str | None) -> ModuleType:
    version = _choose.choose("hog", images, backend, limit).version
    if version == "compiled":
        return compiled
    if version == "fused":
        from sslkit.kernels._hog import fused

        return fused
    return cpu if images.device.type == "cpu" and backend != "reference" else reference  # by name, the definition itself


@torch.library.custom_op(
    "sslkit::hog",
    mutates_args=(),
    schema="(Tensor images, Tensor? ids, int cell, int bins, int? window, int patch, int tubelet, int frame_stride, str backend) -> Tensor",
)
def _forward(images: Tensor, ids: Tensor | None, cell: int, bins: int, window: int | None, patch: int, tubelet: int, frame_stride: int,
             backend: _choose.HogBackend) -> Tensor:  # fmt: skip
    limit = _limit(cell, bins, math.prod(_shape(images, ids, cell, bins, patch, tubelet, frame_stride)))
    if images.ndim == 5:
        images = images[:, :, : _times(images, tubelet, frame_stride) * tubelet * frame_stride]
    with torch.autocast(images.device.type, enabled=False):
        out: Tensor = _version(images, backend, limit).forward(images, ids, cell, bins, window, patch, tubelet * frame_stride)
        return out.float()


@_forward.register_fake
def _(images: Tensor, ids: Tensor | None, cell: int, bins: int, window: int | None, patch: int, tubelet: int, frame_stride: int,
      backend: str) -> Tensor:  # fmt: skip
    return images.new_empty(_shape(images, ids, cell, bins, patch, tubelet, frame_stride), dtype=torch.float32)
