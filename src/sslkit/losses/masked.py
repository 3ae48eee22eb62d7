"""Losses on hidden tokens: regression (MAE, MaskFeat) and classification (BEiT)."""

import torch
from torch import Tensor

from sslkit._checks import bind_axes, need_floating, wrong


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error over hidden tokens.

        loss = 1/|M| * sum over (b, n) in M of  1/D * sum over d of (prediction[b, n, d] - target[b, n, d])**2
        M = all (b, n) with mask[b, n]

    Args:
        prediction: [batch, tokens, dim], floating; or [rows, dim], already selected, without a mask.
        target: as `prediction`, in its units; no gradient flows into it.
        mask: [batch, tokens], bool, True = hidden; None: every row counts.

    Returns:
        Scalar, float32 or wider (float64 stays float64). 0 if no token is hidden.

    Raises:
        ValueError: the axes disagree, or `mask` is not bool.
        TypeError: prediction or target is not floating.

    Source: He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", sec. 3, "Reconstruction target".
    """
    _bind("masked_mse", prediction, mask, target=(target, "dim"))
    need_floating("masked_mse", prediction=prediction, target=target)
    wide = torch.promote_types(prediction.dtype, torch.float32)
    difference = prediction.to(wide) - target.detach().to(wide)
    if mask is not None:
        # filled before the square: an inf on a visible token must reach neither the loss nor, as 0 * inf, the gradient.
        difference = difference.masked_fill(~mask[..., None], 0)
    error = difference.square().mean(dim=-1)  # [batch, tokens], 0 where visible
    return _mean(error, mask)


def masked_cross_entropy(logits: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """Cross-entropy of visual words over hidden tokens.

        loss = 1/|M| * sum over (b, n) in M of  -log softmax(logits[b, n])[tokens[b, n]]

    Args:
        logits: [batch, tokens, vocabulary], floating; or [rows, vocabulary], already selected, without a mask.
        tokens: [batch, tokens] or [rows], integers in 0..vocabulary-1.
        mask: [batch, tokens], bool, True = hidden; None: every row counts.

    Returns:
        Scalar, float32 or wider. 0 if no token is hidden.

    Raises:
        ValueError: the axes disagree, or `mask` is not bool.
        TypeError: logits are not floating, or tokens not integers.

    Source: Bao et al. 2022, "BEiT: BERT Pre-Training of Image Transformers", eq. 3.
    """
    _bind("masked_cross_entropy", logits, mask, tokens=(tokens, ""))
    need_floating("masked_cross_entropy", logits=logits)
    if tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise wrong("masked_cross_entropy", given=f"tokens of dtype {tokens.dtype}", expected="integers, one visual word a token",
                    mend="pass tokens.long(), or use masked_mse for features", kind=TypeError)  # fmt: skip
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if mask is not None:
        wide = wide.masked_fill(~mask[..., None], 0)  # as above: nothing of a visible token may reach the gradient
    # a class axis in second place is cross_entropy's own layout
    error = torch.nn.functional.cross_entropy(wide.movedim(-1, 1), tokens.long(), reduction="none")  # [batch, tokens]
    return _mean(error if mask is None else error.masked_fill(~mask, 0), mask)


def _mean(error: Tensor, mask: Tensor | None) -> Tensor:
    """Of the hidden tokens' errors, the others being 0; 0 if none is hidden."""
    return error.sum() / (max(error.numel(), 1) if mask is None else mask.sum().clamp(min=1))


def _bind(where: str, prediction: Tensor, mask: Tensor | None, **other: tuple[Tensor, str]) -> None:
    rows = "rows" if mask is None and prediction.ndim == 2 else "batch tokens"
    ((name, (tensor, last)),) = other.items()
    axes = {"prediction" if last else "logits": (prediction, f"{rows} {last or 'vocabulary'}"), name: (tensor, f"{rows} {last}".strip())}
    bind_axes(where, **axes, **({} if mask is None else {"mask": (mask, rows)}))
    if mask is not None and mask.dtype != torch.bool:
        raise wrong(where, given=f"mask of dtype {mask.dtype}", expected="torch.bool, True = hidden",
                    mend="write mask.bool(), or ~mask.bool() if yours marks the visible tokens")  # fmt: skip
