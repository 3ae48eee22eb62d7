"""Relative positions, shared by all blocks (BEiT)."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class RelativePositionBias(nn.Module):
    """What is added to the attention scores of every block: a number for each head and each difference of places.

        bias[head, i, j] = table[(y_i - y_j + h - 1) (2 w - 1) + (x_i - x_j + w - 1), head]      i, j patches of an h x w grid
        the last three rows of the table: a prefix token looks at a patch; a patch at a prefix token; prefix tokens at each other

    The table is 0 at the start. On another grid its part for patches is resampled bicubically, over differences.

    Shapes: `forward(grid, prefix)` -> [heads, prefix + tokens, prefix + tokens]; with ids [batch, kept], those of the prefix and of these
    tokens, [batch, heads, prefix + kept, prefix + kept].

    Source: Bao et al. 2022 (BEiT), appendix, and the authors' code.
    """

    def __init__(self, base: tuple[int, int], heads: int) -> None:
        super().__init__()
        self.base = base
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * base[0] - 1) * (2 * base[1] - 1) + 3, heads))

    def forward(self, grid: tuple[int, ...], prefix: int, ids: Tensor | None = None) -> Tensor:
        height, width = grid
        table, special = self._table((height, width)), self.relative_position_bias_table[-3:]
        place = torch.arange(height * width, device=table.device)
        if ids is None:
            y, x = (place // width)[None], (place % width)[None]  # [1, tokens]
        else:
            y, x = ids // width, ids % width  # [batch, kept]
        index = (y[:, :, None] - y[:, None] + height - 1) * (2 * width - 1) + (x[:, :, None] - x[:, None] + width - 1)
        bias = functional.embedding(index, table)  # [batch, tokens, tokens, heads]
        if prefix:
            batch, tokens = index.shape[:2]
            to_patch = special[0].expand(batch, prefix, tokens, -1)
            to_prefix = torch.cat([special[2].expand(batch, prefix, prefix, -1), special[1].expand(batch, tokens, prefix, -1)], dim=1)
            bias = torch.cat([to_prefix, torch.cat([to_patch, bias], dim=1)], dim=2)
        bias = bias.movedim(-1, 1)  # [batch, heads, length, length]
        return bias[0] if ids is None else bias

    def _table(self, grid: tuple[int, int]) -> Tensor:
        table = self.relative_position_bias_table[:-3]
        if grid == self.base:
            return table
        old, new = ((2 * side - 1 for side in sides) for sides in (self.base, grid))
        image = table.T.reshape(1, -1, *old)  # [1, heads, 2 h - 1, 2 w - 1]
        return functional.interpolate(image, size=list(new), mode="bicubic").flatten(2)[0].T
