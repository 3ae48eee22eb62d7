"""Published names into our models: wrappers, nested checkpoints, other grids, and what is refused."""

import argparse
import pickle
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkit.backbones import MAE, ViT, load_official
from sslkit.backbones.positions import resample_positions
from sslkit.testing import proves

NAME = "backbones.load_official"


def tiny(size=8, **options):
    torch.manual_seed(0)
    return ViT(size, 4, 8, 1, 2, **options)


@proves(NAME, "property")
@given(
    wrappers=st.lists(st.sampled_from(["module.", "backbone.", "encoder.", "_orig_mod."]), max_size=3),
    nest=st.lists(st.sampled_from(["teacher", "model", "state_dict"]), max_size=2),
    source=st.sampled_from(["timm", "dino", "deit", "mae"]),
)
def test_wrappers_and_nests_come_off_and_every_value_arrives(wrappers, nest, source):
    weights = {name: torch.randn_like(value) for name, value in tiny().state_dict().items()}
    file = {"".join(wrappers) + name: value for name, value in {**weights, "head.weight": torch.zeros(2, 8)}.items()}
    for key in nest:
        file = {key: file, "epoch": 7}
    model = ViT(8, 4, 8, 1, 2)
    assert load_official(model, file, source) == ("head.weight",)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])
    assert model.resample == {"timm": "antialias", "dino": "offset", "deit": "size", "mae": "size"}[source]


@pytest.mark.parametrize(("source", "mode"), [("timm", "antialias"), ("dino", "offset"), ("deit", "size"), ("mae", "size")])
def test_positions_of_another_grid_are_resampled(source, mode):
    small = tiny(prefix=("cls", "dist"))
    model = ViT((12, 20), 4, 8, 1, 2, prefix=("cls", "dist"))
    load_official(model, small.state_dict(), source)
    assert torch.equal(model.pos_embed[:, :2], small.pos_embed[:, :2])
    torch.testing.assert_close(model.pos_embed[:, 2:], resample_positions(small.pos_embed[:, 2:], (2, 2), (3, 5), mode))


def test_a_saved_autoencoder_loads_in_both_forms():
    saved = MAE(tiny(positions="sincos"), 8, 1, 2)
    official = {name.removeprefix("encoder."): value for name, value in saved.state_dict().items()}
    for state in (official, saved.state_dict()):
        model = MAE(ViT(8, 4, 8, 1, 2, positions="sincos"), 8, 1, 2)
        assert load_official(model, state, "mae") == ()
        for name, value in model.state_dict().items():
            assert torch.equal(value, saved.state_dict()[name])
    larger = MAE(ViT(16, 4, 8, 1, 2, positions="sincos"), 8, 1, 2)
    load_official(larger, official, "mae")
    expected = resample_positions(saved.decoder_pos_embed[:, 1:], (2, 2), (4, 4), "size")
    torch.testing.assert_close(larger.decoder_pos_embed[:, 1:], expected)


def training_checkpoint(weights):
    """What DINO's main_dino.py saves: both networks, of which the student is wrapped for several processes, and its options."""
    head = {"head.mlp.0.weight": torch.zeros(2, 8), "head.last_layer.weight_g": torch.ones(2, 1)}
    inside = {"encoder.module.weight": torch.zeros(1)}  # a wrapper's name that is no prefix stays where it is
    teacher = {f"backbone.{name}": value for name, value in weights.items()} | head
    student = {f"module.{name}": torch.full_like(value, torch.nan) for name, value in teacher.items()}
    options = argparse.Namespace(arch="vit_tiny", patch_size=4, lr=5e-4, local_crops_scale=(0.05, 0.4), use_fp16=True, dist_url="env://")
    return {"student": student, "teacher": teacher, "optimizer": {"state": {0: inside}, "param_groups": []}, "epoch": 3, "args": options,
            "dino_loss": {"center": torch.zeros(1, 2)}}  # fmt: skip


@proves(NAME, "property")
def test_a_training_checkpoint_is_read_with_its_namespace_and_nothing_else(tmp_path):
    weights = {name: torch.randn_like(value) for name, value in tiny().state_dict().items()}
    torch.save(training_checkpoint(weights), tmp_path / "checkpoint.pth")
    with pytest.raises(pickle.UnpicklingError, match="argparse.Namespace"):  # so a user meets it
        torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    for file in (tmp_path / "checkpoint.pth", str(tmp_path / "checkpoint.pth")):
        model = ViT(8, 4, 8, 1, 2)
        assert set(load_official(model, file, "dino")) == {"head.mlp.0.weight", "head.last_layer.weight_g"}
        for name, value in model.state_dict().items():
            assert torch.equal(value, weights[name])  # the teacher's: the student is all NaN
        assert model.resample == "offset"
    assert argparse.Namespace not in torch.serialization.get_safe_globals()  # nothing is left behind
    for stranger in (Stranger(), argparse.Namespace(inner=Stranger())):
        torch.save({"teacher": weights, "args": stranger}, tmp_path / "other.pth")
        with pytest.raises(ValueError, match=r"load_official: got .*other.pth, of which torch says: .* expected a file of tensors, plain"):
            load_official(ViT(8, 4, 8, 1, 2), tmp_path / "other.pth", "dino")
    assert not Stranger.built


class Stranger:
    """A class of somebody's own, which loading must not build."""

    built = False

    def __reduce__(self):
        return setattr, (Stranger, "built", True)


def test_wrappers_inside_of_a_name_stay(tmp_path):
    """DINO's own code takes `module.` and `backbone.` out wherever they stand, and so mixes names up."""
    weights = tiny().state_dict()
    with pytest.raises(ValueError, match=r"1 unexpected \(blocks.0.module.norm1.weight\)"):
        load_official(tiny(), {f"module.{name}": x for name, x in weights.items()} | {"module.blocks.0.module.norm1.weight": torch.ones(8)})


@pytest.mark.parametrize(("registers", "mode"), [(0, "offset"), (2, "antialias")])
@pytest.mark.parametrize("chunked", [False, True])
def test_dinov2s_names(registers, mode, chunked):
    """Blocks in chunks keep their number in the whole; registers, and the mode that goes with them."""
    torch.manual_seed(0)
    build = partial(ViT, patch=4, dim=8, depth=3, heads=2, prefix=("cls", *["reg"] * registers), layer_scale=1.0)
    saved = build(image_size=8)
    names = {"reg_token": "register_tokens"} | {f"blocks.{i}.": f"blocks.{i // 2}.{i}." for i in range(3) if chunked}
    published = {"mask_token": torch.zeros(1, 8), "dino_head.mlp.0.weight": torch.zeros(2, 8), "ibot_head.mlp.0.weight": torch.zeros(2, 8)}
    for name, value in saved.state_dict().items():
        old = next((old for old in names if name.startswith(old)), "")
        published[names.get(old, "") + name.removeprefix(old)] = value
    model = build(image_size=12)
    dropped = load_official(model, {"teacher": {f"backbone.{name}": value for name, value in published.items()}}, "dinov2")
    assert set(dropped) == {"mask_token", "dino_head.mlp.0.weight", "ibot_head.mlp.0.weight"}
    assert model.resample == mode
    table = resample_positions(saved.pos_embed[0, 1:], (2, 2), (3, 3), mode)
    for name, value in model.state_dict().items():
        expected = torch.cat([saved.pos_embed[:, :1], table[None]], dim=1) if name == "pos_embed" else saved.state_dict()[name]
        assert torch.equal(value, expected), name


@proves(NAME, "property")
def test_slowfasts_names_of_pictures(generator):
    """MaskFeat's ViT, of one block: every published name and shape, without a last norm, with the head, its token and HOG's filters."""
    encoder = {
        "cls_token": (1, 1, 8), "pos_embed": (1, 5, 8), "patch_embed.proj.weight": (8, 3, 4, 4), "patch_embed.proj.bias": (8,),
        "blocks.0.norm1.weight": (8,), "blocks.0.norm1.bias": (8,), "blocks.0.attn.qkv.weight": (24, 8), "blocks.0.attn.qkv.bias": (24,),
        "blocks.0.attn.proj.weight": (8, 8), "blocks.0.attn.proj.bias": (8,), "blocks.0.norm2.weight": (8,), "blocks.0.norm2.bias": (8,),
        "blocks.0.mlp.fc1.weight": (32, 8), "blocks.0.mlp.fc1.bias": (32,), "blocks.0.mlp.fc2.weight": (8, 32),
        "blocks.0.mlp.fc2.bias": (8,),
    }  # fmt: skip
    others = {"mask_token": (1, 1, 8), "pred_head.projections.0.weight": (12, 8), "pred_head.projections.0.bias": (12,),
              "hogs.0.weight_x": (3, 1, 3, 3), "hogs.0.weight_y": (3, 1, 3, 3)}  # fmt: skip
    weights = {name: torch.randn(shape, generator=generator) for name, shape in (encoder | others).items()}
    file = {"epoch": 299, "model_state": weights, "optimizer_state": {"state": {}}, "cfg": "MODEL:"}
    model = tiny(final_norm=False)
    assert set(load_official(model, file, "maskfeat")) == others.keys()
    assert model.resample == "size"
    assert model.state_dict().keys() == encoder.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    with pytest.raises(ValueError, match=r"2 missing \(norm.bias, norm.weight\).* To mend: build .* final_norm"):
        load_official(tiny(), file, "maskfeat")
    larger = tiny(12, final_norm=False)
    load_official(larger, file, "maskfeat")
    torch.testing.assert_close(larger.pos_embed[0, 1:], resample_positions(weights["pos_embed"][0, 1:], (2, 2), (3, 3), "size"))


@proves(NAME, "loop")
@pytest.mark.parametrize("positions", ["learned", "separable", None])
@pytest.mark.parametrize("how", ["central", "average"])
def test_a_clip_that_stands_still_gives_the_tokens_of_its_picture(positions, how, generator):
    """Without a prefix, whole outputs agree too: every token sees each of its likes as often."""
    image = tiny(prefix=(), positions="learned" if positions else None)
    for tubelet in (1, 2, 3):
        clip = ViT(8, 4, 8, 1, 2, prefix=(), positions=positions, tubelet=tubelet, frames=2 * tubelet)
        assert load_official(clip, image.state_dict(), image_filters=how) == ()
        pictures = torch.randn(2, 3, 8, 8, generator=generator)
        still = pictures[:, :, None].expand(-1, -1, 2 * tubelet, -1, -1)
        expected = image(pictures).patches
        torch.testing.assert_close(clip.patch_embed(still), image.patch_embed(pictures).repeat(1, 2, 1), rtol=0, atol=1e-6)
        torch.testing.assert_close(clip(still).patches, expected.repeat(1, 2, 1), rtol=1e-5, atol=1e-5)
        for u in range(tubelet):
            share = {"central": float(u == tubelet // 2), "average": 1 / tubelet}[how]
            torch.testing.assert_close(clip.patch_embed.proj.weight[:, :, u], share * image.patch_embed.proj.weight)
    slotted, source = ViT(8, 4, 8, 1, 2, positions=positions, tubelet=2, frames=4), tiny(positions="learned" if positions else None)
    load_official(slotted, source.state_dict(), image_filters=how)
    if positions:
        assert torch.equal(slotted.positions_at((2, 2, 2))[0], source.positions_at((2, 2))[0])


@proves(NAME, "half")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_arrive_unchanged(dtype):
    weights = tiny().to(dtype).state_dict()
    model = tiny()
    load_official(model, weights)
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, weights[name].float())


@proves(NAME, "errors")
def test_errors():
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = tiny().state_dict()
    del state["norm.bias"]
    with pytest.raises(
        ValueError, match=r"load_official: got weights with names 1 missing \(norm.bias\), at most six.* To mend: build the"
    ):
        load_official(model, state)
    with pytest.raises(ValueError, match=r"got weights with names 2 unexpected \(blocks.0.ls1.gamma, blocks.0.ls2.gamma\)"):
        load_official(model, tiny(layer_scale=0.1).state_dict())
    with pytest.raises(ValueError, match=r"18 of another shape \(blocks.0.attn.proj.bias \[4\] for \[8\], "):
        load_official(model, ViT(8, 4, 4, 1, 2).state_dict())
    with pytest.raises(ValueError, match=r"1 of another shape \(pos_embed \[1, 6, 8\] for \[1, 5, 8\]\)"):
        load_official(model, {**tiny().state_dict(), "pos_embed": torch.zeros(1, 6, 8)})
    with pytest.raises(
        ValueError,
        match=r"load_official: got source='clip'; expected one of 'timm', 'dino', 'dinov2', 'deit', 'mae', 'beit', 'maskfeat'. To mend",
    ):
        load_official(model, state, "clip")
    with pytest.raises(ValueError, match=r"load_official: got image_filters='mean'; expected .central. or .average.. To mend"):
        load_official(model, tiny().state_dict(), image_filters="mean")
    with pytest.raises(ValueError, match=r"load_official: got a mapping with the keys \['epoch'\]; expected names of weights, or one of"):
        load_official(model, {"epoch": 3})
    with pytest.raises(TypeError, match=r"load_official: got model of type Linear, state_dict of type dict; expected a ViT or MAE"):
        load_official(torch.nn.Linear(1, 1), {})
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
