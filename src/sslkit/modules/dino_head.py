"""DINO's head: embedding -> logits over prototypes."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sslkit._checks import bind_axes, need_floating, need_whole
from sslkit._unit import unit

# Names under which torch's parametrised weight norm saves what DINO's files call weight_g and weight_v.
_PARAMETRISED = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


class DINOHead(nn.Module):
    """A perceptron, a bottleneck on the unit sphere, and one prototype for each logit.

        h = Linear(... GELU([BatchNorm](Linear(x))) ...)                      `layers` linear maps, the last to `bottleneck` numbers
        logits[k] = weight_g[k] * <weight_v[k] / |weight_v[k]|, h / |h|>      so |logits[k]| <= |weight_g[k]|, 1 at the start

    A row of zeros in front of the last layer has logits 0. Both norms are taken in float32 or wider.

    Args:
        dim: of the embedding.
        out_dim: prototypes; 65536 in the paper, 1024 to 8192 for small data.
        hidden: of the hidden layers.
        bottleneck: what the last layer sees.
        layers: linear maps before the last layer, from 1 on; 1: a single one, `hidden` is not used.
        batch_norm: between linear map and GELU; off for transformers. torch's `convert_sync_batchnorm` makes it one over all processes.
        norm_last_layer: the gains `weight_g` stay 1 and need no gradient; False learns them: better, less stable (the paper's ViT-S).

    Shapes: [..., dim] -> [..., out_dim], dtype as the parameters or autocast say. With batch_norm all leading axes are one batch.

    State-dict names are the public checkpoints': mlp.0.weight (mlp.weight if layers=1), last_layer.weight_g [out_dim, 1], weight_v
    [out_dim, bottleneck]; those of `torch.nn.utils.parametrizations.weight_norm` are read too. A teacher's head is a deep copy.

    Raises:
        ValueError: a size below 1, or rows of another size.
        TypeError: not floating.

    Source: Caron et al. 2021 (DINO), appendix C, "Projection head"; initialisation as in the authors' code.
    """

    def __init__(self, dim: int, out_dim: int, *, hidden: int = 2048, bottleneck: int = 256, layers: int = 3, batch_norm: bool = False,
                 norm_last_layer: bool = True) -> None:  # fmt: skip
        super().__init__()
        need_whole("DINOHead", dim=dim, out_dim=out_dim, hidden=hidden, bottleneck=bottleneck, layers=layers)
        self.dim, self.out_dim = dim, out_dim
        sizes = [dim, *[hidden] * (layers - 1), bottleneck]
        stages: list[nn.Module] = []
        for size, following in pairwise(sizes[:-1]):
            stages += [nn.Linear(size, following), *([nn.BatchNorm1d(following)] if batch_norm else []), nn.GELU()]
        last = nn.Linear(sizes[-2], bottleneck)
        self.mlp = nn.Sequential(*stages, last) if stages else last
        for module in self.mlp.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.last_layer = _Prototypes(bottleneck, out_dim, learn_gain=not norm_last_layer)

    def forward(self, embeddings: Tensor) -> Tensor:
        bind_axes("DINOHead", embeddings=(embeddings, f"... {self.dim}"))
        need_floating("DINOHead", embeddings=embeddings)
        rows = self.mlp(embeddings.reshape(-1, self.dim))  # [rows, bottleneck]
        logits: Tensor = self.last_layer(unit(rows).to(rows.dtype))  # [rows, out_dim]
        # rows stay what they are: fully_shard warns of outputs that are views.
        return logits if embeddings.ndim == 2 else logits.view(*embeddings.shape[:-1], self.out_dim)


class _Prototypes(nn.Module):
    """Linear without bias whose rows are a gain times a direction. The two are stored, and nothing derived from them: it can be copied."""

    def __init__(self, dim: int, out_dim: int, *, learn_gain: bool) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_dim, 1), requires_grad=learn_gain)
        self.weight_v = nn.Parameter(nn.Linear(dim, out_dim, bias=False).weight.detach())  # torch's own start for a linear map
        self.register_load_state_dict_pre_hook(_rename)  # type: ignore[no-untyped-call]

    def forward(self, rows: Tensor) -> Tensor:
        weight = self.weight_g * unit(self.weight_v)  # [out_dim, dim]
        return functional.linear(rows, weight.to(rows.dtype))


def _rename(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for theirs, ours in _PARAMETRISED.items():
        if prefix + theirs in state:
            state[prefix + ours] = state.pop(prefix + theirs)
