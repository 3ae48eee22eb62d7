"""Other libraries' models behind the interface of our ViT."""

from typing import Any

from torch import nn

from sslkit._checks import wrong
from sslkit.backbones._adapt.base import Adapted, is_a
from sslkit.backbones._adapt.timm import TimmBeit, TimmMViT, TimmViT
from sslkit.backbones._adapt.torchvision import TorchvisionMViT, TorchvisionViT
from sslkit.backbones._adapt.transformers import TransformersBeit, TransformersDinov2, TransformersViT

# Class -> adapter, and the method that the adapter writes out: a subclass that changes it is another model.
_KNOWN: dict[str, tuple[type[Any], str]] = {
    "timm.models.vision_transformer.VisionTransformer": (TimmViT, "forward_features"),
    "timm.models.beit.Beit": (TimmBeit, "forward_features"),
    "timm.models.mvitv2.MultiScaleVit": (TimmMViT, "forward_features"),
    "torchvision.models.vision_transformer.VisionTransformer": (TorchvisionViT, "forward"),
    "torchvision.models.video.mvit.MViT": (TorchvisionMViT, "forward"),
    "transformers.models.vit.modeling_vit.ViTModel": (TransformersViT, "forward"),
    "transformers.models.deit.modeling_deit.DeiTModel": (TransformersViT, "forward"),
    "transformers.models.dinov2.modeling_dinov2.Dinov2Model": (TransformersDinov2, "forward"),
    "transformers.models.dinov2_with_registers.modeling_dinov2_with_registers.Dinov2WithRegistersModel": (TransformersDinov2, "forward"),
    "transformers.models.beit.modeling_beit.BeitModel": (TransformersBeit, "forward"),
}
_WRAPPERS = {"DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule", "DataParallel"}


def adapt(model: nn.Module) -> Adapted:
    """A user's model with the interface of `ViT`: the same weights and modules, called in the model's own order.

        encoder = adapt(timm.create_model("vit_base_patch16_224", num_classes=0))
        tokens = encoder(images, keep=mask)                    # or replace=mask, mask_token=token, layers=(-1,), attention_of=-1

    | model | `keep` | `replace` | `attention_of` | other sizes |
    |---|---|---|---|---|
    | timm VisionTransformer, VisionTransformerDistilled | yes | yes | plain attention | with dynamic_img_size |
    | timm Beit | yes | yes | yes | by its set_input_size |
    | timm MultiScaleVit | no | on the stem's grid | no | no |
    | torchvision VisionTransformer | yes | yes | yes | no |
    | torchvision MViT (clips) | no | on the stem's grid | no | no |
    | transformers ViT, DeiT, Dinov2 (also with registers), Beit | yes | yes | yes | yes |

    Without masks the tokens are those of the model itself, bit for bit: timm's `forward_features`, transformers' `last_hidden_state`,
    torchvision's encoder after its last norm. Drop path, dropout, gradient checkpointing and hooks of submodules act as they do there.

    Hidden patches are selected away, never blended, and blanked before the patch embedding where patches do not overlap: no value there,
    NaN included, reaches a result or a gradient. Overlapping stems (MViT, hybrids) let visible tokens see a border of hidden ones, as the
    published models do. In Beit, `keep` gathers the rows and columns of the relative bias. In MViT, masks may lie on `model.base`, the grid
    of the last block, and are enlarged to the stem's by nearest neighbour; `layers` have the grids and sizes of their blocks.

    The model is not copied: `encoder.model` is the user's object, and training the one trains the other. What is unused of it, such as a
    head or pooler, stays in the state dict without gradient, which DDP must be told (find_unused_parameters=True), or build the model
    without. Wrap and compile after adapting: `DDP(adapt(model))`, `torch.compile(adapt(model))`; a compiled model is taken for what it
    compiles.

    Args:
        model: of a class in the table, bare or, in transformers, with a head. The library is known by the class, never imported.

    Returns:
        A module called like `ViT`, with `dim`, `patch`, `tubelet`, `channels`, `prefix`, `base` and `resample`; `MAE` takes it too.

    Raises:
        TypeError: the model is of another class, derived from a known one with a forward pass of its own, or wrapped.
        ValueError: its patches are not square; at a call, images or masks do not fit, or the model cannot do what is asked for.

    Source: the forward passes of timm, torchvision and transformers; Fan et al. 2021 (MViT) and Wei et al. 2022 (MaskFeat), sec. 3.2, for
    masks on the stem.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    if {c.__name__ for c in type(model).__mro__} & _WRAPPERS:
        raise wrong("adapt", given=f"a model wrapped in {type(model).__name__}", expected="the bare model: its wrapper would be passed by",
                    mend="wrap what adapt returns", kind=TypeError)  # fmt: skip
    body = model.base_model if is_a(model, "transformers.modeling_utils.PreTrainedModel") else model  # without the head
    for base in type(body).__mro__:
        adapter, method = _KNOWN.get(f"{base.__module__}.{base.__qualname__}", (None, ""))
        if adapter is None:
            continue
        if getattr(type(body), method) is not getattr(base, method):
            raise wrong("adapt", given=f"a {type(body).__name__} with a {method} of its own", expected=f"that of {base.__qualname__}",
                        mend="give it the interface of ViT.forward yourself", kind=TypeError)  # fmt: skip
        return adapter(model)  # type: ignore[no-any-return]
    known = ", ".join(f"{name.split('.')[0]} {name.rsplit('.', 1)[1]}" for name in _KNOWN)
    raise wrong("adapt", given=f"a {type(model).__module__}.{type(model).__qualname__}", expected=f"one of {known}",
                mend="write a module with the interface of ViT.forward, or mask pixels before your model", kind=TypeError)  # fmt: skip
