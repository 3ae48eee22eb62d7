"""Maps stretched to [0, 1]."""

from torch import Tensor


def unit_range(maps: Tensor) -> Tensor:
    """[batch, ...]: each map's least value to 0, its largest to 1; a map of one value is 0."""
    flat = maps.flatten(1)
    low, high = flat.amin(dim=1), flat.amax(dim=1)
    shape = (-1, *[1] * (maps.ndim - 1))
    span = (high - low).view(shape)
    return (maps - low.view(shape)) / span.masked_fill(span == 0, 1)
