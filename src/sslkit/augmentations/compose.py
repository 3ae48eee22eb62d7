"""Augmentations one after the other."""

from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor

from sslkit._checks import wrong
from sslkit.augmentations._base import Augmentation, Parameters, Size


def part(parameters: Parameters, prefix: str) -> Parameters:
    """The entries under a prefix, without it: part({"0.crop.top": t, "1.flip.flipped": f}, "0.crop.") = {"top": t}."""
    return {key[len(prefix) :]: value for key, value in parameters.items() if key.startswith(prefix)}


@dataclass(frozen=True, init=False)
class Compose(Augmentation):
    """Applies augmentations in order. uint8 is converted to float32 / 255 once and rounded once, not after each.

    Parameters: those of the parts, with place and name in front: "0.crop.top", "1.flip.flipped". Slots follow one another.

    Args:
        ops: augmentations, as arguments or as one tuple or list.

    Raises:
        ValueError: none is given.
        TypeError: something is not an augmentation; at use: uint8 images and a Normalize among the parts.
    """

    ops: tuple[Augmentation, ...]
    name: ClassVar[str] = "compose"

    def __init__(self, *ops: Augmentation | tuple[Augmentation, ...] | list[Augmentation]) -> None:
        flat: list[Augmentation] = []
        for op in ops:
            flat.extend(op if isinstance(op, (tuple, list)) else (op,))
        for op in flat:
            if not isinstance(op, Augmentation):
                raise wrong(
                    "Compose",
                    given=f"a {type(op).__name__}",
                    expected="augmentations of this package",
                    mend="call other transforms before or after",
                    kind=TypeError,
                )
        if not flat:
            raise wrong("Compose", given="nothing", expected="at least one augmentation", mend="pass HorizontalFlip(p=0) for none")
        object.__setattr__(self, "ops", tuple(flat))

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(prefix + key for prefix, op in self._parts() for key in op.keys)

    @property
    def slots(self) -> int:
        return sum(op.slots for op in self.ops)

    @property
    def moves_only(self) -> bool:  # type: ignore[override]  # a fact of the parts here, of the class elsewhere
        return all(op.moves_only for op in self.ops)

    @property
    def floating_only(self) -> bool:
        return any(op.floating_only for op in self.ops)

    def output_size(self, size: Size) -> Size:
        for op in self.ops:
            size = op.output_size(size)
        return size

    def check(self, channels: int, size: Size) -> None:
        for op in self.ops:
            op.check(channels, size)
            size = op.output_size(size)

    def parameters(self, u: Tensor, size: Size) -> Parameters:
        drawn: Parameters = {}
        start = 0
        for prefix, op in self._parts():
            own = op.parameters(u[:, start : start + op.slots], size)
            drawn.update({prefix + key: value for key, value in own.items()})
            start += op.slots
            size = op.output_size(size)
        return drawn

    def _parts(self) -> list[tuple[str, Augmentation]]:
        return [(f"{place}.{op.name}.", op) for place, op in enumerate(self.ops)]

    def _first_of_each(self, images: Tensor, parameters: Parameters, work: torch.dtype) -> Tensor:
        prefix, op = self._parts()[0]
        return op._first_of_each(images, part(parameters, prefix), work)

    def _others(self, images: Tensor, parameters: Parameters) -> Tensor:
        for prefix, op in self._parts()[1:]:
            images = op._apply(images, part(parameters, prefix))
        return images

    def _later_sizes(self, size: Size) -> list[Size]:
        return list(accumulate(self.ops, lambda before, op: op.output_size(before), initial=size))[1:]

    def _apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        prefix, op = self._parts()[0]
        return self._others(op._apply(images, part(parameters, prefix)), parameters)
