"""transformers' models behind our interface: their own masks, attention, sizes and heads."""

import pytest
import torch
from tests.backbones.adapted import Flat, flat, jitter, pixels, transformers_features, transformers_model
from tests.backbones.vits import draw
from torch.nn import functional

from sslkit.backbones import adapt
from sslkit.testing import proves

NAME = "backbones.adapt"
BIASES = {
    "own": {"use_relative_position_bias": True},
    "shared": {"use_shared_relative_position_bias": True},
    "both": {"use_relative_position_bias": True, "use_shared_relative_position_bias": True, "use_absolute_position_embeddings": True},
}
MODELS = {
    "ViT": lambda **options: transformers_model("ViT", options={"use_mask_token": True}, **options),
    "DeiT": lambda **options: transformers_model("DeiT", options={"use_mask_token": True}, **options),
    "Dinov2": lambda **options: transformers_model("Dinov2", layerscale_value=0.5, **options),
    "Dinov2 registers": lambda **options: transformers_model("Dinov2WithRegisters", num_register_tokens=3, **options),
    "Beit own": lambda **options: transformers_model("Beit", use_mask_token=True, **BIASES["own"], **options),
    "Beit both": lambda **options: transformers_model("Beit", use_mask_token=True, **BIASES["both"], **options),
}


@proves(NAME, "loop")
@pytest.mark.parametrize("name", MODELS)
def test_replace_is_bool_masked_pos(name, generator):
    model, images = jitter(MODELS[name]()), torch.randn(2, 3, 16, 16, generator=generator)
    mask, token = draw(2, (4, 4), 5, generator), model.embeddings.mask_token
    expected = transformers_features(model, images, bool_masked_pos=mask.mask)
    torch.testing.assert_close(flat(adapt(model)(images, replace=mask, mask_token=token)), expected, rtol=1e-5, atol=1e-5)


@proves(NAME, "loop")
@pytest.mark.parametrize("name", MODELS)
def test_attention_is_what_the_block_uses(name, generator):
    """The library's own weights, which its eager form returns; the other form gives none, and the adapter the same."""
    model, images = jitter(MODELS[name](attn_implementation="eager")), torch.randn(2, 3, 16, 16, generator=generator)
    encoder = adapt(model)
    expected = model(images, output_attentions=True).attentions
    for i in (0, 1):
        torch.testing.assert_close(encoder(images, attention_of=i).attention, expected[i], rtol=1e-5, atol=1e-6)
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(encoder(images, attention_of=-1).attention, expected[1], rtol=1e-5, atol=1e-6)
    assert torch.equal(flat(encoder(images)), transformers_features(model, images))


@proves(NAME, "loop")
@pytest.mark.parametrize("kind", BIASES)
def test_keep_in_beit_equals_hiding_the_keys_from_all_queries(kind, generator):
    """The whole sequence, where hidden tokens get a bias of minus infinity: what is kept cannot tell the difference."""
    model = jitter(transformers_model("Beit", **BIASES[kind]))
    encoder, images = adapt(model), torch.randn(2, 3, 16, 16, generator=generator)
    mask = draw(2, (4, 4), 5, generator)
    hidden = functional.pad(mask.mask, (1, 0))
    minus = torch.zeros(2, 1, 1, 17).masked_fill(hidden[:, None, None], -torch.inf)
    expected = transformers_features(model, images, attention_mask=minus.expand(-1, 1, 17, -1))
    out = encoder(images, keep=mask, attention_of=0)
    for b in range(2):
        torch.testing.assert_close(flat(out)[b], expected[b, ~hidden[b]], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.attention.sum(dim=-1), torch.ones(2, 2, 6))


@proves(NAME, "property")
@pytest.mark.parametrize("size", [(24, 8), (32, 32), (8, 32)])
@pytest.mark.parametrize("name", MODELS)
def test_other_sizes(name, size, generator):
    """Position tables as interpolate_pos_encoding=True reads them; (8, 32) has as many tokens as the model's own size."""
    model, images = jitter(MODELS[name]()), torch.randn(2, 3, *size, generator=generator)
    encoder = adapt(model)
    options = {} if "Dinov2" in name else {"interpolate_pos_encoding": True}
    out, grid = encoder(images), (size[0] // 4, size[1] // 4)
    assert torch.equal(flat(out), transformers_features(model, images, **options))
    assert (out.grid, encoder.base) == (grid, (4, 4))
    mask = draw(2, grid, 3, generator)
    poisoned = images.masked_fill(pixels(mask, size), torch.nan)
    assert torch.equal(flat(encoder(images, keep=mask)), flat(encoder(poisoned, keep=mask)))


def test_a_model_of_oblong_images_takes_those_alone(generator):
    images = torch.randn(2, 3, 16, 32, generator=generator)
    for kind in ("ViT", "DeiT"):
        model = jitter(transformers_model(kind, image_size=(16, 32)))
        out = adapt(model)(images)
        assert torch.equal(flat(out), transformers_features(model, images))
        assert out.grid == (4, 8)
        with pytest.raises(ValueError, match=rf"adapt: got images of size \(16, 16\) for a {kind}Model; expected a model built for square"):
            adapt(model)(images[..., :16])
    with pytest.raises(
        ValueError, match=r"adapt: got images of size \(16, 32\) for a Dinov2Model; expected a model built for square images"
    ):
        adapt(transformers_model("Dinov2", image_size=(16, 32)))(images)


@pytest.mark.parametrize("kind", ["ViT", "DeiT", "Dinov2", "Dinov2WithRegisters", "Beit"])
def test_heads_stay_in_the_model_and_are_not_used(kind, generator):
    model, images = jitter(transformers_model(kind, "ForImageClassification")), torch.randn(2, 3, 16, 16, generator=generator)
    encoder = adapt(model)
    assert encoder.model is model
    assert torch.equal(flat(encoder(images)), model.base_model(images).last_hidden_state)


@pytest.mark.skipif(torch.__version__ < (2, 12), reason="torch 2.11 cannot compile ContextVar.get, which the library's hook calls")
def test_a_hooked_model_compiles(generator):
    """A model that has recorded its hidden states keeps hooks of the library, which must not break the graph."""
    model, images = jitter(MODELS["ViT"]()), torch.randn(2, 3, 16, 16, generator=generator)
    model(images, output_hidden_states=True)
    encoder = Flat(adapt(model))
    torch.compiler.reset()
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images), encoder(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_gradient_checkpointing_is_kept(name, generator):
    images, found = torch.randn(2, 3, 16, 16, generator=generator), []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = jitter(MODELS[name]()).train()
        if recompute:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable  # its older name
            enable({"use_reentrant": False})
        weight = model.embeddings.patch_embeddings.projection.weight
        found.append(torch.autograd.grad(flat(adapt(model)(images)).square().sum(), weight)[0])
    torch.testing.assert_close(*found)


def test_half_precision_models_take_float_images_as_they_do(generator):
    model, images = jitter(MODELS["Dinov2"]()).bfloat16(), torch.randn(2, 3, 16, 16, generator=generator)
    assert torch.equal(flat(adapt(model)(images)), transformers_features(model, images))


@proves(NAME, "errors")
def test_another_layout_is_refused():
    model = MODELS["ViT"]()
    del model.layers[1].attention.q_proj
    with pytest.raises(ValueError, match=r"adapt: got a ViTModel whose attention has no q_proj, k_proj, v_proj; expected the layout of "
                                         r"transformers 5. To mend: pip install --upgrade transformers"):  # fmt: skip
        adapt(model)
    with pytest.raises(ValueError, match=r"grid_of: got height=18; expected a positive multiple of 4"):
        adapt(MODELS["ViT"]())(torch.zeros(1, 3, 18, 16))
