"""Embedding the visible patches of MAE's encoder, forward and backward: ours against the forms of MAE and lightly.

Ours reads the pixels of visible patches alone. The peers are written here from their descriptions: a convolution embeds every patch,
positions are added to all, and the visible tokens are gathered by an index repeated or expanded to their width. All put the class token in
front. The images want no gradient, as in training.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import Call, Report, command, compare
from sslkit.backbones import ViT
from sslkit.maskers import RandomMasker, TokenMask

BATCH, SIZE, PATCH, DIM = 32, 224, 16, 768
GRID = (SIZE // PATCH, SIZE // PATCH)


def data() -> tuple[ViT, Tensor, TokenMask, Tensor]:
    """Model, images, mask, and the gradient that arrives from the blocks."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = ViT(SIZE, PATCH, DIM, 1, 12, positions="sincos", init="mae")
    images = torch.randn(BATCH, 3, SIZE, SIZE, generator=generator)
    mask = RandomMasker(ratio=0.75)(BATCH, GRID, generator=generator)
    return model, images, mask, torch.randn(BATCH, 1 + mask.ids_keep.shape[1], DIM, generator=generator)


def visible_alone(model: ViT, images: Tensor, mask: TokenMask) -> Tensor:
    patches, grid = model.embed(images, keep=mask)
    return model.locate(patches, grid, keep=mask)


def _all_of(model: ViT, images: Tensor) -> Tensor:
    """Every patch, by the convolution, with its position."""
    proj = model.patch_embed.proj
    tokens = functional.conv2d(images, proj.weight, proj.bias, stride=PATCH).flatten(2).transpose(1, 2)
    return tokens + model.pos_embed[:, 1:]


def _with_class(model: ViT, tokens: Tensor) -> Tensor:
    return torch.cat([(model.cls_token + model.pos_embed[:, :1]).expand(len(tokens), -1, -1), tokens], dim=1)


def all_repeated(model: ViT, images: Tensor, mask: TokenMask) -> Tensor:
    """MAE's: the index in memory once for every number."""
    return _with_class(model, _all_of(model, images).gather(1, mask.ids_keep.unsqueeze(-1).repeat(1, 1, DIM)))


def all_expanded(model: ViT, images: Tensor, mask: TokenMask) -> Tensor:
    """lightly's: the index seen once for every number."""
    return _with_class(model, _all_of(model, images).gather(1, mask.ids_keep.unsqueeze(-1).expand(-1, -1, DIM)))


Form = Callable[[ViT, Tensor, TokenMask], Tensor]
FORMS: dict[str, Form] = {
    "sslkit": visible_alone,
    "all, then repeated index (MAE)": all_repeated,
    "all, then expanded index (lightly)": all_expanded,
}


def forward_backward(form: Form, model: ViT, images: Tensor, mask: TokenMask, grad: Tensor) -> tuple[Tensor, ...]:
    """Tokens, and the gradients of the embedding's weight and bias and of the class token."""
    out = form(model, images, mask)
    wanted = [model.patch_embed.proj.weight, model.patch_embed.proj.bias, model.cls_token]
    return out.detach(), *torch.autograd.grad(out, wanted, grad)


def setup(form: str) -> Call:
    """For the memory measurement: inputs made, the call ready."""
    return partial(forward_backward, FORMS[form], *data())


def agree(mine: tuple[Tensor, ...], reference: tuple[Tensor, ...]) -> None:
    """To the rounding of sums over 768 pixels, and over 1568 tokens in the gradients."""
    for a, b, tolerance in zip(mine, reference, (2e-5, 5e-4, 5e-4, 1e-5), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=tolerance)


def run(rounds: int = 9, memory: bool = True) -> Report:
    inputs = data()
    jobs = {name: partial(forward_backward, form, *inputs) for name, form in FORMS.items()}
    peaks = {name: partial(setup, name) for name in FORMS} if memory else None
    return compare("embed", jobs, rounds=rounds, reference=list(FORMS)[-1], agree=agree, peaks=peaks,
                   title=f"Embedding visible patches, forward + backward, {BATCH} x {SIZE}**2, patch {PATCH}, {DIM} wide, 75 % hidden",
                   notes=("shared machine; ratios are formed inside a round", "memory includes the result and the gradients"))  # fmt: skip


main = command(__doc__, run, rounds=9)

if __name__ == "__main__":
    main()
