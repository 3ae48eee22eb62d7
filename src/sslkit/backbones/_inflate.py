"""Weights of an image model for a model of clips (ViViT)."""

from typing import Literal

from torch import Tensor

from sslkit._checks import wrong
from sslkit.backbones.vit import ViT

Inflate = Literal["central", "average"]


def inflate(weights: dict[str, Tensor], model: ViT, prefix: str, how: Inflate) -> None:
    """Turns the patch filters and the position table of an image model, in place, into those of `model`, which takes clips.

        central    filter[d, c, u] = image filter[d, c] at u = tubelet // 2, else 0
        average    filter[d, c, u] = image filter[d, c] / tubelet
        positions of (t, i, j) = those of (i, j); for separable tables, those over time are 0

    On a clip that stands still both give the tokens of the image model. Nothing happens if the weights are those of clips already.

    Args:
        weights: by the model's names, with `prefix` in front.
        model: its tubelet and position table say what is wanted; the space grids must be equal.
        prefix: "" or "encoder.".
        how: see above.

    Source: Arnab et al. 2021 (ViViT), sec. 3.4, eq. 8 and 9.
    """
    if how not in ("central", "average"):
        raise wrong(
            "load_official", given=f"image_filters={how!r}", expected='"central" or "average"', mend='"central" did best in the paper'
        )
    filters = weights.get(f"{prefix}patch_embed.proj.weight")
    if model.tubelet is None or filters is None or filters.ndim != 4:
        return
    wide = filters.unsqueeze(2).repeat(1, 1, model.tubelet, 1, 1) / model.tubelet
    if how == "central":
        wide.zero_()
        wide[:, :, model.tubelet // 2] = filters
    weights[f"{prefix}patch_embed.proj.weight"] = wide
    table = weights.pop(f"{prefix}pos_embed", None)
    slots = sum(model._has_slot)
    if table is None or model.positions is None:
        return
    if model.positions != "separable":
        tiled = table.new_empty(1, slots + (table.shape[1] - slots) * model.base[0], table.shape[2])
        tiled[:, :slots], tiled[:, slots:] = table[:, :slots], table[:, slots:].repeat(1, model.base[0], 1)
        weights[f"{prefix}pos_embed"] = tiled
        return
    weights[f"{prefix}pos_embed_spatial"] = table[:, slots:]
    weights[f"{prefix}pos_embed_temporal"] = table.new_zeros(1, model.base[0], table.shape[2])
    if slots:
        weights[f"{prefix}pos_embed_class"] = table[:, :slots]
