"""Turns by quarters of a circle."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sslkit._checks import wrong
from sslkit.augmentations._base import Augmentation, Parameters, Size
from sslkit.augmentations._choose import choose


@dataclass(frozen=True)
class QuarterTurn(Augmentation):
    """Turns each image counter-clockwise by a multiple of 90 degrees; pixels are permuted, bit exact in every dtype.

        out[b] = rot90(images[b], turns[b]),  turns uniform over `turns`

    Parameters: turns [batch] int64 in 0..3. Works on a saliency map as on its image.

    Args:
        turns: what is drawn from: numbers of quarters in 0..3. LooC never leaves an image as it is: (1, 2, 3).

    Raises:
        ValueError: none, or numbers outside 0..3; when called, images that are not square, unless by halves alone.

    Source: Gidaris et al. 2018 (RotNet), sec. 2; Xiao et al. 2021 (LooC), sec. 4.
    """

    turns: Sequence[int] = (0, 1, 2, 3)
    name: ClassVar[str] = "turn"
    moves_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "turns", tuple(self.turns))
        if not self.turns or not set(self.turns) <= {0, 1, 2, 3}:
            raise wrong("QuarterTurn", given=f"turns={self.turns}", expected="some of 0, 1, 2, 3", mend="pass (0, 1, 2, 3)")

    @property
    def keys(self) -> tuple[str, ...]:
        return ("turns",)

    @property
    def slots(self) -> int:
        return 1

    def parameters(self, u: Tensor, size: Size) -> Parameters:
        table = torch.tensor(self.turns, device=u.device)
        return {"turns": table[(u[:, 0] * len(self.turns)).long().clamp(max=len(self.turns) - 1)]}

    def others(self, u: Tensor, turns: Tensor) -> Tensor:
        """Turns uniform over those of `self.turns` that are not the given ones: u [batch] in [0, 1), turns [batch] -> [batch] int64."""
        table = torch.tensor(sorted(set(self.turns)), device=turns.device)
        steps = 1 + (u * (len(table) - 1)).long().clamp(max=len(table) - 2)
        return table[(torch.bucketize(turns, table) + steps) % len(table)]

    def check(self, channels: int, size: Size) -> None:
        if size[0] != size[1] and set(self.turns) & {1, 3}:
            raise wrong("QuarterTurn", given=f"images of {size[0]} x {size[1]}", expected="square ones", mend="crop to a square before")

    def _apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        turns, out = parameters["turns"], images
        for quarters in sorted(set(self.turns) - {0}):
            out = choose(turns == quarters, images.rot90(quarters, (2, 3)).contiguous(), out)
        return out
