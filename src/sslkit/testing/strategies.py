"""Hypothesis strategies for what a self-supervised method takes: grids, masks, images, views.

Tensors are made from a drawn seed, so that hypothesis shrinks shapes and leaves the numbers alone.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sslkit._checks import wrong

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


def _strategies() -> Any:
    try:
        from hypothesis import strategies
    except ImportError as error:
        raise wrong(
            "sslkit.testing", given="no hypothesis", expected="the package hypothesis", mend='pip install "sslkit[dev]"', kind=ImportError
        ) from error
    return strategies


def _generators(st: Any) -> Any:
    return st.integers(0, 2**32 - 1).map(lambda seed: torch.Generator().manual_seed(seed))


def grids(*, ndim: tuple[int, int] = (2, 3), side: tuple[int, int] = (1, 16)) -> "SearchStrategy[tuple[int, ...]]":
    """Token grids (h, w) and (t, h, w), odd, flat and 1 x n ones among them."""
    st = _strategies()
    return st.lists(st.integers(*side), min_size=ndim[0], max_size=ndim[1]).map(tuple)  # type: ignore[no-any-return]


def masks(*, batch: tuple[int, int] = (1, 4), tokens: tuple[int, int] = (1, 64), equal: bool = True) -> "SearchStrategy[Tensor]":
    """bool [batch, tokens], True = hidden; `equal`: the same number hidden in every row, from none to all."""
    st = _strategies()

    def build(rows: int, columns: int, share: float, generator: torch.Generator) -> Tensor:
        noise = torch.rand(rows, columns, generator=generator)
        if not equal:
            return noise < share
        hidden = round(share * columns)
        return torch.zeros(rows, columns, dtype=torch.bool).scatter(1, noise.argsort(dim=1)[:, :hidden], True)

    return st.builds(build, st.integers(*batch), st.integers(*tokens), st.floats(0, 1), _generators(st))  # type: ignore[no-any-return]


def images(*, batch: tuple[int, int] = (1, 3), channels: tuple[int, int] = (1, 4), side: tuple[int, int] = (4, 24),
           dtype: torch.dtype = torch.float32) -> "SearchStrategy[Tensor]":  # fmt: skip
    """[batch, channels, height, width], not necessarily square: floating in [0, 1), or uint8 in 0..255."""
    st = _strategies()

    def build(b: int, c: int, h: int, w: int, generator: torch.Generator) -> Tensor:
        if dtype == torch.uint8:
            return torch.randint(0, 256, (b, c, h, w), generator=generator, dtype=dtype)
        return torch.rand(b, c, h, w, generator=generator).to(dtype)

    return st.builds(build, st.integers(*batch), st.integers(*channels), st.integers(*side), st.integers(*side), _generators(st))  # type: ignore[no-any-return]


def views(*, count: int = 2, batch: tuple[int, int] = (1, 8), dim: tuple[int, int] = (2, 16), correlation: float = 0.5,
          dtype: torch.dtype = torch.float32) -> "SearchStrategy[tuple[Tensor, ...]]":  # fmt: skip
    """`count` tensors [batch, dim]: normal embeddings of views of the same images, correlated row by row."""
    st = _strategies()

    def build(b: int, d: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        common = torch.randn(b, d, generator=generator)
        own = torch.randn(count, b, d, generator=generator)
        return tuple((correlation**0.5 * common + (1 - correlation) ** 0.5 * own).to(dtype))

    return st.builds(build, st.integers(*batch), st.integers(*dim), _generators(st))  # type: ignore[no-any-return]
