"""Published initialisations of a ViT."""

from typing import Literal

import torch
from torch import Tensor, nn

from sslkit._checks import wrong

Init = Literal["timm", "dino", "mae"]
INITS: tuple[Init, ...] = ("timm", "dino", "mae")


@torch.no_grad()
def initialise(module: nn.Module, how: Init) -> None:
    """Draws the weights anew, in place, from torch's global stream as every module does.

    | parameter | timm | dino | mae |
    |---|---|---|---|
    | Linear weight | normal 0.02 | normal 0.02 | Xavier uniform (q, k, v as one matrix) |
    | Linear bias; LayerNorm | 0; 1 and 0 | the same | the same |
    | patch embedding | a convolution's default | the same | weight: Xavier uniform as a matrix [dim, values] |
    | learned positions, dist token | normal 0.02 | normal 0.02 | normal 0.02 |
    | class token | normal 1e-6 | normal 0.02 | normal 0.02 |
    | registers | normal 1e-6 | normal 1e-6 | normal 0.02 |
    | mask token | - | - | normal 0.02 |

    "Normal 0.02" is published as truncated, at -2 and 2, a hundred standard deviations away (MAE's tokens: plain). Fixed tables, being
    buffers, stay as they are.

    Source: the authors' code of DeiT and DINO (timm's `trunc_normal_`), timm `vision_transformer.py`, and MAE.
    """
    if how not in INITS:
        raise wrong("ViT", given=f"init={how!r}", expected=f"one of {', '.join(map(repr, INITS))}", mend='"timm" is the plain choice')
    small = 1e-6 if how != "mae" else 0.02
    for name, parameter in module.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        if leaf == "reg_token" or (leaf == "cls_token" and how == "timm"):
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


def _linear(weight: Tensor, how: Init) -> None:
    if how == "mae":
        nn.init.xavier_uniform_(weight)
    else:
        nn.init.trunc_normal_(weight, std=0.02)
