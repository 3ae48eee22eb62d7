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
        head_factory: () -> a new last stage, maps -> [batch, dim_in]; called once for each head.
        hidden: of each MLP; None: dim_in.

    Shapes: [batch, dim_in], floating, or what a stage takes -> [heads, batch, dim_out], dtype as the parameters or autocast say.

    Raises:
        ValueError: a size that is no whole number from 1 on, stages that share a parameter or buffer, or embeddings of another shape.

    Source: Xiao et al. 2021, sec. 3 and "LooC++"; Chen et al. 2020 (MoCo v2) for the MLP.
    """

    def __init__(self, dim_in: int, dim_out: int, heads: int, *, head_factory: Callable[[], nn.Module] | None = None,
                 hidden: int | None = None) -> None:  # fmt: skip
        super().__init__()
        hidden = dim_in if hidden is None else hidden
        need_whole("MultiHeadProjector", dim_in=dim_in, dim_out=dim_out, heads=heads, hidden=hidden)
        self.stages = None if head_factory is None else nn.ModuleList(head_factory() for _ in range(heads))
        owned = [tensor for stage in self.stages or () for tensor in (*stage.parameters(), *stage.buffers())]
        if len({id(tensor) for tensor in owned}) < len(owned):
            raise wrong("MultiHeadProjector", given="a head_factory whose stages share weights", expected="a new stage at each call",
                        mend="make it inside the factory, or return copy.deepcopy(stage)")  # fmt: skip
        self.projectors = nn.ModuleList(MLPProjector(dim_in, hidden, dim_out, batch_norm=False) for _ in range(heads))

    def forward(self, x: Tensor) -> Tensor:
        inputs = [x] * len(self.projectors) if self.stages is None else [stage(x) for stage in self.stages]
        return torch.stack([projector(each) for projector, each in zip(self.projectors, inputs, strict=True)])

    def concatenate(self, x: Tensor) -> Tensor:
        """What the stages give, side by side, before the MLPs: the features of LooC++ for another task.

        Shapes: what a stage takes -> [batch, heads * dim_in], dtype as the parameters or autocast say.

        Raises:
            ValueError: the heads have no stages.
        """
        if self.stages is None:
            raise wrong("MultiHeadProjector.concatenate", given="heads without a stage of their own", expected="a head_factory",
                        mend="use the backbone's embedding, which LooC's heads share")  # fmt: skip
        return torch.cat([stage(x) for stage in self.stages], dim=1)
