"""Tiny models of other libraries for the tests of adapters, and how each gives its own features."""

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
    config = mvit.MultiScaleVitCfg(depths=(1, 2), embed_dim=(8, 16), num_heads=(1, 2), **options)
    return mvit.MultiScaleVit(config, img_size=(32, 32), num_classes=3)


def timm_hybrid():
    layers = pytest.importorskip("timm.layers")
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
    embed = partial(layers.HybridEmbed, stem)
    return timm_vit(embed_layer=lambda **o: embed(**{**o, "patch_size": 2}))


def torchvision_vit(**options):
    from torchvision.models.vision_transformer import VisionTransformer

    return VisionTransformer(16, 4, 2, 2, 16, 32, num_classes=3, **options)


def torchvision_mvit(**options):
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    blocks = [
        MSBlockConfig(1, 8, 16, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 2, 2]),
        MSBlockConfig(2, 16, 16, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 1, 1]),
    ]
    options = {"residual_pool": True, "residual_with_cls_embed": False, "rel_pos_embed": True, "proj_after_attn": True, **options}
    return MViT((32, 32), 4, blocks, num_classes=3, **options)


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
    build: Callable[[], nn.Module]
    features: Callable[..., torch.Tensor]
    shape: tuple[int, ...] = (3, 16, 16)
    base: tuple[int, ...] = (4, 4)
    keeps: bool = True
    apart: bool = True  # patches do not overlap

    def model(self):
        torch.manual_seed(0)
        return jitter(self.build())

    def images(self, generator, batch=2, dtype=torch.float32):
        return torch.randn(batch, *self.shape, generator=generator, dtype=dtype)


def _timm(build, **options):
    return Case(build, timm_features, **options)


def _transformers(kind, **config):
    return Case(partial(transformers_model, kind, **config), transformers_features)


_SHARED = {"use_abs_pos_emb": False, "use_shared_rel_pos_bias": True}
_MVIT = {"shape": (3, 32, 32), "keeps": False, "apart": False}
CASES = {
    "timm vit": _timm(timm_vit),
    "timm registers": _timm(partial(timm_vit, reg_tokens=2, no_embed_class=True, init_values=0.1, qk_norm=True, pre_norm=True)),
    "timm register slots": _timm(partial(timm_vit, reg_tokens=2, in_chans=2), shape=(2, 16, 16)),
    "timm no class": _timm(partial(timm_vit, class_token=False, global_pool="avg", pos_embed="none")),
    "timm dynamic": _timm(partial(timm_vit, dynamic_img_size=True, img_size=(16, 24)), shape=(3, 16, 24), base=(4, 6)),
    "timm padded": _timm(partial(timm_vit, dynamic_img_size=True, dynamic_img_pad=True), shape=(3, 14, 15)),
    "timm hybrid": _timm(timm_hybrid, apart=False),
    "timm distilled": _timm(timm_distilled),
    "timm beit": _timm(partial(timm_beit, init_values=0.1)),
    "timm beit shared": _timm(partial(timm_beit, **_SHARED, img_size=(16, 24), init_values=0.1), shape=(3, 16, 24), base=(4, 6)),
    "timm beit both": _timm(partial(timm_beit, use_rel_pos_bias=True, use_shared_rel_pos_bias=True)),
    "timm mvit": _timm(timm_mvit, **_MVIT),
    "timm mvit class": _timm(partial(timm_mvit, use_cls_token=True, use_abs_pos=True, rel_pos_type=""), **_MVIT),
    "torchvision vit": Case(torchvision_vit, torchvision_features),
    "torchvision mvit": Case(torchvision_mvit, torchvision_features, (3, 4, 32, 32), (2, 4, 4), keeps=False, apart=False),
    "torchvision mvit v1": Case(
        partial(torchvision_mvit, residual_pool=False, rel_pos_embed=False, proj_after_attn=False),
        torchvision_features, (3, 4, 32, 32), (2, 4, 4), keeps=False, apart=False,
    ),
    "transformers vit": _transformers("ViT"),
    "transformers vit head": _transformers("ViT", body="ForImageClassification"),
    "transformers deit": _transformers("DeiT"),
    "transformers dinov2": _transformers("Dinov2", layerscale_value=0.5),
    "transformers dinov2 swiglu": _transformers("Dinov2", body="ForImageClassification", use_swiglu_ffn=True),
    "transformers dinov2 registers": _transformers("Dinov2WithRegisters", num_register_tokens=2),
    "transformers beit": _transformers(
        "Beit", use_relative_position_bias=True, use_shared_relative_position_bias=True, use_mean_pooling=False
    ),
    "transformers beit shared": _transformers("Beit", use_shared_relative_position_bias=True),
    "transformers beit absolute": _transformers("Beit", use_absolute_position_embeddings=True, layer_scale_init_value=0.0),
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
