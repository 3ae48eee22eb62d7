"""Published initialisations of a ViT."""

import math
import re
from typing import Literal

import torch
from torch import Tensor, nn

from sslkit._checks import wrong

Init = Literal["timm", "dino", "mae", "beit"]
INITS: tuple[Init, ...] = ("timm", "dino", "mae", "beit")


@torch.no_grad()
def initialise(module: nn.Module, how: Init) -> None:
    """Draws the weights anew, in place, from torch's global stream as every module does.

    | parameter | timm | dino | mae | beit |
    |---|---|---|---|---|
    | Linear weight | normal 0.02 | normal 0.02 | Xavier uniform (q, k, v as one matrix) | cut normal |
    | Linear bias; LayerNorm | 0; 1 and 0 | the same | the same | the same |
    | patch embedding | a convolution's default | the same | weight: Xavier uniform as a matrix [dim, values] | cut normal, bias 0 |
    | learned positions, dist token | normal 0.02 | normal 0.02 | normal 0.02 | cut normal |
    | class token | normal 1e-6 | normal 0.02 | normal 0.02 | cut normal |
    | registers | normal 1e-6 | normal 1e-6 | normal 0.02 | cut normal |
    | mask token | - | - | normal 0.02 | cut normal |
    | `attn.proj`, `mlp.fc2` of block i, from 1 | - | - | - | divided by sqrt(2 i) |

    "Normal 0.02" is published as truncated, at -2 and 2, a hundred standard deviations away (MAE's tokens: plain). "Cut normal" is normal
    0.02 truncated at -0.02 and 0.02, one standard deviation. Fixed tables, being buffers, and relative ones, being 0, stay as they are.

    Source: the authors' code of DeiT and DINO (timm's `trunc_normal_`), timm `vision_transformer.py`, MAE and BEiT.
    """
    if how not in INITS:
        raise wrong("ViT", given=f"init={how!r}", expected=f"one of {', '.join(map(repr, INITS))}", mend='"timm" is the plain choice')
    small = 0.02 if how in ("mae", "beit") else 1e-6
    for name, parameter in module.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        if how == "beit" and (leaf.endswith("_token") or leaf.startswith("pos_embed")):
            _cut_normal(parameter)
        elif leaf == "reg_token" or (leaf == "cls_token" and how == "timm"):
            nn.init.normal_(parameter, std=small)
        elif leaf.endswith("_token") or leaf.startswith("pos_embed"):
            nn.init.trunc_normal_(parameter, std=0.02)
    for part in module.modules():
        if isinstance(part, nn.Linear):
            _linear(part.weight, how)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            part.reset_parameters()
        elif isinstance(part, (nn.Conv2d, nn.Conv3d)):
            part.reset_parameters()
            if how == "mae":
                nn.init.xavier_uniform_(part.weight.view(part.weight.shape[0], -1))
            if how == "beit":
                _cut_normal(part.weight)
                nn.init.zeros_(part.bias)  # type: ignore[arg-type]
    for name, parameter in module.named_parameters() if how == "beit" else ():
        if found := re.fullmatch(r"(?:.*\.)?blocks\.(\d+)\.(?:attn\.proj|mlp\.fc2)\.weight", name):
            parameter.div_(math.sqrt(2 * (int(found[1]) + 1)))


def _cut_normal(parameter: Tensor) -> None:
    nn.init.trunc_normal_(parameter, std=0.02, a=-0.02, b=0.02)


def _linear(weight: Tensor, how: Init) -> None:
    if how == "mae":
        nn.init.xavier_uniform_(weight)
    elif how == "beit":
        _cut_normal(weight)
    else:
        nn.init.trunc_normal_(weight, std=0.02)
