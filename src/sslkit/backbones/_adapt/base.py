"""The forward pass that every adapter shares: the stages of our ViT, each done by the user's own modules."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sslkit._checks import wrong
from sslkit.backbones._blocks import block_number
from sslkit.backbones._masks import check_mask, need_both
from sslkit.backbones._tokens import Tokens
from sslkit.backbones.positions import Resample

if TYPE_CHECKING:
    from sslkit.maskers import TokenMask


class Adapted(nn.Module):
    """A user's model behind the interface of `ViT`; made by `adapt`, which says what it promises.

        patches, grid = embed(images)                   the model's patch embedding
        patches       = where(replace, mask_token, patches)
        sequence      = locate(patches, grid)           the model's prefix tokens, positions, dropout
        sequence      = sequence without hidden tokens
        out           = norm(blocks(sequence))          the model's blocks and final norm

    Attributes:
        model: the user's model, head included; the only thing in the state dict.
        dim: size of an output token; `embed_dim`: of an embedded patch, and so of a mask token. They differ in MViT alone.
        base: the grid of the images that the model was built for.
        patch, tubelet: pixels (frames) from one output token to the next; tubelet is None for images.
        channels, prefix, resample: as in `ViT`.
    """

    model: Any
    library: str
    keeps = True  # whether the blocks take any set of tokens

    def __init__(self, model: nn.Module, *, stem: nn.Module, dim: int, units: Sequence[int], prefix: Sequence[str], resample: Resample,
                 embed_dim: int | None = None) -> None:  # fmt: skip
        super().__init__()
        convolutions: list[Any] = [part for part in stem.modules() if isinstance(part, nn.Conv2d | nn.Conv3d)]
        if not convolutions or units[-1] != units[-2]:
            raise wrong("adapt", given=f"a patch embedding {type(stem).__name__} of patches {tuple(units)}",
                        expected="a convolution, and square patches",
                        mend="build the model with its own patch embedding and one patch size")  # fmt: skip
        first = convolutions[0]
        # Where patches overlap, a hidden pixel is part of a visible token, and must stay.
        self._apart = len(convolutions) == 1 and first.kernel_size == first.stride and not any(first.padding)
        self.model = model
        self.training = model.training  # and nothing below is touched
        self.dim, self.embed_dim = dim, dim if embed_dim is None else embed_dim
        self.patch, self.tubelet, self.channels = units[-1], units[0] if len(units) == 3 else None, first.in_channels
        self.prefix, self.resample = tuple(prefix), resample

    # What an adapter says of its model.

    @property
    def base(self) -> tuple[int, ...]:
        raise NotImplementedError

    @property
    def blocks(self) -> Sequence[Any]:
        return self.model.blocks  # type: ignore[no-any-return]

    def locate(self, patches: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Patch tokens of the full grid, with positions, after the prefix tokens: [batch, prefix + tokens, embed_dim]."""
        raise NotImplementedError

    def norm(self, tokens: Tensor) -> Tensor:
        """The model's final norm, for entries of `Tokens.layers`."""
        return self.model.norm(tokens)  # type: ignore[no-any-return]

    def _grid(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The grid of embedded patches for images of this size; raises a size that the model does not take."""
        raise NotImplementedError

    def _patches(self, images: Tensor) -> Tensor:
        """[batch, tokens, embed_dim], row-major."""
        raise NotImplementedError

    def _fit(self, mask: "TokenMask", batch: int, grid: tuple[int, ...]) -> "TokenMask":
        """`replace` on the grid of embedded patches."""
        check_mask("adapt", "replace", mask, batch, grid)
        return mask

    def _thin(self, sequence: Tensor, keep: "TokenMask | None") -> Tensor:
        return sequence if keep is None else keep.keep(sequence, prefix=len(self.prefix))

    def _shared(self, grid: tuple[int, ...], keep: "TokenMask | None") -> Any:
        """What is handed from block to block beside the tokens."""
        return None

    def _step(self, block: Any, tokens: Tensor, shared: Any) -> tuple[Tensor, Any]:
        return block(tokens), shared

    def _weights(self, block: Any, tokens: Tensor, shared: Any) -> Tensor:
        """The attention weights of a block, before its dropout: [batch, heads, tokens, tokens]."""
        raise wrong("adapt", given=f"attention_of for blocks of class {type(block).__name__}",
                    expected="attention over one set of tokens, softmax(q k^T)", mend="leave attention_of out; layers= works")  # fmt: skip

    def _head(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        """The grid after the last block."""
        return grid

    # What all of them do.

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Images -> embedded patches [batch, tokens, embed_dim] and their grid."""
        grid = self._check_images(images)
        return self._patches(images), grid

    def forward(
        self,
        images: Tensor,
        *,
        keep: "TokenMask | None" = None,
        replace: "TokenMask | None" = None,
        mask_token: Tensor | None = None,
        layers: Iterable[int] = (),
        attention_of: int | None = None,
    ) -> Tokens:
        """As `ViT.forward`; see `adapt` for what differs between models."""
        need_both("adapt", replace, mask_token)
        grid, batch = self._check_images(images), images.shape[0]
        if keep is not None:
            self._check_keep(keep, batch, grid)
            images = self._blank(images, keep, grid)
        if replace is not None:
            replace = self._fit(replace, batch, grid)
            images = self._blank(images, replace, grid)
        patches = self._patches(images)
        if replace is not None and mask_token is not None:
            patches = replace.replace(patches, mask_token.flatten())
        sequence = self._thin(self.locate(patches, grid), keep)

        blocks, shared = self.blocks, self._shared(grid, keep)
        wanted = [block_number("adapt", i, len(blocks)) for i in layers]
        looked_at = None if attention_of is None else block_number("adapt", attention_of, len(blocks))
        outputs: dict[int, Tensor] = {}
        attention = None
        for i, block in enumerate(blocks):
            if i == looked_at:
                attention = self._weights(block, sequence, shared)
            sequence, shared = self._step(block, sequence, shared)
            if i in wanted:
                outputs[i] = sequence
        sequence = self.norm(sequence)
        front = len(self.prefix)
        asked = tuple(outputs[i] for i in wanted)
        return Tokens(sequence[:, :front], sequence[:, front:], self._head(grid), asked, attention, self.prefix)

    def _check_images(self, images: Tensor) -> tuple[int, ...]:
        rank = 4 if self.tubelet is None else 5
        if images.ndim != rank or images.shape[1] != self.channels or not images.is_floating_point():
            raise wrong("adapt", given=f"images {list(images.shape)} of dtype {images.dtype}",
                        expected=f"floating [batch, {self.channels}, {'time, ' * (rank - 4)}height, width]",
                        mend="scale uint8 pictures with images / 255, and build the model for as many channels")  # fmt: skip
        return self._grid(tuple(images.shape[2:]))

    def _check_keep(self, keep: "TokenMask", batch: int, grid: tuple[int, ...]) -> None:
        if not self.keeps:
            raise wrong("adapt", given=f"keep for a {type(self.model).__name__}", expected="a model whose blocks take any set of tokens",
                        mend="its pooling attention convolves over the full grid: hide tokens with replace= and mask_token=")  # fmt: skip
        check_mask("adapt", "keep", keep, batch, grid)

    def _blank(self, images: Tensor, mask: "TokenMask", grid: tuple[int, ...]) -> Tensor:
        """Images whose hidden patches are 0. No result depends on them, but a NaN there would reach, as 0 * NaN, the gradient of the
        patch embedding.
        """
        if not self._apart:
            return images
        hidden = mask.mask.view(images.shape[0], 1, *grid)  # [batch, 1, *grid]
        for axis, (size, unit) in enumerate(zip(images.shape[2:], self._units, strict=True), start=2):
            place = torch.arange(size, device=hidden.device) // unit  # past the grid lie pixels that the model drops
            hidden = hidden.index_select(axis, place.clamp(max=hidden.shape[axis] - 1))
        return images.masked_fill(hidden, 0)  # [batch, channels, (time,) height, width]

    @property
    def _units(self) -> tuple[int, ...]:
        return (self.patch, self.patch) if self.tubelet is None else (self.tubelet, self.patch, self.patch)

    def _wrong_size(self, size: tuple[int, ...], expected: str, mend: str) -> Exception:
        return wrong("adapt", given=f"images of size {size} for a {type(self.model).__name__}", expected=expected, mend=mend)


def is_a(part: object, *names: str) -> bool:
    """Whether the class, or one that it is derived from, has one of these full names."""
    return any(f"{c.__module__}.{c.__qualname__}" in names for c in type(part).__mro__)


def split_heads(qkv: Any, heads: int) -> tuple[Tensor, ...]:
    """[batch, tokens, 3 * dim], rows of all q, all k, all v -> each [batch, heads, tokens, dim / heads]."""
    return qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind()  # type: ignore[no-any-return]


def gather_bias(bias: Tensor, keep: "TokenMask") -> Tensor:
    """A bias over all pairs of tokens, for the class token and the kept ones.

    out[b, h, i, j] = bias[h, ids[b, i], ids[b, j]]      [heads, 1 + tokens, 1 + tokens] -> [batch, heads, 1 + kept, 1 + kept]
    """
    ids = nn.functional.pad(keep.ids_keep + 1, (1, 0))  # [batch, 1 + kept], the class token, 0, in front
    return bias[:, ids[:, :, None], ids[:, None, :]].transpose(0, 1)
