"""Weights under other libraries' names: what loads them computes the same, and what cannot be said is refused."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backbones.adapted import (
    flat,
    jitter,
    timm_beit,
    timm_distilled,
    timm_mvit,
    timm_vit,
    torchvision_mvit,
    torchvision_vit,
    transformers_model,
)
from tests.backbones.vits import CLIPS, KINDS, pictures, tiny

from sslkit.backbones import MAE, ViT, adapt, export, load_official
from sslkit.testing import proves

NAME = "backbones.export"


def timm_twin(model, **options):
    """timm's model of the same sizes."""
    slots = sum(model._has_slot)
    options = {
        "img_size": tuple(n * 4 for n in model.base), "embed_dim": 8, "in_chans": model.channels, "num_classes": 0, "global_pool": "",
        "mlp_ratio": model.blocks[0].mlp.fc1.out_features / 8, "qkv_bias": model.blocks[0].attn.qkv.bias is not None,
        "init_values": 1.0 if hasattr(model.blocks[0].ls1, "gamma") else None, "pos_embed": "learn" if model.positions else "none",
        "final_norm": hasattr(model.norm, "eps"), "norm_layer": partial(torch.nn.LayerNorm, eps=model.blocks[0].norm1.eps),
        **options,
    }  # fmt: skip
    if "dist" in model.prefix:
        return timm_distilled(**{**options, "global_pool": "token", "pos_embed": "learn"})
    registers = model.prefix.count("reg")
    return timm_vit(**options, class_token="cls" in model.prefix, reg_tokens=registers, no_embed_class=slots < len(model.prefix))


TIMM = {
    "plain": {},
    "sincos": KINDS["sincos"],
    "no prefix": KINDS["no prefix"],
    "no positions": {"positions": None},
    "registers": {"prefix": ("cls", "reg", "reg"), "layer_scale": 0.5, "qkv_bias": False, "channels": 2},
    "registers alone": {"prefix": ("reg", "reg")},
    "register slots": KINDS["register slots"],
    "all slots": {"prefix": ("cls", "reg", "reg"), "prefix_positions": True},
    "no slots": {"prefix": ("cls", "reg"), "prefix_positions": False},
    "distilled": {"prefix": ("cls", "dist"), "image_size": (8, 12)},
    "distilled, one slot": {"prefix": ("cls", "dist"), "prefix_positions": (False, True)},
    "distilled, no positions": {"prefix": ("cls", "dist"), "positions": None},
}
THERE_AND_BACK = {"plain": {}, "sincos": {}, "all slots": {}, "no slots": {}, "distilled": {}, "no prefix": {}, "no positions": {}}


@proves(NAME, "loop")
@pytest.mark.parametrize("name", TIMM)
def test_timm_computes_the_same(name, generator):
    model = tiny(**TIMM[name])
    weights = export(model, "timm")
    twin = timm_twin(model).eval()
    twin.load_state_dict(weights, strict=True)
    images = pictures(model, generator)
    torch.testing.assert_close(twin.forward_features(images), flat(model(images)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(flat(adapt(twin)(images)), flat(model(images)), rtol=1e-5, atol=1e-5)


@proves(NAME, "property")
@pytest.mark.parametrize("name", THERE_AND_BACK)
def test_there_and_back_is_the_identity(name):
    model = tiny(**TIMM[name])
    for state in (export(model, "timm"), timm_twin(model).state_dict() | export(model, "timm")):
        other = ViT(tuple(4 * n for n in model.base), 4, 8, 2, 2, **{k: v for k, v in TIMM[name].items() if k != "image_size"})
        assert load_official(other, state, source="timm") == ()
        for key, value in model.state_dict().items():
            assert torch.equal(other.state_dict()[key], value), key


def test_folded_registers_come_back_as_a_model_without_slots(generator):
    model = tiny(prefix=("cls", "reg", "reg"))
    other = ViT(8, 4, 8, 2, 2, prefix=("cls", "reg", "reg"), prefix_positions=False)
    load_official(other, export(model, "timm"), source="timm")
    images = pictures(model, generator)
    torch.testing.assert_close(flat(other(images)), flat(model(images)), rtol=1e-5, atol=1e-5)


TRANSFORMERS = {
    "ViT": {},
    "ViT oblong": {"image_size": (8, 12), "channels": 2},
    "ViT sincos": {"positions": "sincos", "norm_eps": 1e-12},
    "ViT no slot": {"prefix_positions": False, "qkv_bias": False},
    "ViT no positions": {"positions": None},
    "DeiT": {"prefix": ("cls", "dist")},
    "DeiT one slot": {"prefix": ("cls", "dist"), "prefix_positions": (False, True)},
    "Dinov2": {"layer_scale": 0.5},
}


@proves(NAME, "loop")
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_computes_the_same(name, generator):
    options = TRANSFORMERS[name]
    model, kind = tiny(**options), name.split()[0]
    config = {
        "image_size": tuple(4 * n for n in model.base), "hidden_size": 8, "num_channels": model.channels, "layer_norm_eps": model.norm.eps,
        "qkv_bias": options.get("qkv_bias", True), **({"use_mask_token": False} if kind == "Dinov2" else {}),
    }  # fmt: skip
    twin = transformers_model(kind, options={} if kind == "Dinov2" else {"add_pooling_layer": False}, **config).eval()
    weights = export(model, "transformers")
    twin.load_state_dict(weights, strict=True)
    images = pictures(model, generator)
    torch.testing.assert_close(twin(images).last_hidden_state, flat(model(images)), rtol=1e-5, atol=1e-5)
    start = "encoder.layer.1.attention" if kind == "Dinov2" else "layers.1.attention"
    for i, part in enumerate("qkv"):
        assert torch.equal(weights[f"{start}.{part}_proj.weight"], model.blocks[1].attn.qkv.weight[8 * i : 8 * i + 8])


@proves(NAME, "golden")
@pytest.mark.parametrize("variant", ["base", "distilled"])
def test_official_weights_come_out_as_they_went_in(golden, variant):
    official = golden("timm_vit")
    image, patch, dim, depth, heads, _ = official["config"].tolist()
    state = {name.removeprefix(f"{variant}/state/"): official.tensor(name) for name in official if name.startswith(f"{variant}/state/")}
    model = ViT(image, patch, dim, depth, heads, prefix=("cls", "dist") if variant == "distilled" else ("cls",))
    dropped = load_official(model, state, source="timm")
    weights = export(model, "timm")
    assert weights.keys() == state.keys() - set(dropped)
    for name, value in weights.items():
        assert torch.equal(value, state[name])


@proves(NAME, "property")
@settings(max_examples=25)
@given(
    to=st.sampled_from(["timm", "transformers"]),
    prefix=st.sampled_from([("cls",), ("cls", "dist")]),
    positions=st.sampled_from(["learned", "sincos", None]),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    patch=st.integers(1, 3),
    depth=st.integers(1, 12),
    qkv_bias=st.booleans(),
)
def test_every_number_is_there_once_and_safe_to_save(tmp_path_factory, to, prefix, positions, grid, patch, depth, qkv_bias):
    safetensors = pytest.importorskip("safetensors.torch")
    size = tuple(n * patch for n in grid)
    model = ViT(size, patch, 4, depth, 2, prefix=prefix, positions=positions, qkv_bias=qkv_bias, mlp_ratio=1)
    weights = export(model, to)
    assert all(value.is_contiguous() and not value.requires_grad and type(value) is torch.Tensor for value in weights.values())
    storages = {value.untyped_storage().data_ptr() for value in [*weights.values(), *model.state_dict().values()]}
    assert len(storages) == len(weights) + len(model.state_dict())
    have, table = (sum(v.numel() for v in state.values()) for state in (weights, model.state_dict()))
    slots = 0 if positions else (len(prefix) + grid[0] * grid[1]) * 4  # a table of zeros stands for none
    assert have == table + (slots if to == "transformers" or "dist" in prefix else 0)
    file = tmp_path_factory.mktemp("weights") / "model.safetensors"
    safetensors.save_file(weights, file)
    for name, value in safetensors.load_file(file).items():
        assert torch.equal(value, weights[name])


@proves(NAME, "property")
@pytest.mark.parametrize(("build", "to"), [(timm_vit, "timm"), (timm_beit, "timm"), (timm_mvit, "timm"), (torchvision_vit, "torchvision"),
                                           (torchvision_mvit, "torchvision"), (lambda: transformers_model("ViT"), "transformers"),
                                           (lambda: transformers_model("Beit", "ForImageClassification"), "transformers")])  # fmt: skip
def test_an_adapted_model_gives_its_weights_under_its_own_names(build, to):
    model = jitter(build())
    weights = export(adapt(model), to)
    assert weights.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(weights[name], value)
        assert weights[name].data_ptr() != value.data_ptr() or not value.numel()
    for other in {"timm", "torchvision", "transformers"} - {to}:
        with pytest.raises(ValueError, match=rf"export: got an adapted {to} model, to='{other}'; expected to='{to}'. To mend: take"):
            export(adapt(model), other)


@proves(NAME, "half")
@pytest.mark.parametrize("to", ["timm", "transformers"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_dtype_is_kept(to, dtype):
    model = tiny(prefix=("cls", "dist"), prefix_positions=(True, False))
    expected, got = export(model, to), export(model.to(dtype), to)
    for name, value in got.items():
        assert value.dtype == dtype
        assert torch.equal(value, expected[name].to(dtype))


@proves(NAME, "errors")
@pytest.mark.parametrize(
    ("options", "to", "message"),
    [
        (CLIPS, "timm", r"export: got a ViT with tubelets; expected images, for which its patch embedding is. To mend: export"),
        (CLIPS, "transformers", r"export: got a ViT with tubelets; expected images"),
        ({**CLIPS, "positions": "separable"}, "timm", r"export: got a ViT with tubelets"),
        (
            {"prefix": ("cls", "dist", "reg")},
            "timm",
            r"export: got a ViT with the prefix \('cls', 'dist', 'reg'\); expected cls or none, then",
        ),
        ({"prefix": ("dist",)}, "timm", r"export: got a ViT with the prefix \('dist',\); expected"),
        ({"prefix": ("reg", "cls")}, "timm", r"export: got a ViT with the prefix \('reg', 'cls'\); expected"),
        (
            {"prefix": ("cls", "reg")},
            "transformers",
            r"with the prefix \('cls', 'reg'\); expected cls .*To mend: export it to=.timm., which has",
        ),
        ({"prefix": ()}, "transformers", r"export: got a ViT with the prefix \(\); expected cls"),
        (
            {"prefix": ("cls", "dist"), "layer_scale": 1.0},
            "transformers",
            r"with the prefix \('cls', 'dist'\) and layer scale; expected cls",
        ),
        (
            {"layer_scale": 1.0, "image_size": (8, 12)},
            "transformers",
            r"got a ViT with layer scale and the grid \(2, 3\); expected a square",
        ),
        (
            {"final_norm": False},
            "transformers",
            r"export: got a ViT with final_norm=False; expected a final norm, which all its models have",
        ),
        ({}, "torchvision", r"export: got a ViT, to='torchvision'; expected .timm. or .transformers.. To mend: write to="),
        ({}, "keras", r"export: got to='keras'; expected .timm., .transformers. or .torchvision.. To mend"),
    ],
)
def test_what_cannot_be_said_is_refused(options, to, message):
    with pytest.raises(ValueError, match=message):
        export(tiny(**options), to)


@proves(NAME, "errors")
def test_what_is_no_encoder_is_refused():
    with pytest.raises(TypeError, match=r"export: got model of type MAE; expected a ViT, or what adapt returns. To mend: pass mae.encoder"):
        export(MAE(tiny(), 8, 1, 2), "timm")
    with pytest.raises(
        TypeError, match=r"load_official: got a MAE around an adapted VisionTransformer; expected one around a ViT. To mend"
    ):
        load_official(MAE(adapt(torchvision_vit()), 8, 1, 2), {"cls_token": torch.zeros(1)}, "mae")
    model = tiny()
    assert export(torch.compile(model, backend="eager"), "timm").keys() == export(model, "timm").keys()
