"""Published weights into a `ViT` or `MAE`."""

import argparse
import math
import os
import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sslkit._checks import wrong
from sslkit.backbones._adapt.torchvision import TorchvisionMViT
from sslkit.backbones._inflate import Inflate, inflate
from sslkit.backbones.mae import MAE
from sslkit.backbones.positions import Resample, resample_positions
from sslkit.backbones.vit import ViT

Source = Literal["timm", "dino", "dinov2", "deit", "mae", "beit", "maskfeat"]
MODES: dict[str, Resample] = {"timm": "antialias", "dino": "offset", "dinov2": "offset", "deit": "size", "mae": "size", "beit": "size",
                              "maskfeat": "size"}  # fmt: skip

# Where a training checkpoint holds the weights; DINO's teacher, not its student, is what the paper evaluates.
_NESTED = ("teacher", "model", "state_dict", "model_state", "model_state_dict")
_WRAPPERS = ("module.", "_orig_mod.", "backbone.", "encoder.")
_CLASSIFIERS = ("head.", "head_dist.", "fc_norm.", "head_drop.", "lm_head.", "pred_head.", "dino_head.", "ibot_head.")
_TARGETS = ("hogs.",)  # SlowFast saves the filters of HOG with the model


def load_official(
    model: ViT | MAE | TorchvisionMViT,
    state_dict: Mapping[str, Any] | str | os.PathLike[str],
    source: Source = "timm",
    *,
    image_filters: Inflate = "central",
) -> tuple[str, ...]:
    """Loads published weights, and sets `model.resample` to the mode they were made with.

        source      resample       file
        "timm"      antialias      state dict of a timm VisionTransformer, registers and distillation token included
        "dino"      offset         backbone file, or a training checkpoint, of which the teacher is taken
        "dinov2"    offset         backbone file, or a training checkpoint; with registers antialias. A `ViT` with layer_scale=..., which
                                   has no gated MLP, so the giant model is refused
        "deit"      size           {"model": ...} or a state dict
        "mae"       size           {"model": ...}; a `MAE` takes encoder and decoder, a `ViT` the encoder alone
        "beit"      size           {"model": ...}: a `ViT` with positions="relative", layer_scale=...; its bias of keys, which cancels
                                   in the softmax, is 0
        "maskfeat"  size           {"model_state": ...} of SlowFast: a `ViT` with final_norm=False for images, adapt(maskfeat_mvit(...)) for
                                   clips, whose last norm, which the pre-training does not have, keeps its values; head and target's filters
                                   are left out

    Wrappers' names (module., backbone., encoder., _orig_mod.) are taken off in front, never inside. A position table of another number
    of tokens, of a square grid, is resampled to the model's grid, in the source's mode; one of as many is taken as it is. Classifier heads
    and projectors are left out, and so is the decoder for a `ViT`.
    A `ViT` of clips takes weights of images too: the filters are spread over the tubelet, the positions repeated over time.

    Args:
        model: a `ViT` or `MAE` of the sizes of the weights, or an adapted `maskfeat_mvit`; changed in place.
        state_dict: what `torch.load(file, weights_only=True)` gives, or the file, which is read in the same way: nothing in it is executed.
            One class is let through, `argparse.Namespace`, in which training checkpoints of DINO, DeiT and MAE keep their options.
        source: whose weights they are.
        image_filters: "central" puts them on the middle frame of a tubelet, "average" on all, divided by their number; see `inflate`.

    Returns:
        Names that were left out.

    Raises:
        ValueError: weights are missing, unexpected or of another shape, or the file holds other objects; nothing is loaded then.
        TypeError: the model is of another class, or state_dict no mapping and no file.
    """
    state_dict = _read(state_dict) if isinstance(state_dict, str | os.PathLike) else state_dict
    if isinstance(model, TorchvisionMViT) and source == "maskfeat":
        return _load_mvit(model, _unwrap(state_dict))
    if not isinstance(model, ViT | MAE) or not isinstance(state_dict, Mapping):
        raise wrong("load_official", given=f"model of type {type(model).__name__}, state_dict of type {type(state_dict).__name__}",
                    expected="a ViT or MAE, and a mapping from names to tensors, or a file",
                    mend="pass torch.load(file, weights_only=True)", kind=TypeError)  # fmt: skip
    if source not in MODES:
        raise wrong("load_official", given=f"source={source!r}", expected=f"one of {', '.join(map(repr, MODES))}",
                    mend='"timm" fits most files with names such as blocks.0.attn.qkv.weight')  # fmt: skip
    mode, encoder = MODES[source], model.encoder if isinstance(model, MAE) else model
    if not isinstance(encoder, ViT):
        raise wrong("load_official", given=f"a MAE around an adapted {type(encoder.model).__name__}", expected="one around a ViT",
                    mend="load the weights by their own library before adapt", kind=TypeError)  # fmt: skip
    weights: dict[str, Tensor] = {}
    dropped: list[str] = []
    published = _unwrap(state_dict)
    if source == "dinov2" and "register_tokens" in published:
        mode = "antialias"
    for name, tensor in _TRANSLATE.get(source, _as_it_is)(published).items():
        place = _place(name, model)
        if place is None:
            dropped.append(name)
        else:
            weights[place] = tensor
    prefix = "encoder." if isinstance(model, MAE) else ""
    filters = weights.get(f"{prefix}patch_embed.proj.weight")
    if filters is not None and filters.ndim == 4:  # of images, so the table is one over space
        _fit_positions(weights, f"{prefix}pos_embed", encoder.base[-2:], sum(encoder._has_slot), mode)
        _fit_positions(weights, "decoder_pos_embed", encoder.base[-2:], len(encoder.prefix), mode)
    inflate(weights, encoder, prefix, image_filters)
    _compare(model, weights)
    model.load_state_dict(weights)
    encoder.resample = mode
    return tuple(dropped)


def _read(file: str | os.PathLike[str]) -> Any:
    """A checkpoint's contents. The list of what may be in it is torch's own, and a namespace, whose attributes are plain values."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise wrong("load_official", given=f"{os.fspath(file)}, of which torch says: {str(error).splitlines()[0]}",
                    expected="a file of tensors, plain values and argparse.Namespace",
                    mend="take the weights out of it where you trust its author, and pass them") from error  # fmt: skip


def _unwrap(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights inside a checkpoint, their names without the wrappers in front."""
    while not any(isinstance(value, Tensor) for value in state_dict.values()):
        inner = next((key for key in _NESTED if isinstance(state_dict.get(key), Mapping)), None)
        if inner is None:
            raise wrong("load_official", given=f"a mapping with the keys {sorted(map(str, state_dict))[:8]}",
                        expected=f"names of weights, or one of {', '.join(_NESTED)} holding them",
                        mend="pass the inner state dict")  # fmt: skip
        state_dict = state_dict[inner]
    weights = {}
    for name, tensor in state_dict.items():
        while wrapper := next((w for w in _WRAPPERS if name.startswith(w)), None):
            name = name.removeprefix(wrapper)
        weights[name] = tensor
    return weights


def _as_it_is(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return weights


def _of_beit(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """unilm's names: one vector a layer scale, biases of queries and values alone, and a table of indices, which we compute."""
    out = {}
    for name, tensor in weights.items():
        if name.endswith("relative_position_index"):
            continue
        if name.endswith("attn.v_bias"):
            query = weights[name.replace("v_bias", "q_bias")]
            out[name.replace("v_bias", "qkv.bias")] = torch.cat([query, torch.zeros_like(tensor), tensor])
        elif not name.endswith("attn.q_bias"):
            out[re.sub(r"gamma_([12])$", r"ls\1.gamma", name)] = tensor
    return out


def _of_dinov2(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Blocks in chunks are numbered through; registers have timm's name here."""
    return {re.sub(r"^blocks\.\d+\.(?=\d+\.)", "blocks.", name).replace("register_tokens", "reg_token"): x for name, x in weights.items()}


# SlowFast's names in torchvision's MViT.
_MVIT = (
    (r"^patch_embed\.proj\.", "conv_proj."),
    (r"^cls_token$", "pos_encoding.class_token"),
    (r"\.attn\.proj\.", ".attn.project.0."),
    (r"\.attn\.pool_([qkv])\.", r".attn.pool_\1.pool."),
    (r"\.attn\.norm_([qkv])\.", r".attn.pool_\1.norm_act.0."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
    (r"^(blocks\.\d+)\.proj\.", r"\1.project."),
)


def _load_mvit(model: TorchvisionMViT, published: dict[str, Tensor]) -> tuple[str, ...]:
    """Loads SlowFast's video weights; the names that were left out."""
    dropped = [name for name in published if name == "mask_token" or name.startswith(_CLASSIFIERS + _TARGETS)]
    weights = {name: tensor for name, tensor in model.model.state_dict().items() if name.startswith("norm.")}
    for name in published.keys() - set(dropped):
        place = name
        for pattern, replacement in _MVIT:
            place = re.sub(pattern, replacement, place)
        weights[place] = published[name].flatten() if name == "cls_token" else published[name]
    _compare(model.model, weights)
    model.model.load_state_dict(weights)
    return tuple(dropped)


_TRANSLATE: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {"beit": _of_beit, "dinov2": _of_dinov2}


def _place(name: str, model: nn.Module) -> str | None:
    """The model's name for a published name; None for what the model has no use for."""
    decoder = name.startswith("decoder_") or name == "mask_token"
    if name.startswith(_CLASSIFIERS + _TARGETS) or (decoder and not isinstance(model, MAE)):
        return None
    return name if decoder or not isinstance(model, MAE) else f"encoder.{name}"


def _fit_positions(weights: dict[str, Tensor], name: str, base: tuple[int, ...], slots: int, mode: Resample) -> None:
    """Resamples weights[name] to the grid `base`, where it was made for another square one."""
    table = weights.get(name)
    if table is None or table.ndim != 3:
        return
    side = math.isqrt(max(table.shape[1] - slots, 0))
    if side and side**2 == table.shape[1] - slots and side**2 != math.prod(base):
        places = resample_positions(table[0, slots:], (side, side), base, mode)
        weights[name] = places.new_empty(1, slots + places.shape[0], places.shape[1])
        weights[name][0, :slots], weights[name][0, slots:] = table[0, :slots], places


def _compare(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    own = model.state_dict()
    found = {
        "missing": own.keys() - weights.keys(),
        "unexpected": weights.keys() - own.keys(),
        "of another shape": {
            f"{name} {list(weights[name].shape)} for {list(own[name].shape)}"
            for name in own.keys() & weights.keys()
            if own[name].shape != weights[name].shape
        },
    }
    if any(found.values()):
        parts = [f"{len(names)} {what} ({', '.join(sorted(names)[:6])})" for what, names in found.items() if names]
        raise wrong("load_official", given=f"weights with names {'; '.join(parts)}, at most six shown",
                    expected="exactly the model's names and shapes",
                    mend="build the model as the weights were: prefix, prefix_positions, layer_scale, depth, final_norm")  # fmt: skip
