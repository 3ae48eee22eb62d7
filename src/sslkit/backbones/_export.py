"""Trained weights under other libraries' names."""

import math
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor, nn

from sslkit._checks import wrong
from sslkit.backbones._adapt.base import Adapted
from sslkit.backbones.vit import ViT

Library = Literal["timm", "transformers", "torchvision"]

# transformers' names; timm's are ours. The blocks of Dinov2Model keep the names of their norms.
_HF = {
    "cls_token": "embeddings.cls_token",
    "dist_token": "embeddings.distillation_token",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_HF_VIT = {**_HF, "blocks": "layers", "norm1": "layernorm_before", "norm2": "layernorm_after"}
_HF_DINOV2 = {**_HF, "blocks": "encoder.layer", "norm1": "norm1", "norm2": "norm2", "ls1": "layer_scale1", "ls2": "layer_scale2"}


def export(model: nn.Module, to: Library) -> dict[str, Tensor]:
    """A state dict for another library's model, which loads it strictly and then computes the same.

        safetensors.torch.save_file(export(vit, "timm"), "model.safetensors")

    | ViT | `to` | loads into |
    |---|---|---|
    | cls, registers, both, none | "timm" | VisionTransformer(num_classes=0, reg_tokens=..., no_embed_class=...) |
    | cls and dist | "timm" | VisionTransformerDistilled(num_classes=0) |
    | cls | "transformers" | ViTModel(config, add_pooling_layer=False) |
    | cls and dist | "transformers" | DeiTModel(config, add_pooling_layer=False) |
    | cls, with layer scale | "transformers" | Dinov2Model(config), config.use_mask_token False |

    VisionTransformer has one flag, no_embed_class, for the slots of all prefix tokens. Where some have one and some none, as in a ViT
    with registers, the positions are added to their tokens, and the flag is True. The other models need a slot for each: absent ones are
    rows of zeros, and so is a position table that the ViT does not have. In transformers q, k and v are three matrices, the rows of our
    one; names are those of version 5.

    A state dict holds no options. Build the other model with the same depth, heads, image size, patch, channels, qkv_bias, layer scale
    (timm: init_values), final_norm and positions; without cls timm's needs class_token=False, global_pool="". Set its norm's eps: timm's is
    1e-6 like ours, that of ViTConfig and DeiTConfig 1e-12. Other image sizes are read by the other library's resampling: "antialias" in
    timm, "size" in transformers.

    An adapted model gives its own weights under its own names, head included; `to` must be its library.

    Args:
        model: a `ViT`, or what `adapt` returned.
        to: "timm" or "transformers"; "torchvision" for an adapted torchvision model.

    Returns:
        Names -> tensors, contiguous copies without a gradient that share no memory, as safetensors wants them; dtype and device kept.

    Raises:
        ValueError: the other library has no such model, or `to` is unknown.
        TypeError: the model is of another class.

    Source: the modules of timm and of transformers 5; no layer is computed, tensors are renamed, split and padded.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    if not isinstance(model, ViT | Adapted):
        raise wrong("export", given=f"model of type {type(model).__name__}", expected="a ViT, or what adapt returns",
                    mend="pass mae.encoder for a MAE, ddp.module for a DDP model; others have state_dict()", kind=TypeError)  # fmt: skip
    if to not in ("timm", "transformers", "torchvision"):
        raise wrong("export", given=f"to={to!r}", expected='"timm", "transformers" or "torchvision"', mend="write one of these words")
    if isinstance(model, Adapted):
        if to != model.library:
            raise wrong("export", given=f"an adapted {model.library} model, to={to!r}", expected=f"to={model.library!r}",
                        mend="take the weights under their own names, and convert them there")  # fmt: skip
        weights = model.model.state_dict()
    elif to == "torchvision":
        raise wrong("export", given="a ViT, to='torchvision'", expected='"timm" or "transformers"', mend='write to="timm"')
    else:
        weights = _to_timm(model) if to == "timm" else _to_transformers(model)
    # clone: no two entries in one memory
    return {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in weights.items()}


def _to_timm(model: ViT) -> dict[str, Tensor]:
    prefix = [name for name, _ in groupby(model.prefix)]
    _need(model.tubelet is None, "tubelets", "images, for which its patch embedding is", "export a model of images")
    _need(prefix in ([], ["cls"], ["reg"], ["cls", "reg"], ["cls", "dist"]), f"the prefix {model.prefix}",
          "cls or none, then registers; or cls and dist", "train with one of these")  # fmt: skip
    state, slots = dict(model.state_dict()), sum(model._has_slot)
    if "dist" in prefix:
        state["pos_embed"] = _full_table(model)
        return state
    if model.positions is None or slots in (0, len(model.prefix)):
        return state
    rows, none = iter(state["pos_embed"][0, :slots]), state["pos_embed"].new_zeros(model.dim)
    shifts = [next(rows) if has else none for has in model._has_slot]
    for name in prefix:
        own = [shift for shift, kind in zip(shifts, model.prefix, strict=True) if kind == name]
        state[f"{name}_token"] = state[f"{name}_token"] + torch.stack(own)  # [1, tokens of this kind, dim]
    state["pos_embed"] = state["pos_embed"][:, slots:]
    return state


def _to_transformers(model: ViT) -> dict[str, Tensor]:
    state = dict(model.state_dict())
    scaled = "blocks.0.ls1.gamma" in state
    _need(model.tubelet is None, "tubelets", "images, for which its patch embedding is", "export a model of images")
    _need(model.prefix == ("cls",) or (model.prefix == ("cls", "dist") and not scaled),
          f"the prefix {model.prefix}{' and layer scale' * scaled}",
          "cls (ViTModel; with layer scale Dinov2Model), or cls and dist without layer scale (DeiTModel)",
          'export it to="timm", which has registers and layer scale')  # fmt: skip
    _need("norm.weight" in state, "final_norm=False", "a final norm, which all its models have", "train with final_norm=True")
    _need(not scaled or model.base[0] == model.base[1], f"layer scale and the grid {model.base}",
          "a square grid, as which Dinov2Model reads its positions", "train with a square image_size")  # fmt: skip
    state.pop("pos_embed", None)
    names, out = _HF_DINOV2 if scaled else _HF_VIT, {"embeddings.position_embeddings": _full_table(model)}
    for name, value in state.items():
        if ".attn.qkv." in name:  # rows: all of q, all of k, all of v
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                out[_renamed(name, {**names, "attn.qkv": f"attention.{part}_proj"})] = rows
        else:
            out[_renamed(name, names)] = value
    return out


def _full_table(model: ViT) -> Tensor:
    """Positions with a slot for every prefix token: [1, prefix + tokens, dim], zeros where the model has none."""
    front = len(model.prefix)
    table = model.patch_embed.proj.weight.new_zeros(1, front + math.prod(model.base), model.dim)
    slots, places = model.positions_at(model.base)
    with torch.no_grad():
        if slots is not None:
            table[0, [i for i, has in enumerate(model._has_slot) if has]] = slots
        if places is not None:
            table[0, front:] = places
    return table


def _renamed(name: str, names: dict[str, str]) -> str:
    """A weight's name in transformers: `blocks.3.norm1.weight` -> `layers.3.layernorm_before.weight`."""
    if name in names:
        return names[name]
    if not name.startswith("blocks."):
        module, leaf = name.rsplit(".", 1)
        return f"{names[module]}.{leaf}"
    _, i, rest = name.split(".", 2)
    module, leaf = rest.rsplit(".", 1)
    return f"{names['blocks']}.{i}.{names[module]}.{'lambda1' if leaf == 'gamma' else leaf}"


def _need(fits: bool, given: str, expected: str, mend: str) -> None:
    if not fits:
        raise wrong("export", given=f"a ViT with {given}", expected=expected, mend=mend)
