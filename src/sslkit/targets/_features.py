"""What a frozen network sees at every token: MaskFeat's deep features and pseudo-labels."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sslkit._checks import wrong
from sslkit.kernels import gather_tokens


def features(model: Callable[[Tensor], Any], images: Tensor, *, grid: tuple[int, ...] | None = None, ids: Tensor | None = None,
             normalize: bool = True) -> Tensor:  # fmt: skip
    """The teacher's features at every token, of unit length.

        f = model(images) at token n, resized to `grid`
        out[b, n] = f / max(|f|, 1e-12)

    With a student's prediction of unit length too, the mean over hidden tokens of |prediction - out|^2 is 2 - 2 cos.

    Args:
        model: images -> an object with `patches` [batch, tokens, dim] and `grid` (any `sslkit.backbones` network, `adapt(...)`), or a map
            [batch, dim, height, width]; for clips [batch, dim, time, height, width]. In evaluation mode: nothing in it may move. That is
            checked of a module; of a module's method, whether all of it is in training mode; a function hides its modules.
        images: what the model takes; not masked.
        grid: tokens of the student, (h, w) or (t, h, w); None: the model's own. Another grid is resampled bilinearly between the centres
            of its cells, as are the 7 x 7 maps of a ConvNet for 14 x 14 tokens (the paper does not say how; this is our choice).
        ids: [batch, kept]: only these tokens, `mask.ids_hidden` say.
        normalize: False leaves the lengths.

    Returns:
        [batch, tokens or kept, dim], float32 or wider, no gradient.

    Raises:
        ValueError: a module in training mode, a result that is neither tokens nor a map, a grid of other axes or below 1.
        IndexError: an id outside of the grid, on CPU; see `gather_tokens`.

    Source: Wei et al. 2022 (MaskFeat), sec. 3.2 "Deep features" and table 1.
    """
    out = _rows("features", model, images, grid, ids)
    return functional.normalize(out, dim=-1) if normalize else out


def pseudo_labels(model: Callable[[Tensor], Any], images: Tensor, *, grid: tuple[int, ...] | None = None,
                  ids: Tensor | None = None) -> Tensor:  # fmt: skip
    """The class that a frozen classifier gives every token: the target of a cross-entropy.

        out[b, n] = argmax over classes of  scores at token n, resized to `grid`

    A classifier of pooled features gives scores at every place if its head is applied before the mean:

        model = lambda images: einsum(head.weight, convnet.maps(images), "k d, b d h w -> b k h w") + head.bias[:, None, None]

    Args:
        model: as for `features`; its channels are classes.
        images: what the model takes; not masked.
        grid: as for `features`; scores are resampled, not classes.
        ids: [batch, kept]: only these tokens.

    Returns:
        [batch, tokens or kept] int64, no gradient.

    Raises:
        ValueError, IndexError: as for `features`.

    Source: Wei et al. 2022 (MaskFeat), sec. 3.2 "Pseudo-label", after Jiang et al. 2021 (token labeling).
    """
    return _rows("pseudo_labels", model, images, grid, ids).argmax(dim=-1)


def _rows(where: str, model: Callable[[Tensor], Any], images: Tensor, grid: tuple[int, ...] | None, ids: Tensor | None) -> Tensor:
    """[batch, tokens or kept, dim] of the model's answer, on the grid."""
    owner = getattr(model, "__self__", model)  # of a bound method, such as model.maps
    parts = dict(owner.named_modules()) if isinstance(owner, nn.Module) else {}
    moving = [name or type(part).__name__ for name, part in parts.items() if part.training]
    if moving and (owner is model or len(moving) == len(parts)):  # a method may use a frozen part of what else is trained
        raise wrong(where, given=f"a model whose {moving[0]} is in training mode", expected="a frozen model",
                    mend="call model.eval().requires_grad_(False) once")  # fmt: skip
    with torch.no_grad():
        out = model(images)
        if isinstance(out, Tensor) and out.ndim == images.ndim:
            maps = out  # [batch, dim, *axes]
        elif hasattr(out, "patches") and hasattr(out, "grid"):
            maps = out.patches.mT.unflatten(-1, out.grid)
        else:
            shape = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise wrong(where, given=f"{shape} from the model", expected="tokens with .patches and .grid, or a map [batch, dim, h, w]",
                        mend="wrap the model with sslkit.backbones.adapt, or stop it before its pooling")  # fmt: skip
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
        grid = tuple(maps.shape[2:]) if grid is None else tuple(grid)
        if len(grid) != maps.ndim - 2 or min(grid) < 1:
            raise wrong(where, given=f"grid {grid} for a map {list(maps.shape)}", expected=f"{maps.ndim - 2} axes from 1 on",
                        mend="pass the grid of the student's tokens")  # fmt: skip
        if grid != tuple(maps.shape[2:]):
            maps = functional.interpolate(maps, size=grid, mode="bilinear" if len(grid) == 2 else "trilinear", antialias=False)
        tokens = maps.flatten(2).mT.contiguous()  # [batch, tokens, dim]
        return tokens if ids is None else gather_tokens(tokens, ids)
