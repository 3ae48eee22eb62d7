"""Principal components of patches: MAE's ablation target that keeps what varies most."""

import torch
from torch import Tensor, nn

from sslkit._checks import bind_axes, need_floating, wrong


class PatchPCA(nn.Module):
    """The first `dim` principal coefficients of a token's values.

        C = covariance of the values over all fitted tokens = V diag(lambda) V^T,  lambda falling
        out = (values - mean) V[:, :dim]            not whitened: the coefficients keep their sizes

    The sign of a component is free in theory; here its entry of largest size is positive.

    Args:
        dim: coefficients kept (96 of 768 in the paper).

    Buffers: `mean` [values], `components` [dim, values], both saved. Fit once, before training; `fit` moves them, nothing else does.

    Source: He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", table 1 (d), "PCA".
    """

    mean: Tensor
    components: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise wrong("PatchPCA", given=f"dim={dim}", expected="at least 1", mend="pass how many coefficients to keep")
        self.dim = dim
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("components", torch.empty(dim, 0))

    @torch.no_grad()
    def fit(self, tokens: Tensor) -> "PatchPCA":
        """Takes mean and components from tokens [..., values] (`sslkit.patches.patchify`), in float64; returns self.

        Raises:
            ValueError: fewer values than `dim`, or fewer than two tokens.
        """
        values = bind_axes("PatchPCA.fit", tokens=(tokens, "... values"))["values"]
        rows = tokens.reshape(-1, values).double()
        if values < self.dim or len(rows) < 2:
            raise wrong("PatchPCA.fit", given=f"{len(rows)} tokens of {values} values", expected=f"at least 2 tokens of {self.dim} values",
                        mend="pass more patches, or lower dim")  # fmt: skip
        mean = rows.mean(dim=0)
        centred = rows - mean
        vectors = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, : self.dim].T  # [dim, values], largest first
        peak = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
        self.mean, self.components = mean.float(), (vectors * peak.sign()).float()
        return self

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., values] -> [..., dim], float32 or wider.

        Raises:
            ValueError: not fitted, or fitted to another number of values.
        """
        self._check("PatchPCA", tokens, self.mean.numel())
        wide = torch.promote_types(tokens.dtype, torch.float32)
        with torch.autocast(tokens.device.type, enabled=False):
            return (tokens.to(wide) - self.mean.to(wide)) @ self.components.to(wide).T

    def inverse(self, coefficients: Tensor) -> Tensor:
        """[..., dim] -> [..., values]: the nearest values that have these coefficients."""
        self._check("PatchPCA.inverse", coefficients, self.dim)
        wide = torch.promote_types(coefficients.dtype, torch.float32)
        with torch.autocast(coefficients.device.type, enabled=False):
            return coefficients.to(wide) @ self.components.to(wide) + self.mean.to(wide)

    def _check(self, where: str, x: Tensor, size: int) -> None:
        need_floating(where, x=x)
        fit = "call fit(patchify(images, patch)) once, with the patch used here"
        if self.mean.numel() == 0:
            raise wrong(where, given="no components", expected="a fitted PatchPCA", mend=fit)
        if x.shape[-1] != size:
            raise wrong(where, given=f"input {list(x.shape)}", expected=f"{size} numbers on the last axis", mend=fit)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        # the buffers are empty until fitted: take the saved shapes, whatever they are.
        for name in ("mean", "components"):
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=self.mean.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)
