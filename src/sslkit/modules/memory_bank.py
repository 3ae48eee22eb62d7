"""One embedding for every picture of a data set (InstDist, CMC)."""

import torch
from torch import Tensor, nn

from sslkit._checks import bind_axes, need_between, need_floating, need_whole, wrong
from sslkit._unit import unit
from sslkit.counter import uniforms
from sslkit.distributed import Group, gather

_SLOT = 1 << 20  # the first slot of these draws, beyond those of the picture's views


class MemoryBank(nn.Module):
    """The last embeddings of all pictures, by their numbers; a picture's own is replaced by a mean when it comes by again.

        rows[i] <- unit(momentum * rows[i] + (1 - momentum) * unit(z[b]))          b: the last with indices[b] = i            update

    Args:
        size: pictures in the data set.
        dim: of the embeddings.
        momentum: 0.5 in the papers.
        generator: of the first rows, which are uniform on the sphere.

    Shape:
        z [batch, dim], candidates [batch, candidates] -> [batch, candidates], float32 or wider; see `forward`.

    Raises:
        ValueError: size or dim below 1, a momentum outside [0, 1]; of `forward`: the axes or devices disagree.
        TypeError: of `forward`: z is not floating, or candidates are neither int64 nor int32.
        IndexError: of `forward`: a candidate is outside 0..size-1, on a CPU (on a GPU, a device-side assertion).

    Source: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", sec. 3.1; Tian et al. 2020 (CMC).
    """

    rows: Tensor

    def __init__(self, size: int, dim: int, *, momentum: float = 0.5, generator: torch.Generator | None = None) -> None:
        super().__init__()
        need_whole("MemoryBank", size=size, dim=dim)
        need_between("MemoryBank", 0, 1, momentum=momentum)
        self.momentum = momentum
        rows = torch.randn(size, dim, generator=generator, device=None if generator is None else generator.device)
        self.register_buffer("rows", unit(rows))  # persistent: a resumed run goes on from here

    def candidates(self, indices: Tensor, drawn: int, *, generator: torch.Generator | None = None, seed: int | None = None,
                   epoch: int = 0) -> Tensor:  # fmt: skip
        """Numbers of rows: each picture's own, then `drawn` of all at random, with replacement.

        Its own may be among those, too.

        Args:
            indices: [batch], int64 or int32, the pictures' numbers.
            drawn: rows at random; 4096 in the papers.
            generator: of the draws; on the bank's device.
            seed: in place of a generator: the draws are a function of (seed, epoch, picture), whatever the batch.
            epoch: with `seed`: another epoch, other draws.

        Returns:
            [batch, 1 + drawn], int64, on the bank's device.

        Raises:
            ValueError: the axes, drawn below 1, or a generator and a seed.
            TypeError: indices are neither int64 nor int32.
            IndexError: an index is outside 0..size-1, on a CPU (elsewhere it is not looked at).
        """
        where = "MemoryBank.candidates"
        bind_axes(where, indices=(indices, "batch"))
        need_whole(where, drawn=drawn)
        own = _numbers(where, len(self.rows), indices=indices)
        u = uniforms(len(own), drawn, generator=generator, indices=None if seed is None else own, seed=seed, epoch=epoch, offset=_SLOT,
                     device=self.rows.device)  # fmt: skip
        others = (u * len(self.rows)).long().clamp(max=len(self.rows) - 1)  # float32: even up to 2^24 pictures
        return torch.cat([own[:, None].to(others), others], dim=1)

    def forward(self, z: Tensor, candidates: Tensor) -> Tensor:
        """Cosines [batch, candidates] of unit(z [batch, dim]) and the rows of these numbers, float32 or wider. Gradient flows into z alone.

        They survive an `update` before the backward pass: the rows are a copy.
        """
        bind_axes("MemoryBank", z=(z, "batch dim"), candidates=(candidates, "batch candidates"), rows=(self.rows, "size dim"))
        need_floating("MemoryBank", z=z)
        ids = _numbers("MemoryBank", len(self.rows), candidates=candidates)
        chosen = self.rows.index_select(0, ids.flatten()).view(*ids.shape, self.rows.shape[1])  # [batch, candidates, dim]
        with torch.autocast(z.device.type, enabled=False):
            query = unit(z)
            wide = torch.promote_types(query.dtype, self.rows.dtype)
            return torch.einsum("bd,bkd->bk", query.to(wide), chosen.to(wide))

    @torch.no_grad()
    def update(self, indices: Tensor, z: Tensor, group: Group | None = None) -> None:
        """Moves the rows of these pictures, each once; to be called once a step. Nothing waits for the device.

        Of a picture that comes more than once the last embedding counts, of the last rank, on every device.

        Args:
            indices: [batch], int64 or int32, the pictures' numbers.
            z: [batch, dim], not necessarily normalised; floating.
            group: the pictures of all these processes, in the order of the ranks, so that banks that are equal stay so; batch may differ.

        Raises:
            ValueError: the axes or devices disagree.
            TypeError: z is not floating, or indices are neither int64 nor int32.
            IndexError: an index is outside 0..size-1, on a CPU (on a GPU, a device-side assertion).
        """
        where = "MemoryBank.update"
        bind_axes(where, indices=(indices, "batch"), z=(z, "batch dim"), rows=(self.rows, "size dim"))
        need_floating(where, z=z)
        ids, rows = gather(_numbers(where, len(self.rows), indices=indices), group).rows, gather(z.to(self.rows.dtype), group).rows
        mixed = unit(self.momentum * self.rows.index_select(0, ids) + (1 - self.momentum) * unit(rows))
        place = torch.arange(len(ids), device=ids.device)
        last = place.new_zeros(len(self.rows)).scatter_reduce_(0, ids, place, "amax")[ids]  # [global batch]
        # all places of a picture write the row of the last, so that it does not matter which of them a device writes last.
        self.rows.index_copy_(0, ids, mixed[last].to(self.rows.dtype))


def _numbers(where: str, size: int, **tensor: Tensor) -> Tensor:
    """Rows of the bank as int64, checked: the dtype always, the range where looking costs nothing."""
    ((name, ids),) = tensor.items()
    if ids.dtype not in (torch.int64, torch.int32):
        raise wrong(where, given=f"{name} of dtype {ids.dtype}", expected="int64 or int32, the numbers of pictures",
                    mend=f"pass {name}.long()", kind=TypeError)  # fmt: skip
    if ids.device.type == "cpu" and ids.numel() and not torch.compiler.is_compiling():
        least, most = (int(end) for end in ids.aminmax())
        if least < 0 or most >= size:
            raise wrong(where, given=f"{name} from {least} to {most}", expected=f"0 to {size - 1}, as the bank has {size} rows",
                        mend="pass the pictures' numbers in the data set, and its length as size", kind=IndexError)  # fmt: skip
    return ids.long()
