"""Several embedding spaces on one backbone (LooC, LooC++)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sslkit._checks import need_whole, wrong
from sslkit.modules.projectors import MLPProjector


class MultiHeadProjector(nn.Module):
    """A projector of its own for each space; with a factory, a last stage of the backbone of its own, too.

        LooC:    out[h] = MLP_h(embedding)
        LooC++:  out[h] = MLP_h(stage_h(maps)),  stage_h = head_factory();   `concatenate` gives [stage_0(maps), ..., stage_n(maps)]

    Args:
        dim_in: of the embedding, or of what a stage gives.
        dim_out: of each projection; 128 in the paper.
        heads: spaces: one for each augmentation, and one that ignores all.
        head_factory: () -> a new last stage, maps -> [batch, dim_in]; drawn anew for each head.
        hidden: of each MLP; None: dim_in.

    Shape:
        [batch, dim_in], or what a stage takes -> [heads, batch, dim_out].

    Raises:
        ValueError: a size below 1, embeddings of another shape, or `concatenate` without stages.

    Source: Xiao et al. 2021, sec. 3 and "LooC++"; Chen et al. 2020 (MoCo v2) for the MLP.
    """

    def __init__(self, dim_in: int, dim_out: int, heads: int, *, head_factory: Callable[[], nn.Module] | None = None,
                 hidden: int | None = None) -> None:  # fmt: skip
        super().__init__()
        need_whole("MultiHeadProjector", dim_in=dim_in, dim_out=dim_out, heads=heads)
        self.stages = None if head_factory is None else nn.ModuleList(head_factory() for _ in range(heads))
        self.projectors = nn.ModuleList(MLPProjector(dim_in, hidden or dim_in, dim_out, batch_norm=False) for _ in range(heads))

    def forward(self, x: Tensor) -> Tensor:
        inputs = [x] * len(self.projectors) if self.stages is None else [stage(x) for stage in self.stages]
        return torch.stack([projector(each) for projector, each in zip(self.projectors, inputs, strict=True)])

    def concatenate(self, x: Tensor) -> Tensor:
        """What the stages give, side by side, before the MLPs: the features of LooC++ for another task, [batch, heads * dim_in]."""
        if self.stages is None:
            raise wrong("MultiHeadProjector.concatenate", given="heads without a stage of their own", expected="a head_factory",
                        mend="use the backbone's embedding, which LooC's heads share")  # fmt: skip
        return torch.cat([stage(x) for stage in self.stages], dim=1)
