"""What every augmentation shares: sampling is one step, applying another.

    parameters = augmentation.sample(batch, size, generator=...)     a flat dict of tensors, one row a sample
    images = augmentation.apply(images, parameters)                  the same parameters, the same result

Parameters are a pure function of uniform numbers, `slots` of them a sample. So they can be drawn from a generator or
belong to a sample (`indices=, seed=, epoch=`), be saved, subset, merged, and replayed on another picture: a saliency
map, another size, another view.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from sslkit._checks import wrong
from sslkit.counter import uniforms

Parameters = dict[str, Tensor]
Size = tuple[int, int]
Result = TypeVar("Result")  # of applying: images, or a list of views

# Samples are worked on in blocks of about this many bytes of float32, so that a chain of ops stays in the processor's
# cache and no block is all overhead. Measured: 2 to 8 MiB are alike, a quarter MiB costs about twice the time.
_BLOCK_BYTES = 2 * 2**20


class Sampler(ABC, Generic[Result]):
    """A pure function from uniforms to parameters, and the ways to draw those uniforms."""

    @property
    @abstractmethod
    def slots(self) -> int:
        """How many uniform numbers a sample uses."""

    @abstractmethod
    def parameters(self, u: Tensor, size: Size) -> Parameters:
        """u: [batch, slots] in [0, 1), float32; size: (height, width) of the images. -> a flat dict of tensors [batch, ...]."""

    def sample(
        self,
        batch: int,
        size: Size,
        *,
        generator: torch.Generator | None = None,
        indices: Tensor | None = None,
        seed: int | None = None,
        epoch: int = 0,
        offset: int = 0,
        device: torch.device | str | None = None,
    ) -> Parameters:
        """Draws the parameters of a batch.

        Args:
            batch: rows.
            size: (height, width) of the images; only crops look at it.
            generator: torch's source of numbers; None is torch's global one. Not together with `indices`.
            indices: [batch] integers, the samples' places in the data set: the draws then are a function of (seed,
                epoch, index) alone.
            seed: required with `indices`.
            epoch: with `indices`: another epoch, other draws.
            offset: with `indices`: the first slot, for a second user of the same samples.
            device: of the parameters; default: that of the source.

        Raises:
            ValueError: both sources are given, indices without a seed, or not one index a row.
        """
        # a generator draws where it lives, so that one seed gives one result on every device
        source = device if generator is None else None
        u = uniforms(batch, self.slots, generator=generator, indices=indices, seed=seed, epoch=epoch, offset=offset, device=source)
        return self.parameters(u if device is None else u.to(device), size)

    @abstractmethod
    def apply(self, images: Tensor, parameters: Parameters) -> Result:
        """Uses given parameters, one row a sample."""

    def __call__(
        self,
        images: Tensor,
        *,
        generator: torch.Generator | None = None,
        indices: Tensor | None = None,
        seed: int | None = None,
        epoch: int = 0,
    ) -> Result:
        """Draws and applies: see `sample` and `apply`."""
        need_images(type(self).__name__, images)
        parameters = self.sample(
            images.shape[0],
            (images.shape[2], images.shape[3]),
            generator=generator,
            indices=indices,
            seed=seed,
            epoch=epoch,
            device=images.device,
        )
        return self.apply(images, parameters)


class Augmentation(Sampler[Tensor]):
    """Base of the frozen dataclasses here. A subclass gives `name`, `keys`, `slots`, `parameters` and `_apply`."""

    name: ClassVar[str]  # the word for it in the keys of Compose
    moves_only: ClassVar[bool] = False  # values are moved, never computed: every dtype passes as it is

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return ()

    @property
    def floating_only(self) -> bool:
        """True if the result leaves [0, 1], so that uint8 cannot hold it."""
        return False

    def output_size(self, size: Size) -> Size:
        """(height, width) of the result, given that of the images."""
        return size

    def check(self, channels: int, size: Size) -> None:
        """Raises the three-part error if images of this shape cannot be augmented."""

    @abstractmethod
    def _apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """images: float32 or float64 in [0, 1] (any dtype if `moves_only`), never written to. -> the same dtype."""

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """Applies given parameters, one row a sample.

        Args:
            images: [batch, channels, height, width], uint8 in 0..255 or floating in [0, 1].
            parameters: of `sample`; further keys are ignored.

        Returns:
            [batch, channels, height', width'], same dtype and range. Computed in float32 or wider, also under autocast; uint8
            is rounded once, at the end (torchvision rounds after each op). On a GPU the matrix products of crop, blur and texture follow
            torch's setting for TF32.

        Raises:
            TypeError: images are neither uint8 nor floating, or uint8 where the result leaves [0, 1].
            ValueError: not four axes, a parameter is missing or has another number of rows, or the op's own demand on
                channels and size.
        """
        self._check(images, parameters)
        batch, dtype = images.shape[0], images.dtype
        work = dtype if self.moves_only else torch.promote_types(dtype, torch.float32)
        height, width = self.output_size((images.shape[2], images.shape[3]))
        if torch.compiler.is_compiling() or batch == 0 or images.device.type != "cpu":  # a compiler makes its own blocks, a GPU needs none
            return self._block(images, parameters, work)
        out = images.new_empty(batch, images.shape[1], height, width)
        mine = {key: parameters[key] for key in self.keys}
        each = alone(images)
        sizes = [*self._later_sizes((images.shape[2], images.shape[3])), *([] if each else [(images.shape[2], images.shape[3])])]
        for start, stop in _blocks(batch, 4 * images.shape[1] * max(rows * columns for rows, columns in sizes)):
            own = {key: value[start:stop] for key, value in mine.items()}
            out[start:stop] = self._block(images[start:stop], own, work, each)
        return out

    def _block(self, images: Tensor, parameters: Parameters, work: torch.dtype, each: bool = False) -> Tensor:
        """each: the first op sees one image at a time, or the part of it that it looks at."""
        levels = images.dtype == torch.uint8 and not self.moves_only
        # autocast would run the matrix products of crop and blur in 16 bit
        with torch.autocast(images.device.type, enabled=False):
            if each:
                done = self._others(self._first_of_each(images, parameters, work), parameters)
            else:
                done = self._apply(as_floats(images, work), parameters)
            return done.mul(255).round_().clamp_(0, 255).to(torch.uint8) if levels else done.to(images.dtype)

    # A chain of ops, whose first one sees large images one by one, and a crop, which looks at a part of them, know better:

    def _first_of_each(self, images: Tensor, parameters: Parameters, work: torch.dtype) -> Tensor:
        """The first op of large images, which are as they were given; the result in `work`, levels of 0..255 as [0, 1]."""
        rows = ({key: value[i : i + 1] for key, value in parameters.items()} for i in range(len(images)))
        return torch.cat([self._apply(as_floats(image, work), row) for image, row in zip(torch.split(images, 1), rows, strict=True)])

    def _others(self, images: Tensor, parameters: Parameters) -> Tensor:
        """The ops after the first one."""
        return images

    def _later_sizes(self, size: Size) -> list[Size]:
        """Of the images that the first op and the others leave."""
        return [self.output_size(size)]

    def _check(self, images: Tensor, parameters: Parameters) -> None:
        where = type(self).__name__
        need_images(where, images)
        if images.dtype == torch.uint8 and self.floating_only:
            raise wrong(
                where,
                given="uint8 images",
                expected="floating images, because normalised values leave 0..255",
                mend="pass images.float() / 255, or normalise after this augmentation",
                kind=TypeError,
            )
        for key in self.keys:
            if key not in parameters:
                raise wrong(
                    where,
                    given=f"parameters without {key!r}",
                    expected=f"the keys {', '.join(self.keys)}",
                    mend="pass what this augmentation's sample() returned",
                )
            if parameters[key].device != images.device:
                raise wrong(where, given=f"{key!r} on {parameters[key].device}", expected=f"{images.device}, where the images are",
                            mend="sample with device=images.device")  # fmt: skip
            if parameters[key].shape[0] != images.shape[0]:
                raise wrong(
                    where,
                    given=f"{parameters[key].shape[0]} rows of {key!r} for {images.shape[0]} images",
                    expected="one row a sample",
                    mend="sample with batch=len(images), or subset the parameters like the images",
                )
        self.check(images.shape[1], (images.shape[2], images.shape[3]))


def as_floats(images: Tensor, work: torch.dtype) -> Tensor:
    """In `work`; levels of 0..255 as [0, 1] if that is another dtype."""
    return images.to(work).div_(255) if images.dtype == torch.uint8 != work else images.to(work)


def _blocks(batch: int, sample_bytes: int) -> Iterator[tuple[int, int]]:
    rows = max(1, _BLOCK_BYTES // max(1, sample_bytes))
    return ((start, min(start + rows, batch)) for start in range(0, batch, rows))


def alone(images: Tensor) -> bool:
    """True where an op of `apply` works on one image at a time, for its size, whatever the batch."""
    return images[0].numel() * 4 > _BLOCK_BYTES // 2 and images.device.type == "cpu" and not torch.compiler.is_compiling()


def need_images(where: str, images: Tensor) -> None:
    if not isinstance(images, Tensor):
        raise wrong(where, given=f"images of type {type(images).__name__}", expected="a tensor [batch, channels, height, width]",
                    mend="pass torch.as_tensor(images), channels first", kind=TypeError)  # fmt: skip
    if images.ndim != 4:
        raise wrong(
            where,
            given=f"images {list(images.shape)}, {images.ndim} axes",
            expected="[batch, channels, height, width]",
            mend="add a batch axis to one image: image[None]",
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise wrong(
            where,
            given=f"images of dtype {images.dtype}",
            expected="uint8 in 0..255 or floating in [0, 1]",
            mend="convert to uint8, or to float and scale to [0, 1]",
            kind=TypeError,
        )


def need_probability(where: str, **numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 <= number <= 1:
            raise wrong(where, given=f"{name}={number}", expected=f"a probability {name} in [0, 1]", mend=f"pass {name} in that range")
