"""One embedding for every picture of a data set (InstDist, CMC)."""

import torch
from torch import Tensor, nn

from sslkit._checks import bind_axes, need_between, need_floating, need_whole
from sslkit.counter import uniforms
from sslkit.distributed import Group, gather

_SLOT = 1 << 20  # the first slot of these draws, beyond those of the picture's views


class MemoryBank(nn.Module):
    """The last embeddings of all pictures, by their numbers; a picture's own is replaced by a mean when it comes by again.

        rows[i] <- unit(momentum * rows[i] + (1 - momentum) * unit(z[b]))          i = indices[b]            update

    Args:
        size: pictures in the data set.
        dim: of the embeddings.
        momentum: 0.5 in the papers.
        generator: of the first rows, which are uniform on the sphere.

    Raises:
        ValueError: size or dim below 1, a momentum outside [0, 1], z of another dim.
        TypeError: z is not floating.

    Source: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", sec. 3.1; Tian et al. 2020 (CMC).
    """

    rows: Tensor

    def __init__(self, size: int, dim: int, *, momentum: float = 0.5, generator: torch.Generator | None = None) -> None:
        super().__init__()
        need_whole("MemoryBank", size=size, dim=dim)
        need_between("MemoryBank", 0, 1, momentum=momentum)
        self.momentum = momentum
        rows = torch.randn(size, dim, generator=generator, device=None if generator is None else generator.device)
        self.register_buffer("rows", nn.functional.normalize(rows, dim=1))  # persistent: a resumed run goes on from here

    def candidates(self, indices: Tensor, drawn: int, *, generator: torch.Generator | None = None, seed: int | None = None,
                   epoch: int = 0) -> Tensor:  # fmt: skip
        """Numbers of rows [batch, 1 + drawn]: each picture's own, then `drawn` of all at random, with replacement.

        Its own may be among those, too. With `seed`, the draws are a function of (seed, epoch, picture), whatever the batch; else they
        come from `generator`, on the bank's device.
        """
        bind_axes("MemoryBank.candidates", indices=(indices, "batch"))
        need_whole("MemoryBank.candidates", drawn=drawn)
        source = {"generator": generator} if seed is None else {"indices": indices, "seed": seed, "epoch": epoch, "offset": _SLOT}
        u = uniforms(len(indices), drawn, device=self.rows.device, **source)
        others = (u * len(self.rows)).long().clamp(max=len(self.rows) - 1)  # float32: even up to 2^24 pictures
        return torch.cat([indices[:, None].to(others), others], dim=1)

    def forward(self, z: Tensor, candidates: Tensor) -> Tensor:
        """Cosines [batch, candidates] of unit(z [batch, dim]) and the rows of these numbers, float32 or wider. Gradient flows into z alone.

        They survive an `update` before the backward pass: the rows are a copy.
        """
        bind_axes("MemoryBank", z=(z, "batch dim"), candidates=(candidates, "batch candidates"), rows=(self.rows, "size dim"))
        need_floating("MemoryBank", z=z)
        wide = torch.promote_types(z.dtype, self.rows.dtype)
        with torch.autocast(z.device.type, enabled=False):
            unit = nn.functional.normalize(z.to(wide), dim=1)
            return torch.einsum("bd,bkd->bk", unit, self.rows[candidates].to(wide))

    @torch.no_grad()
    def update(self, indices: Tensor, z: Tensor, group: Group | None = None) -> None:
        """Moves the rows of these pictures; once a step. With a group, those of all processes, so that the banks stay equal.

        Of a picture that comes twice, one of the two counts, which of them is not defined on a GPU.
        """
        bind_axes("MemoryBank.update", indices=(indices, "batch"), z=(z, "batch dim"), rows=(self.rows, "size dim"))
        need_floating("MemoryBank.update", z=z)
        ids, rows = gather(indices, group).rows, gather(z.detach().to(self.rows.dtype), group).rows
        mixed = self.momentum * self.rows[ids] + (1 - self.momentum) * nn.functional.normalize(rows, dim=1)
        self.rows[ids] = nn.functional.normalize(mixed, dim=1)
