"""The vision transformer: what masks and sizes must not change."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.backbones.vits import CLIPS, KINDS, draw, pictures, tiny

from sslkit.backbones import ViT
from sslkit.testing import proves

NAME = "backbones.ViT"


grids = st.tuples(st.integers(1, 4), st.integers(1, 4))


@proves(NAME, "property")
@given(grid=grids, seed=st.integers(0, 99), share=st.floats(0, 1), kind=st.sampled_from(["plain", "registers", "no prefix", "sincos"]))
def test_kept_tokens_ignore_hidden_pixels_and_a_hand_made_gather_agrees(grid, seed, share, kind):
    generator = torch.Generator().manual_seed(seed)
    model = tiny(**KINDS[kind])
    images = pictures(model, generator, grid=grid)
    mask = draw(2, grid, max(1, round(share * math.prod(grid))), generator)
    out = model(images, keep=mask)
    hidden = mask.mask.view(2, 1, *grid).repeat_interleave(4, 2).repeat_interleave(4, 3)
    poisoned = model(images.masked_fill(hidden, torch.nan), keep=mask)
    assert torch.equal(out.patches, poisoned.patches)
    assert torch.equal(out.prefix, poisoned.prefix)
    sequence, _, _ = model.blocks(mask.keep(model.locate(*model.embed(images)), prefix=len(model.prefix)))
    torch.testing.assert_close(torch.cat([out.prefix, out.patches], dim=1), model.norm(sequence), rtol=1e-5, atol=1e-5)
    assert out.grid == grid


@proves(NAME, "property")
@pytest.mark.parametrize("kind", KINDS)
def test_keeping_all_equals_keeping_none_out(kind, generator):
    model = tiny(**KINDS[kind])
    images = pictures(model, generator)
    everything = draw(2, model.base, math.prod(model.base), generator)
    full, kept = model(images), model(images, keep=everything)
    torch.testing.assert_close(kept.patches, full.patches, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(kept.prefix, full.prefix, rtol=1e-5, atol=1e-6)


@proves(NAME, "property")
@pytest.mark.parametrize("kind", KINDS)
def test_replace(kind, generator):
    """Nothing hidden: untouched, no gradient for the mask token. All hidden: the picture does not matter, positions do."""
    model, token = tiny(**KINDS[kind]), torch.randn(1, 1, 8, generator=generator, requires_grad=True)
    images, others = pictures(model, generator), pictures(model, generator)
    grid, tokens = model.base, math.prod(model.base)
    nothing = draw(2, grid, tokens, generator)
    out = model(images, replace=nothing, mask_token=token)
    assert torch.equal(out.patches, model(images).patches)
    out.patches.sum().backward()
    assert token.grad is None or token.grad.abs().max() == 0
    everything = draw(2, grid, 0, generator)
    out = model(images, replace=everything, mask_token=token)
    assert torch.equal(out.patches, model(others, replace=everything, mask_token=token).patches)
    assert (out.patches[:, 0] == out.patches[:, 1]).all() == (model.positions is None)
    some = draw(2, grid, tokens // 2, generator)
    patches, _ = model.embed(images)
    sequence = model.locate(torch.where(some.mask[..., None], token, patches), grid)
    expected = model.norm(model.blocks(sequence)[0])[:, len(model.prefix) :]
    torch.testing.assert_close(model(images, replace=some, mask_token=token).patches, expected)
    both = model(images, replace=some, mask_token=token, keep=some)  # what is replaced is then dropped
    torch.testing.assert_close(both.patches, model(images, keep=some).patches, rtol=1e-5, atol=1e-6)


@proves(NAME, "property")
@pytest.mark.parametrize("how", ["keep", "replace"])
def test_a_nan_in_a_hidden_pixel_reaches_no_gradient(how, generator):
    model, token = tiny(), torch.randn(8, generator=generator)
    images, mask = pictures(model, generator), draw(2, model.base, 2, generator)
    hidden = mask.mask.view(2, 1, *model.base).repeat_interleave(4, 2).repeat_interleave(4, 3)
    options = {"keep": mask} if how == "keep" else {"replace": mask, "mask_token": token}
    found = []
    for pixels in (images, images.masked_fill(hidden, torch.nan)):
        model.zero_grad()
        model(pixels, **options).patches.square().sum().backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@proves(NAME, "property")
@given(batch=st.integers(1, 3), grid=grids, channels=st.integers(1, 4), patch=st.sampled_from([1, 3, 8]), registers=st.integers(0, 3))
def test_any_size(batch, grid, channels, patch, registers):
    model = ViT(2 * patch, patch, 4, 1, 1, channels=channels, prefix=("cls", *["reg"] * registers)).eval()
    images = torch.zeros(batch, channels, grid[0] * patch, grid[1] * patch)
    out = model(images, layers=(0, -1), attention_of=0)
    tokens = grid[0] * grid[1]
    assert (out.prefix.shape, out.patches.shape) == ((batch, 1 + registers, 4), (batch, tokens, 4))
    assert out.grid == grid
    assert torch.equal(out.layers[0], out.layers[1])
    assert out.attention.shape == (batch, 1, 1 + registers + tokens, 1 + registers + tokens)
    torch.testing.assert_close(out.attention.sum(dim=-1), torch.ones(out.attention.shape[:-1]))
    torch.testing.assert_close(out.pooled("mean"), out.patches.mean(dim=1))
    assert torch.equal(out.pooled(), out.prefix[:, 0])


@proves(NAME, "property")
@pytest.mark.parametrize("positions", ["learned", "separable", "sincos"])
def test_other_sizes_of_clips_and_samples_are_independent(positions, generator):
    model = tiny(**CLIPS, positions=positions) if positions != "sincos" else ViT(8, 4, 16, 1, 2, **CLIPS, positions="sincos").eval()
    images = pictures(model, generator, grid=(3, 1, 5))
    out = model(images)
    assert out.grid == (3, 1, 5)
    torch.testing.assert_close(model(images[1:]).patches, out.patches[1:], rtol=1e-5, atol=1e-6)


@proves(NAME, "property")
def test_without_positions_a_shuffled_picture_gives_shuffled_tokens(generator):
    model = tiny(positions=None)
    images = pictures(model, generator)
    order = [2, 0, 3, 1]
    pieces = images.unflatten(2, (2, 4)).unflatten(4, (2, 4)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)[:, order]
    shuffled = pieces.unflatten(1, (2, 2)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    torch.testing.assert_close(model(shuffled).patches, model(images).patches[:, order])
