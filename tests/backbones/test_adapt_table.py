"""The cells of docs/adapters.md, one test a column: every tiny model of adapted.py is held to what is promised of it there."""

import math
import re

import pytest
import torch
from tests.backbones.adapted import CASES, flat, pixels, timm_mvit, torchvision_vit
from tests.backbones.vits import draw
from torch.nn import functional

from sslkit.backbones import MAE, adapt
from sslkit.losses import masked_mse
from sslkit.targets import normalized_pixels
from sslkit.testing import proves

NAME = "backbones.adapt"
KEEP = "expected a model whose blocks take any set of tokens"
ATTENTION = "expected attention over one set of tokens, softmax(q k^T)"
INTERPOLATE = "ignore::UserWarning:timm.layers.interpolate"  # of timm's resampling of tables of relative positions
every_model = pytest.mark.parametrize("name", CASES)


def refused(words):
    return pytest.raises(ValueError, match=re.escape(words))


def by_hand(monkeypatch, run, hidden=None):
    """What the model gives when its attention is the definition, over keys that are not hidden, and the weights of each call."""
    seen = []

    def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        logits = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        logits = logits if attn_mask is None else logits + attn_mask
        logits = logits if hidden is None else logits.masked_fill(hidden[:, None, None], -torch.inf)
        seen.append(logits.softmax(dim=-1))  # [batch, heads, tokens, tokens]
        return seen[-1] @ value

    with monkeypatch.context() as patch:
        patch.setattr(functional, "scaled_dot_product_attention", attention)
        return run(), seen


def agrees_on(case, encoder, images, generator, **options):
    """The model's own features at this size, and what is hidden has no part in them."""
    size, grid = tuple(images.shape[2:]), encoder(images).grid
    assert torch.equal(flat(encoder(images)), case.features(encoder.model, images, **options))
    assert grid[-2:] == tuple(-(-n // case.patch) for n in size[-2:])
    mask, token = draw(2, grid, 3, generator), torch.ones(encoder.embed_dim)
    asked = [{"replace": mask, "mask_token": token}, *([{"keep": mask}] if case.keeps else [])]
    for hides in asked if case.apart else []:
        assert torch.equal(flat(encoder(images, **hides)), flat(encoder(images.masked_fill(pixels(mask, size), torch.nan), **hides)))
    return grid


@proves(NAME, "loop")
@every_model
def test_keep(name, generator, monkeypatch):
    """Kept tokens are those of the model's own forward pass in which no query sees a hidden key; else the error."""
    case = CASES[name]
    encoder, images = adapt(case.model()), case.images(generator)
    mask = draw(2, case.base, 5, generator)
    if not case.keeps:
        with refused(KEEP):
            encoder(images, keep=mask)
        return
    hidden = functional.pad(mask.mask, (len(encoder.prefix), 0))  # [batch, prefix + tokens]
    expected, _ = by_hand(monkeypatch, lambda: case.features(encoder.model, images), hidden)
    out = encoder(images, keep=mask)
    for b in range(2):
        torch.testing.assert_close(flat(out)[b], expected[b, ~hidden[b]], rtol=1e-5, atol=1e-5)
    assert out.grid == case.base


@proves(NAME, "property")
@pytest.mark.parametrize("name", [n for n, case in CASES.items() if not case.apart])
def test_overlapping_patches_show_hidden_pixels_to_their_neighbours(name, generator):
    case = CASES[name]
    encoder, images = adapt(case.model()), case.images(generator)
    mask, token = draw(2, case.base, math.prod(case.base) // 2, generator), torch.zeros(encoder.embed_dim)
    hidden = mask.mask.view(2, 1, *case.base)
    for axis, unit in enumerate([encoder.tubelet or 1] * (len(case.base) - 2) + [case.patch] * 2, start=2):
        hidden = hidden.repeat_interleave(unit, axis)
    assert not torch.equal(*(flat(encoder(x, replace=mask, mask_token=token)) for x in (images, images.masked_fill(hidden, 1))))


@proves(NAME, "property")
@every_model
def test_layers(name, generator):
    """`layers` of all blocks are what these return in the model's own forward pass, bit for bit."""
    case = CASES[name]
    encoder, images, seen = adapt(case.model()), case.images(generator), []

    def look(block, inputs, output):
        seen.append((output[0] if isinstance(output, tuple) else output).clone())

    handles = [block.register_forward_hook(look) for block in encoder.blocks]
    case.features(encoder.model, images)
    for handle in handles:
        handle.remove()
    layers = encoder(images, layers=range(len(encoder.blocks))).layers
    assert len(layers) == len(seen) == len(encoder.blocks)
    assert all(torch.equal(layer, own) for layer, own in zip(layers, seen, strict=True))


@proves(NAME, "loop")
@every_model
def test_attention_of(name, generator, monkeypatch):
    """softmax(q k^T scale + bias) of what every block hands to its attention in the model's own forward pass; else the error."""
    case = CASES[name]
    encoder, images = adapt(case.model()), case.images(generator)
    if not case.attends:
        with refused(ATTENTION):
            encoder(images, attention_of=0)
        return
    _, seen = by_hand(monkeypatch, lambda: case.features(encoder.model, images))
    assert len(seen) == len(encoder.blocks)
    for i, weights in enumerate(seen):
        torch.testing.assert_close(encoder(images, attention_of=i).attention, weights, rtol=1e-5, atol=1e-6)


@proves(NAME, "property", "errors")
@pytest.mark.filterwarnings(INTERPOLATE)
@every_model
def test_other_sizes(name, generator):
    """The model's own features, bit for bit, for larger, wider and narrower images; other sizes raise the error."""
    case = CASES[name]
    encoder, p = adapt(case.model()), case.patch
    options = {"interpolate_pos_encoding": True} if "transformers" in case.kind and "Dinov2" not in case.kind else {}
    assert not hasattr(encoder.model, "set_input_size") or case.takes != "built"
    wide, high, large = ((*case.shape[:-2], h * p, w * p) for h, w in ((2, 8), (6, 3), (8, 8)))  # wide: as many tokens as built for
    for shape in (wide, high, large):
        images = torch.randn(2, *shape, generator=generator)
        if case.takes in ("built", "set"):
            with refused(case.refuses):
                encoder(images)
        if case.takes == "set":
            encoder.model.set_input_size(shape[1:])
            assert agrees_on(case, encoder, images, generator) == encoder.base
        elif case.takes != "built":
            agrees_on(case, encoder, images, generator, **options)
    images = torch.randn(2, *wide[:-2], 13, 22, generator=generator)
    if case.takes == "any":
        agrees_on(case, encoder, images, generator)
    else:
        with refused(case.refuses):
            encoder(images)


@proves(NAME, "property", "errors")
@every_model
def test_built_for_non_square_images(name, generator):
    """A model built for 4 x 6 patches: its own features, bit for bit; else the error."""
    case = CASES[name]
    size = 4 * case.patch, 6 * case.patch
    encoder = adapt(case.model(**({case.oblong: size} if case.oblong else {})))
    images = torch.randn(2, *case.shape[:-2], *size, generator=generator)
    if case.oblong_refuses:
        with refused(case.oblong_refuses):
            encoder(images)
    else:
        assert agrees_on(case, encoder, images, generator) == encoder.base


def test_libraries_that_build_for_square_images_alone():
    with pytest.raises(AssertionError):
        timm_mvit(img_size=(32, 48))
    with pytest.raises(TypeError):
        torchvision_vit(image_size=(16, 24))


@proves(NAME, "property", "errors")
@pytest.mark.parametrize("channels", [1, 5])
@every_model
def test_channels(name, channels, generator):
    """Built for 1 and 5 channels: its own features, bit for bit, MAE's predictions as wide; images of other channels raise."""
    case = CASES[name]
    encoder = adapt(case.model(**{case.channels: channels}))
    images = torch.randn(2, channels, *case.shape[1:], generator=generator)
    assert encoder.channels == channels
    assert agrees_on(case, encoder, images, generator) == case.base
    with refused(f"expected floating [batch, {channels}, "):
        encoder(torch.cat([images, images], dim=1))
    if case.keeps:
        assert MAE(encoder, 8, 1, 2)(images, draw(2, case.base, 5, generator)).shape == (2, math.prod(case.base), channels * 16)


@proves(NAME, "property")
@every_model
def test_mae_step(name, generator):
    """One step of gradient descent lowers the loss of normalised pixels as far as its gradient says, by 1 %; else the error."""
    case = CASES[name]
    encoder = adapt(case.model().train())
    torch.manual_seed(0)
    model = MAE(encoder, 16, 1, 2)
    images, mask = case.images(generator), draw(2, case.base, 5, generator)
    if not case.keeps:
        with refused(KEEP):
            model(images, mask)
        return
    whole = functional.pad(images, [n for size in images.shape[:1:-1] for n in (0, -size % encoder.patch)])
    target = normalized_pixels(whole, encoder.patch)

    def loss():
        torch.manual_seed(1)  # the same drop path in both
        return masked_mse(model(images, mask), target, mask.mask)

    before = loss()
    before.backward()
    squares = {n: p.grad.square().sum() for n, p in model.named_parameters() if p.grad is not None}
    assert sum(square for n, square in squares.items() if n.startswith("encoder.")) > 0
    # loss(w - rate * g) = loss(w) - rate * |g|^2 + O(rate^2); measured, the last term is at most 1.1 % of the one before.
    rate = 0.01 * before.item() / sum(squares.values()).item()
    torch.optim.SGD(model.parameters(), lr=rate).step()
    fall = 1 - loss().item() / before.item()
    assert 0.0095 < fall < 0.0105
