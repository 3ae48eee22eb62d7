"""What a transformer returns."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import register_pytree_node

from sslkit._checks import wrong


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens after the final norm. A pytree: wrappers of modules (FSDP, checkpointing) find the tensors in it.

    Args:
        prefix: [batch, prefix, dim]: class token, distillation token, registers, as the model has them.
        patches: [batch, tokens, dim], row-major over `grid`; only the kept ones where some were dropped.
        grid: (h, w) or (t, h, w) of the whole image or clip.
        layers: [batch, prefix + tokens, dim] after each block that was asked for, before the final norm: `model.norm(x)` applies it.
        attention: [batch, heads, prefix + tokens, prefix + tokens] of the block that was asked for, else None.
        names: of the prefix tokens: "cls", "dist", "reg".
    """

    prefix: Tensor
    patches: Tensor
    grid: tuple[int, ...]
    layers: tuple[Tensor, ...] = ()
    attention: Tensor | None = None
    names: tuple[str, ...] = ("cls",)

    def pooled(self, by: str = "cls") -> Tensor:
        """[batch, dim]: the token "cls" or "dist", or the "mean" of the patches.

        Raises:
            ValueError: the model has no such token.
        """
        if by == "mean":
            return self.patches.mean(dim=1)
        if by not in ("cls", "dist") or by not in self.names:
            raise wrong("Tokens.pooled", given=f"by={by!r} with the prefix {self.names}",
                        expected='"mean", or "cls" or "dist" of the prefix',
                        mend='use "mean", or build the model with prefix=("cls",)')  # fmt: skip
        return self.prefix[:, self.names.index(by)]


def _flatten(tokens: Tokens) -> tuple[list[Any], Any]:
    return [tokens.prefix, tokens.patches, tokens.layers, tokens.attention], (tokens.grid, tokens.names)


def _unflatten(children: Any, context: Any) -> Tokens:
    prefix, patches, layers, attention = children
    return Tokens(prefix, patches, context[0], layers, attention, context[1])


register_pytree_node(
    Tokens,
    _flatten,
    _unflatten,
    serialized_type_name="sslkit.backbones.Tokens",
    to_dumpable_context=lambda context: [list(part) for part in context],
    from_dumpable_context=lambda context: tuple(tuple(part) for part in context),
)
