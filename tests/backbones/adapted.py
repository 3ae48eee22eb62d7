"""Tiny models of other libraries for the tests of adapters: how each gives its own features, and what is promised of it.

`python -m tests.backbones.test_adapt_page` writes docs/adapters.md from the promises, to which the tests of test_adapt_table.py hold each
model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn

SIZE = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
CONFIG = {"image_size": 16, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def jitter(model):
    """Weights of ordinary size everywhere, so that every part shows in the output."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def timm_vit(**options):
    return pytest.importorskip("timm.models.vision_transformer").VisionTransformer(**{**SIZE, **options})


def timm_distilled(**options):
    return pytest.importorskip("timm.models.deit").VisionTransformerDistilled(**{**SIZE, **options})


def timm_beit(**options):
    return pytest.importorskip("timm.models.beit").Beit(**{**SIZE, **options})


def timm_mvit(**options):
    mvit = pytest.importorskip("timm.models.mvitv2")
    sizes = {"img_size": options.pop("img_size", (32, 32)), "in_chans": options.pop("in_chans", 3)}
    config = mvit.MultiScaleVitCfg(depths=(1, 2), embed_dim=(8, 16), num_heads=(1, 2), **options)
    return mvit.MultiScaleVit(config, num_classes=3, **sizes)


def timm_hybrid(**options):
    layers = pytest.importorskip("timm.layers")
    stem = nn.Sequential(nn.Conv2d(options.get("in_chans", 3), 8, 3, stride=2, padding=1), nn.ReLU())
    embed = partial(layers.HybridEmbed, stem)
    return timm_vit(embed_layer=lambda **o: embed(**{**o, "patch_size": 2}), **options)


def timm_parallel(**options):
    return timm_vit(block_fn=pytest.importorskip("timm.models.vision_transformer").ParallelScalingBlock, **options)


def torchvision_vit(**options):
    """conv_proj: channels of the convolution that stands in the place of the model's own."""
    from torchvision.models.vision_transformer import VisionTransformer

    channels = options.pop("conv_proj", None)
    model = VisionTransformer(options.pop("image_size", 16), 4, 2, 2, 16, 32, num_classes=3, **options)
    if channels is not None:
        model.conv_proj = nn.Conv2d(channels, 16, 4, 4)
    return model


def torchvision_mvit(**options):
    """conv_proj: as in torchvision_vit."""
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    blocks = [
        MSBlockConfig(1, 8, 16, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 2, 2]),
        MSBlockConfig(2, 16, 16, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 1, 1]),
    ]
    options = {"residual_pool": True, "residual_with_cls_embed": False, "rel_pos_embed": True, "proj_after_attn": True, **options}
    channels = options.pop("conv_proj", None)
    model = MViT(options.pop("spatial_size", (32, 32)), 4, blocks, num_classes=3, **options)
    if channels is not None:
        model.conv_proj = nn.Conv3d(channels, 8, (3, 7, 7), (2, 4, 4), (1, 3, 3))
    return model


def transformers_model(kind, body="Model", options=None, **config):
    library = pytest.importorskip("transformers")
    settings = getattr(library, f"{kind}Config")(**{**CONFIG, **config})
    return getattr(library, f"{kind}{body}")(settings, **(options or {}))


def timm_features(model, images):
    return model.forward_features(images)


def transformers_features(model, images, **options):
    return model.base_model(images, **options).last_hidden_state


def torchvision_features(model, images):
    """What leaves the last norm while the model runs as its authors wrote it."""
    seen = []
    last = model.encoder.ln if hasattr(model, "encoder") else model.norm
    handle = last.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))  # the head works in place
    model(images)
    handle.remove()
    return seen[0]


@dataclass(frozen=True)
class Case:
    build: Callable[..., nn.Module]
    features: Callable[..., torch.Tensor]
    kind: str  # library and class
    shape: tuple[int, ...] = (3, 16, 16)
    base: tuple[int, ...] = (4, 4)
    # What is promised of it.
    keeps: bool = True  # `keep`, and so MAE
    apart: bool = True  # patches do not overlap
    attends: bool = True  # `attention_of`
    takes: str = "built"  # at a call, images of: "any" size; "multiples" of the patch; the size that it was "built" for or "set" to
    refuses: str = ""  # words of the error that any other size meets
    oblong: str = ""  # its option that names the size, "" if it can only be built for square images
    oblong_refuses: str = ""  # words of the error that non-square images meet, also in a model built for them
    channels: str = ""  # its option that names their number, or the part to be replaced
    made: str = ""  # how it is built, where its options do not say so

    def model(self, **options):
        torch.manual_seed(0)
        return jitter(self.build(**options))

    def images(self, generator, batch=2, dtype=torch.float32):
        return torch.randn(batch, *self.shape, generator=generator, dtype=dtype)

    @property
    def patch(self):
        return 4 if self.keeps else 8

    @property
    def options(self):
        return self.made or ", ".join(f"{name}={value!r}" for name, value in getattr(self.build, "keywords", {}).items() if name != "kind")


_BUILT = "for which it was built. To mend: "
_TABLES = "its positions are tables for a grid"  # of MViT
_MULTIPLE = "expected a positive multiple of 4"
_SQUARE = "expected a model built for square images, as which the library reads its position table"
_TIMM_SIZES = {
    "VisionTransformer": ("set", f"{_BUILT}build it with dynamic_img_size=True, or call its set_input_size before"),
    "VisionTransformerDistilled": ("set", f"{_BUILT}build it with dynamic_img_size=True, or call its set_input_size before"),
    "Beit": ("set", f"{_BUILT}call its set_input_size before"),
    "MultiScaleVit": ("built", _TABLES),
}


def _timm(kind, build, **options):
    takes, refuses = _TIMM_SIZES[kind]
    options = {"takes": takes, "refuses": refuses, "oblong": "img_size", **options}
    return Case(build, timm_features, f"timm {kind}", channels="in_chans", **options)


def _torchvision(kind, build, **options):
    return Case(build, torchvision_features, f"torchvision {kind}", channels="conv_proj", **options)


def _transformers(kind, body="Model", oblong_refuses="", **config):
    return Case(
        partial(transformers_model, kind, body, **config), transformers_features, f"transformers {kind}{body}",
        takes="multiples", refuses=_MULTIPLE, oblong="image_size", oblong_refuses=oblong_refuses,
        channels="num_channels",
    )  # fmt: skip


_VIT, _DISTILLED, _BEIT, _MULTI = _TIMM_SIZES
_DYNAMIC = {"takes": "multiples", "refuses": _MULTIPLE}
_SHARED = {"use_abs_pos_emb": False, "use_shared_rel_pos_bias": True}
_POOLING = {"keeps": False, "apart": False, "attends": False}
_MVIT = {**_POOLING, "shape": (3, 32, 32)}
_CLIPS = {
    **_POOLING, "shape": (3, 4, 32, 32), "base": (2, 4, 4), "refuses": _TABLES, "oblong": "spatial_size",
}  # fmt: skip
CASES = {
    "timm vit": _timm(_VIT, timm_vit),
    "timm registers": _timm(_VIT, partial(timm_vit, reg_tokens=2, no_embed_class=True, init_values=0.1, qk_norm=True, pre_norm=True)),
    "timm register slots": _timm(_VIT, partial(timm_vit, reg_tokens=2, in_chans=2), shape=(2, 16, 16)),
    "timm no class": _timm(_VIT, partial(timm_vit, class_token=False, global_pool="avg", pos_embed="none")),
    "timm dynamic": _timm(_VIT, partial(timm_vit, dynamic_img_size=True, img_size=(16, 24)), shape=(3, 16, 24), base=(4, 6), **_DYNAMIC),
    "timm padded": _timm(_VIT, partial(timm_vit, dynamic_img_size=True, dynamic_img_pad=True), shape=(3, 14, 15), takes="any", refuses=""),
    "timm hybrid": _timm(_VIT, timm_hybrid, apart=False, made="embed_layer=HybridEmbed of an overlapping convolution"),
    "timm parallel": _timm(_VIT, timm_parallel, attends=False, made="block_fn=ParallelScalingBlock"),
    "timm distilled": _timm(_DISTILLED, timm_distilled),
    "timm beit": _timm(_BEIT, partial(timm_beit, init_values=0.1)),
    "timm beit shared": _timm(_BEIT, partial(timm_beit, **_SHARED, img_size=(16, 24), init_values=0.1), shape=(3, 16, 24), base=(4, 6)),
    "timm beit both": _timm(_BEIT, partial(timm_beit, use_rel_pos_bias=True, use_shared_rel_pos_bias=True)),
    "timm mvit": _timm(_MULTI, timm_mvit, **_MVIT, oblong="", oblong_refuses=_TABLES),
    "timm mvit class": _timm(_MULTI, partial(timm_mvit, use_cls_token=True, use_abs_pos=True, rel_pos_type=""), **_MVIT),
    "timm mvit no tables": _timm(_MULTI, partial(timm_mvit, rel_pos_type=""), **_MVIT, takes="any", refuses=""),
    "torchvision vit": _torchvision(
        "VisionTransformer", torchvision_vit, refuses="the only size that torchvision's takes",
        oblong_refuses="the only size that torchvision's takes",
    ),
    "torchvision mvit": _torchvision("MViT", torchvision_mvit, **_CLIPS),
    "torchvision mvit v1": _torchvision(
        "MViT", partial(torchvision_mvit, residual_pool=False, rel_pos_embed=False, proj_after_attn=False), **_CLIPS
    ),
    "transformers vit": _transformers("ViT"),
    "transformers vit head": _transformers("ViT", "ForImageClassification"),
    "transformers deit": _transformers("DeiT"),
    "transformers dinov2": _transformers("Dinov2", oblong_refuses=_SQUARE, layerscale_value=0.5),
    "transformers dinov2 swiglu": _transformers("Dinov2", "ForImageClassification", oblong_refuses=_SQUARE, use_swiglu_ffn=True),
    "transformers dinov2 registers": _transformers("Dinov2WithRegisters", oblong_refuses=_SQUARE, num_register_tokens=2),
    "transformers beit": _transformers(
        "Beit", use_relative_position_bias=True, use_shared_relative_position_bias=True, use_mean_pooling=False
    ),
    "transformers beit shared": _transformers("Beit", use_shared_relative_position_bias=True),
    "transformers beit absolute": _transformers(
        "Beit", oblong_refuses=_SQUARE, use_absolute_position_embeddings=True, layer_scale_init_value=0.0
    ),
}  # fmt: skip
KEEPING = [name for name, case in CASES.items() if case.keeps]
APART = [name for name, case in CASES.items() if case.apart]


class Flat(nn.Module):
    """An adapter as a function of images to one tensor of all its output tokens."""

    def __init__(self, adapted, **options):
        super().__init__()
        self.adapted, self.options = adapted, options

    def forward(self, images):
        return flat(self.adapted(images, **self.options))


def flat(tokens):
    return torch.cat([tokens.prefix, tokens.patches], dim=1)


def pixels(mask, shape):
    """The hidden pixels of a mask: [batch, 1, *shape], each patch 4 on a side; what lies past the picture is cut off."""
    hidden = mask.mask.view(-1, 1, *mask.grid)
    for axis in range(2, hidden.ndim):
        hidden = hidden.repeat_interleave(4, axis)
    return hidden[..., : shape[-2], : shape[-1]]
