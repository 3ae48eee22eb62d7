"""Parameter groups for optimisers. The optimisers themselves are torch's and timm's."""

import re
from typing import Any

from torch import Tensor, nn

from sslkit._checks import need_between, wrong

__all__ = ["layer_decay_groups"]

_BLOCK = re.compile(r"(?P<owner>(?:.*\.)?)blocks\.(?P<number>\d+)\.")
_TABLE = re.compile(r"(?:cls|dist|reg)_token|pos_embed\w*")  # tokens and positions


def layer_decay_groups(model: nn.Module, *, weight_decay: float, decay: float) -> list[dict[str, Any]]:
    """Parameter groups of a vision transformer whose early layers learn at a smaller rate.

        lr_scale = decay ** (depth + 1 - id)    id = 0      patch embedding, class, distillation and register tokens, positions
                                                id = i + 1  block i
                                                id = depth + 1, so lr_scale = 1: everything else, as the last norm and the head
        weight_decay = 0 for tensors of one axis, for the tokens and for the positions

    The optimiser does not know `lr_scale`; whoever sets the rate multiplies it, every step:

        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]

    Args:
        model: a `ViT`, or a module that contains one, wrapped or not; the names are timm's and the public checkpoints'.
        weight_decay: of the other tensors.
        decay: rate of a layer over that of the next, in (0, 1]; 1 leaves all rates equal.

    Returns:
        From the input to the head, {"params", "lr_scale", "weight_decay"}; parameters that need no gradient are left out.

    Raises:
        ValueError: `model` has no blocks, or those of several transformers; decay or weight_decay out of range.

    timm's `param_groups_layer_decay` gives the same for timm's models that pool the mean. It leaves all rates equal for a module without
    timm's `group_matcher`, as a classifier around a `ViT` is, and counts a norm in front of the pooling to the last block.

    Source: Clark et al. 2020 (ELECTRA), appendix A; He et al. 2022 (MAE), appendix A.1, "End-to-end fine-tuning".
    """
    need_between("layer_decay_groups", 0, 1, decay=decay)
    if decay == 0 or not 0 <= weight_decay < float("inf"):
        raise wrong("layer_decay_groups", given=f"decay={decay}, weight_decay={weight_decay}",
                    expected="decay in (0, 1] and a finite weight_decay from 0 on",
                    mend="decay=0.75, weight_decay=0.05 are usual")  # fmt: skip
    names = [name for name, _ in model.named_parameters()]
    blocks = [found for name in names if (found := _BLOCK.match(name))]
    owners = {found["owner"] for found in blocks}
    if len(owners) != 1:
        raise wrong("layer_decay_groups", given=f"{type(model).__name__} with blocks in {sorted(owners) or 'no place'}",
                    expected="the blocks of one transformer, blocks.0 and so on",
                    mend="pass a ViT or a module around one; group other networks by hand")  # fmt: skip
    (owner,) = owners
    depth = 1 + max(int(found["number"]) for found in blocks)
    groups: dict[tuple[int, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            inside = name.removeprefix(owner) if name.startswith(owner) else ""  # what lies outside of the transformer has no layer
            block = _BLOCK.match(inside)
            table = _TABLE.fullmatch(inside) is not None
            layer = int(block["number"]) + 1 if block else 0 if table or inside.startswith("patch_embed.") else depth + 1
            decays = parameter.ndim > 1 and not table
            groups.setdefault((layer, decays), []).append(parameter)
    return [
        {"params": parameters, "lr_scale": decay ** (depth + 1 - layer), "weight_decay": weight_decay if decays else 0.0}
        for (layer, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
