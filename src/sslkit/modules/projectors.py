"""Heads between the backbone and the loss."""

from torch import Tensor, nn

from sslkit._checks import wrong


class MLPProjector(nn.Module):
    """A multi-layer perceptron: embedding -> projection, where the loss is computed and which is thrown away afterwards.

        (Linear -> BatchNorm -> ReLU) * (layers - 1) -> Linear [-> BatchNorm]

    A Linear in front of a BatchNorm has no bias, which the normalisation would remove. SimCLR's TensorFlow code ends with a BatchNorm
    that has a scale and no offset; the nearest here is last_batch_norm="affine".

    Args:
        dim_in: size of the embedding.
        dim_hidden: size of every hidden layer.
        dim_out: size of the projection.
        layers: linear layers, from 1 on: 2 in SimCLR v1 and MoCo v2, 3 in SimCLR v2, BYOL's successors and NNCLR.
        batch_norm: after the hidden layers (MoCo v2 has none).
        last_batch_norm: after the last layer: False, "affine", or "plain" (no scale and offset; MoCo v3, SimSiam).

    Shapes: [batch, dim_in] -> [batch, dim_out], dtype as the parameters or autocast say.

    Source: Chen et al. 2020 (SimCLR), sec. 2.1 and 4.2.
    """

    def __init__(self, dim_in: int, dim_hidden: int, dim_out: int, *, layers: int = 2, batch_norm: bool = True,
                 last_batch_norm: str | bool = False) -> None:  # fmt: skip
        super().__init__()
        if min(dim_in, dim_hidden, dim_out, layers) < 1:
            raise wrong("MLPProjector", given=f"dim_in={dim_in}, dim_hidden={dim_hidden}, dim_out={dim_out}, layers={layers}",
                        expected="whole numbers from 1 on", mend="pass the embedding's size, the hidden size, the output size")  # fmt: skip
        if last_batch_norm not in (False, "affine", "plain"):
            raise wrong("MLPProjector", given=f"last_batch_norm={last_batch_norm!r}", expected='False, "affine" or "plain"',
                        mend='"plain" is the one without scale and offset')  # fmt: skip
        self.dim_in, self.dim_out = dim_in, dim_out
        sizes = [dim_in, *[dim_hidden] * (layers - 1)]
        stages: list[nn.Module] = []
        for size in sizes[:-1]:
            stages += [nn.Linear(size, dim_hidden, bias=not batch_norm), *([nn.BatchNorm1d(dim_hidden)] if batch_norm else []), nn.ReLU()]
        stages += [nn.Linear(sizes[-1], dim_out, bias=not last_batch_norm)]
        if last_batch_norm:
            stages += [nn.BatchNorm1d(dim_out, affine=last_batch_norm == "affine")]
        self.layers = nn.Sequential(*stages)

    def forward(self, embeddings: Tensor) -> Tensor:
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dim_in:
            raise wrong("MLPProjector", given=f"embeddings {list(embeddings.shape)}", expected=f"[batch, {self.dim_in}]",
                        mend="pool the backbone's output to one row per image, and give dim_in its size")  # fmt: skip
        return self.layers(embeddings)  # type: ignore[no-any-return]
