"""What a classifier is given: features of a frozen network."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sslkit._checks import bind_axes, need_floating, need_positive, need_whole, wrong


@torch.no_grad()
def extract_features(model: Callable[[Tensor], Tensor], images: Tensor, *, batch: int = 256,
                     device: torch.device | str | None = None) -> Tensor:  # fmt: skip
    """Features of all images, batch by batch, in evaluation mode and without gradient.

    Training mode is put back module by module, also when the model raises.

    Args:
        model: images [batch, ...] -> features [batch, ...]; a module, or any function of one.
        images: [images, ...], any dtype; moved to `device` one batch at a time.
        batch: images per call; the last one may be smaller.
        device: where `model` lives; None: where `images` are.

    Returns:
        [images, ...], float32 (float64 stays), on the device of `images`.

    Raises:
        ValueError: there is no image, `batch` is below 1, or the model does not return one row per image.
    """
    where = "extract_features"
    bind_axes(where, images=(images, "..."))
    need_whole(where, batch=batch)
    if images.ndim == 0 or len(images) == 0:
        raise wrong(where, given=f"images {list(images.shape)}", expected="at least one image",
                    mend="pass [images, channels, height, width]")  # fmt: skip
    training = {m: m.training for m in model.modules()} if isinstance(model, nn.Module) else {}
    rows: Tensor | None = None
    try:
        if isinstance(model, nn.Module):
            model.eval()
        for first in range(0, len(images), batch):
            part = images[first : first + batch]
            out = model(part.to(device) if device is not None else part)
            if not isinstance(out, Tensor) or out.ndim < 1 or len(out) != len(part):
                given = f"output {list(out.shape)}" if isinstance(out, Tensor) else f"output of type {type(out).__name__}"
                raise wrong(where, given=given, expected=f"a tensor of {len(part)} rows, one per image",
                            mend="wrap the model: lambda x: model(x).pooled('cls')")  # fmt: skip
            wide = torch.promote_types(out.dtype, torch.float32)
            if rows is None:  # filled in place: a list and a cat would hold everything twice
                rows = torch.empty(len(images), *out.shape[1:], dtype=wide, device=images.device)
            rows[first : first + len(part)] = out.to(images.device, wide)
    finally:
        for module, mode in training.items():
            module.training = mode
    return rows if rows is not None else images.new_empty(0)


def probe_features(layers: Tensor | Sequence[Tensor], *, average_pool: bool = False, interleave: bool = True) -> Tensor:
    """The input of DINO's linear probe: class tokens of the last blocks, beside each other.

        average_pool=False                   [cls of layer 0 | cls of layer 1 | ...]         DINO ViT-S: last 4 blocks
        average_pool=True, interleave=True   cls_0, avg_0, cls_1, avg_1, ...                 DINO ViT-B: last block
        average_pool=True, interleave=False  [cls of layer 0 | ... | avg of the last layer]  DINOv2

    The interleaved order is needed to load the released heads.

    Args:
        layers: [layers, batch, 1 + tokens, dim], each after the final norm, class token first, last block last.
        average_pool: adds the mean of the last layer's patch tokens.
        interleave: with `average_pool` and one layer, alternates the two kinds, entry by entry.

    Returns:
        [batch, layers * dim], plus dim with `average_pool`; float32 or wider.

    Raises:
        ValueError: wrong axes; no patch token to average; interleaving of more than one layer, which the authors' code cannot
            do either.

    Source: Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers", app. F; the order is that of the
    authors' code, which stacks class token and mean on a last axis and flattens.
    """
    where = "probe_features"
    tokens = layers if isinstance(layers, Tensor) else torch.stack(list(layers))
    sizes = bind_axes(where, layers=(tokens, "layers batch tokens dim"))
    need_floating(where, layers=tokens)
    tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    classes = tokens[:, :, 0].transpose(0, 1).flatten(1)  # [batch, layers * dim]
    if not average_pool:
        return classes
    if sizes["tokens"] < 2:
        raise wrong(where, given=f"layers {list(tokens.shape)} without patch tokens",
                    expected="a class token and at least one patch token",
                    mend="pass all tokens of the block, or average_pool=False")  # fmt: skip
    average = tokens[-1, :, 1:].mean(dim=1)  # [batch, dim]
    if not interleave:
        return torch.cat([classes, average], dim=1)
    if sizes["layers"] != 1:
        raise wrong(where, given=f"{sizes['layers']} layers with average_pool and interleave", expected="one layer",
                    mend="pass layers[-1:], or interleave=False")  # fmt: skip
    return torch.stack([classes, average], dim=2).flatten(1)


def multiscale_features(model: Callable[[Tensor], Tensor], images: Tensor,
                        scales: Sequence[float] = (1, 1 / math.sqrt(2), 1 / 2)) -> Tensor:  # fmt: skip
    """Unit-length mean of the features at several sizes.

        f = 1/S * sum over s of model(images resized by s, bilinear);   result = f / |f|

    Features of the scales are not normalised before the mean, so that a longer one counts for more.

    Args:
        model: images [batch, channels, height, width] of any size -> features [batch, dim].
        images: [batch, channels, height, width], floating.
        scales: factors of height and width; 1 passes the images as they are.

    Returns:
        [batch, dim], float32 or wider, rows of length 1 (0 for a zero feature).

    Raises:
        TypeError: `images` are not floating.
        ValueError: wrong axes, no scale, or a scale that is not above 0.

    Source: the code of Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers", retrieval on Paris.
    """
    where = "multiscale_features"
    bind_axes(where, images=(images, "batch channels height width"))
    need_floating(where, images=images)
    if not scales:
        raise wrong(where, given="no scales", expected="at least one", mend="pass scales=(1,)")
    need_positive(where, **{f"scale {number}": scale for number, scale in enumerate(scales)})
    features = []
    for scale in scales:
        # the factor itself maps the pixels, not the rounded size: the authors' code leaves recompute_scale_factor unset.
        sized = images if scale == 1 else interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
        out = model(sized)
        features.append(out.to(torch.promote_types(out.dtype, torch.float32)))
    return nn.functional.normalize(torch.stack(features).mean(dim=0), dim=1)
