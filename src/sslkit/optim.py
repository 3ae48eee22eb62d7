"""Parameter groups and gradients on their way to the optimiser. The optimisers themselves are torch's and timm's."""

import re
from collections.abc import Iterable
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from sslkit._checks import need_between, need_positive, wrong

__all__ = ["clip_each", "dino_groups", "drop_gradients", "layer_decay_groups"]

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


def dino_groups(model: nn.Module, *, weight_decay: float = 0.04) -> list[dict[str, Any]]:
    """Two parameter groups, the first of which decays.

        weight_decay = 0 for tensors of one axis and for names that end with ".bias"; tokens, positions and gains [out, 1] do decay

    DINO raises the decay of the first group during the run:

        optimizer.param_groups[0]["weight_decay"] = cosine(step, base=0.04, final=0.4, steps=steps)

    Args:
        model: any, wrapped or not.
        weight_decay: of the first group, finite, from 0 on.

    Returns:
        [{"params", "weight_decay"}, {"params", "weight_decay": 0}], either of which may be empty; parameters that need no gradient are
        left out.

    Raises:
        ValueError: no parameter needs a gradient, or weight_decay is out of range.

    Source: Caron et al. 2021 (DINO), sec. 3.2, and `get_params_groups` of the authors' code.
    """
    if not 0 <= weight_decay < float("inf"):
        raise wrong("dino_groups", given=f"weight_decay={weight_decay}", expected="a finite weight_decay from 0 on",
                    mend="0.04 is DINO's first value")  # fmt: skip
    decayed: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (others if name.endswith(".bias") or parameter.ndim == 1 else decayed).append(parameter)
    if not decayed and not others:
        raise wrong("dino_groups", given=f"{type(model).__name__} without a parameter that needs a gradient", expected="at least one",
                    mend="pass the student, not the teacher")  # fmt: skip
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


@torch.no_grad()
def clip_each(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Clips the gradient of every tensor by its own norm, in place; `torch.nn.utils.clip_grad_norm_` takes one norm of all.

        gradient <- gradient * min(1, max_norm / (|gradient| + 1e-6))

    Nothing waits for the device. A gradient that is not finite is not made so: stop, or skip the step, by the norms that come back.

    Args:
        parameters: those whose `grad` is clipped; one without gradient is passed over.
        max_norm: above 0; 3.0 in DINO.

    Returns:
        Norms before the clipping, [gradients], float32 or wider, in the order of `parameters`; empty if there is no gradient.

    Raises:
        ValueError: max_norm is not a number above 0, or the gradients are on several devices.

    Source: `clip_gradients` of DINO's code.
    """
    need_positive("clip_each", max_norm=max_norm)
    tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    gradients = [p.grad for p in tensors if p.grad is not None]
    if not gradients:
        return torch.empty(0)
    if len(devices := {g.device for g in gradients}) > 1:
        raise wrong("clip_each", given=f"gradients on {', '.join(sorted(map(str, devices)))}", expected="one device",
                    mend="call it once for the parameters of each device")  # fmt: skip
    # norms in 16 bit would overflow: one of 70000 is an infinity in float16.
    wide = reduce(torch.promote_types, (g.dtype for g in gradients), torch.float32)
    narrow = any(g.dtype != wide for g in gradients)  # else unsaid: torch's DTensor takes no dtype here
    norms = torch.stack(torch._foreach_norm(gradients, 2, dtype=wide if narrow else None))
    torch._foreach_mul_(gradients, (max_norm / (norms + 1e-6)).clamp(max=1).unbind())
    return norms


def drop_gradients(model: nn.Module, part: str) -> None:
    """Sets the gradients of one part of a model to None: an optimiser passes over these parameters, as if they were frozen for this step.

    After gradients of zero AdamW would still move them, by weight decay and by its moments. DINO keeps its last layer as it is for the
    first epoch; between the backward pass and the optimiser's step:

        if epoch < 1:
            drop_gradients(student, "last_layer")

    Args:
        model: the student, wrapped or not.
        part: one or more whole words of a parameter's dotted name, "last_layer" in "head.last_layer.weight_v".

    Raises:
        ValueError: no parameter has such a name.

    Source: `cancel_gradients_last_layer` of DINO's code.
    """
    chosen = [parameter for name, parameter in model.named_parameters() if f".{part}." in f".{name}."]
    if not chosen:
        raise wrong("drop_gradients", given=f"part={part!r}, which no parameter of {type(model).__name__} has in its name",
                    expected="whole words of a dotted name", mend="look at [name for name, _ in model.named_parameters()]")  # fmt: skip
    for parameter in chosen:
        parameter.grad = None
