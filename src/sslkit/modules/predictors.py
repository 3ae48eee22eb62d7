"""What follows the projector on the side that learns (BYOL, SimSiam, NNCLR, MoCo v3)."""

from torch import Tensor, nn

from sslkit._checks import bind_axes, need_whole


class MLPPredictor(nn.Module):
    """projection -> prediction of the other view's projection, of the same size. The teacher has none.

        Linear -> BatchNorm -> ReLU -> Linear [-> BatchNorm without scale and offset]

    A Linear in front of a BatchNorm has no bias, which the normalisation would remove.

    Args:
        dim: of the projection, and of the prediction.
        hidden: of the hidden layer: 4096 in BYOL and NNCLR; a bottleneck in SimSiam, 512 for 2048.
        last_batch_norm: the last BatchNorm; MoCo v3 has it for transformers.

    Shapes: [batch, dim] -> the same, dtype as the parameters or autocast say.

    Raises:
        ValueError: a size below 1, or projections of another shape.

    Source: Grill et al. 2020 (BYOL), sec. 3.3; Chen & He 2021 (SimSiam), sec. 4.
    """

    def __init__(self, dim: int, hidden: int = 4096, *, last_batch_norm: bool = False) -> None:
        super().__init__()
        need_whole("MLPPredictor", dim=dim, hidden=hidden)
        self.dim = dim
        last = [nn.BatchNorm1d(dim, affine=False)] if last_batch_norm else []
        self.layers = nn.Sequential(
            nn.Linear(dim, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, dim, bias=not last_batch_norm),
            *last,
        )

    def forward(self, projections: Tensor) -> Tensor:
        bind_axes("MLPPredictor", projections=(projections, f"batch {self.dim}"))
        return self.layers(projections)  # type: ignore[no-any-return]
