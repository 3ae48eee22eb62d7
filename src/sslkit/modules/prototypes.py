"""Prototypes on the unit sphere (SwAV)."""

import torch
from torch import Tensor, nn

from sslkit._checks import bind_axes, need_floating, need_whole
from sslkit._unit import products, unit


class Prototypes(nn.Module):
    """Cosines of embeddings and learned prototypes.

        scores = unit(z) @ weight.T                 weight has unit rows after `normalize`

    The authors put the rows back on the sphere before every step, outside the graph; here the training loop does it by `normalize()`,
    and freezes them for the first steps with `sslkit.optim.drop_gradients(model, "prototypes")`.

    Args:
        dim: of the embeddings.
        count: of the prototypes; 3000 in the paper.

    Shape:
        z [..., dim], floating -> [..., count], float32 or wider, whatever z and autocast are: the temperature that divides the scores would
        magnify a rounding to 16 bit.

    Raises:
        ValueError: dim or count below 1, or z of another dim.
        TypeError: z is not floating.

    Source: Caron et al. 2020 (SwAV), sec. 3.1 and the authors' code.
    """

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        need_whole("Prototypes", dim=dim, count=count)
        self.dim, self.count = dim, count
        self.weight = nn.Parameter(torch.empty(count, dim))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # nn.Linear's, as in the authors' code
        self.normalize()

    @torch.no_grad()
    def normalize(self) -> None:
        """Puts the rows of `weight` back on the sphere: to be called once before every step."""
        self.weight.copy_(unit(self.weight))

    def forward(self, z: Tensor) -> Tensor:
        bind_axes("Prototypes", z=(z, "... dim"), weight=(self.weight, "count dim"))
        need_floating("Prototypes", z=z)
        rows = unit(z).reshape(-1, self.dim)
        wide = torch.promote_types(rows.dtype, self.weight.dtype)
        return products(rows.to(wide), self.weight.to(wide)).view(*z.shape[:-1], self.count)

    def extra_repr(self) -> str:
        return f"{self.dim}, {self.count}"
