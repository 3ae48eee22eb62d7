"""The transformer block: attention, perceptron, layer scale, drop path. Parameter names are timm's."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from sslkit._checks import need_between, wrong


def attention_weights(q: Tensor, k: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """softmax(scale * q k^T + bias): [batch, heads, queries, dim / heads] and keys alike -> [batch, heads, queries, keys].

    Row i says where query i looks, and sums to 1; float32 or wider.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        scores = q.to(wide) @ k.to(wide).transpose(-1, -2) * scale
        return (scores if bias is None else scores + bias.to(wide)).softmax(dim=-1)


class Attention(nn.Module):
    """Multi-head self-attention.

        q, k, v = split(qkv(x));    out = proj(concat over heads of softmax(q k^T / sqrt(dim / heads) + bias) v)

    Shapes: [batch, tokens, dim] -> the same; `weights` gives the softmax. bias, if any: [heads, tokens, tokens], or one a sample.

    Source: Dosovitskiy et al. 2021 (ViT), appendix A.
    """

    def __init__(self, dim: int, heads: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        if min(dim, heads) < 1 or dim % heads:
            raise wrong("Attention", given=f"dim={dim}, heads={heads}", expected="dim a positive multiple of heads",
                        mend="64 numbers a head are usual: heads = dim / 64")  # fmt: skip
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)  # rows: all of q, all of k, all of v
        self.proj = nn.Linear(dim, dim)

    def _split(self, tokens: Tensor) -> tuple[Tensor, ...]:
        qkv: Tensor = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))  # [batch, tokens, 3, heads, dim / heads]
        return qkv.permute(2, 0, 3, 1, 4).unbind()  # each [batch, heads, tokens, dim / heads]

    def forward(self, tokens: Tensor, bias: Tensor | None = None) -> Tensor:
        q, k, v = self._split(tokens)
        added = None if bias is None else bias.to(q.dtype)
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=added)  # [batch, heads, tokens, dim / heads]
        return self.proj(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def weights(self, tokens: Tensor, bias: Tensor | None = None) -> Tensor:
        """[batch, heads, tokens, tokens]: row i says where token i looks, and sums to 1; float32 or wider."""
        q, k, _ = self._split(tokens)
        return attention_weights(q, k, q.shape[-1] ** -0.5, bias)


class MLP(nn.Module):
    """Linear -> exact (erf) GELU -> Linear, token by token."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(tokens)))  # type: ignore[no-any-return]


class LayerScale(nn.Module):
    """Multiplies a residual branch by a learned vector. Source: Touvron et al. 2021, "Going deeper with Image Transformers", eq. 2."""

    def __init__(self, dim: int, value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), value))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.gamma


def drop_path(branch: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth: in training the branch of a sample is dropped with this rate, the others are divided by 1 - rate.

    Drawn from torch's own dropout stream, so that recomputation (checkpointing) draws the same. Source: Huang et al. 2016, sec. 3.
    """
    if not training or rate == 0:
        return branch
    return branch * functional.dropout(branch.new_ones(branch.shape[0], *[1] * (branch.ndim - 1)), rate)


class Block(nn.Module):
    """Pre-norm transformer block: x += drop(scale(attention(norm x))); x += drop(scale(mlp(norm x)))."""

    def __init__(self, dim: int, heads: int, *, mlp_ratio: float = 4, qkv_bias: bool = True, layer_scale: float | None = None,
                 drop_path: float = 0.0, norm_eps: float = 1e-6) -> None:  # fmt: skip
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, heads, qkv_bias=qkv_bias)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = MLP(dim, int(dim * mlp_ratio))
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)

    def forward(self, tokens: Tensor, bias: Tensor | None = None) -> Tensor:
        tokens = tokens + drop_path(self.ls1(self.attn(self.norm1(tokens), bias)), self.drop_path, self.training)
        return tokens + drop_path(self.ls2(self.mlp(self.norm2(tokens))), self.drop_path, self.training)


class Blocks(nn.ModuleList):
    """Blocks in a row; block i of `depth` drops paths with rate drop_path * i / (depth - 1).

    `forward` [batch, tokens, dim] -> the last output, the outputs of the blocks named in `layers` in that order, and the attention
    weights of block `attention_of`, computed a second time by an explicit softmax; negative numbers count from the end. `bias` is added to
    the scores of every attention.
    """

    def __init__(self, depth: int, dim: int, heads: int, *, mlp_ratio: float = 4, qkv_bias: bool = True, layer_scale: float | None = None,
                 drop_path: float = 0.0, norm_eps: float = 1e-6) -> None:  # fmt: skip
        need_between("Blocks", 0, 1, drop_path=drop_path)
        if depth < 1 or int(dim * mlp_ratio) < 1:
            raise wrong("Blocks", given=f"depth={depth}, mlp_ratio={mlp_ratio}", expected="at least one block and one hidden unit",
                        mend="pass depth=12, mlp_ratio=4 for the usual sizes")  # fmt: skip
        super().__init__(
            Block(dim, heads, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, layer_scale=layer_scale,
                  drop_path=drop_path * i / max(depth - 1, 1), norm_eps=norm_eps)
            for i in range(depth)
        )  # fmt: skip

    def forward(
        self, tokens: Tensor, *, layers: Iterable[int] = (), attention_of: int | None = None, bias: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None]:
        wanted = [block_number("Blocks", i, len(self)) for i in layers]
        looked_at = None if attention_of is None else block_number("Blocks", attention_of, len(self))
        outputs: dict[int, Tensor] = {}
        attention = None
        for i, block in enumerate(self):
            if i == looked_at:
                attention = block.attn.weights(block.norm1(tokens), bias)  # type: ignore[union-attr,operator]
            tokens = block(tokens, bias)
            if i in wanted:
                outputs[i] = tokens
        return tokens, tuple(outputs[i] for i in wanted), attention


def block_number(where: str, i: int, depth: int) -> int:
    """The number of a block, counted from 0; -1 is the last."""
    if not -depth <= i < depth:
        raise wrong(where, given=f"layer {i}", expected=f"a number from {-depth} to {depth - 1}",
                    mend="count blocks from 0, or from the end by -1")  # fmt: skip
    return i % depth
