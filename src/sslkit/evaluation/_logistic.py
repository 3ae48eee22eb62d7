"""Multinomial logistic regression: the objective with its gradient, and two solvers.

The gradient is written out, so nothing here needs autograd and the solvers work under no_grad and inference_mode.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import LBFGS


@dataclass(frozen=True, eq=False)
class Fit:
    """One fitted classifier; `loss` and `gradient` belong to its final weights."""

    weights: Tensor  # [classes, dim]
    bias: Tensor  # [classes]
    losses: tuple[float, ...]  # lbfgs: every evaluation of the objective; sgd: mean cross-entropy of every epoch
    loss: float
    gradient: float  # largest absolute entry of the gradient: how far from the optimum


def objective(weights: Tensor, bias: Tensor, features: Tensor, labels: Tensor, l2: float) -> tuple[Tensor, Tensor, Tensor]:
    """Loss (float64 scalar) and its gradient by weights [classes, dim] and bias [classes].

        loss = 1/n * sum over i of -log softmax(W x_i + b)[y_i]  +  l2 * sum of W**2
        d loss / d W = 1/n * sum over i of (softmax(W x_i + b) - onehot(y_i)) x_i^T  +  2 l2 W

    Rows pass in blocks, so that no [samples, classes] table is held. The bias is not penalised.
    """
    total = torch.zeros((), dtype=torch.float64, device=features.device)
    by_weights, by_bias = torch.zeros_like(weights), torch.zeros_like(bias)
    block = max(1, 2**20 // len(weights))
    for x, y in zip(torch.split(features, block), torch.split(labels, block), strict=True):
        log_probs = torch.addmm(bias, x, weights.T).log_softmax(dim=1)  # [block, classes]
        # summed in float64: a line search compares values that differ in the last bits of float32.
        total -= log_probs.gather(1, y[:, None]).sum(dtype=torch.float64)
        error = log_probs.exp_().scatter_add_(1, y[:, None], log_probs.new_full((len(y), 1), -1))  # probs - onehot
        by_weights.addmm_(error.T, x)
        by_bias += error.sum(dim=0)
    n = len(features)
    return (total / n + l2 * weights.square().sum(dtype=torch.float64), by_weights / n + 2 * l2 * weights, by_bias / n)


def fit_lbfgs(features: Tensor, labels: Tensor, classes: int, *, l2: float, iterations: int) -> Fit:
    """L-BFGS with a strong-Wolfe line search from zero; deterministic."""
    weights = features.new_zeros(classes, features.shape[1])
    bias = features.new_zeros(classes)
    losses: list[float] = []
    # max_eval: PyTorch's default of 1.25 per iteration would end the search early. tolerance_change: below it the loss only
    # shows rounding.
    solver = LBFGS([weights, bias], max_iter=iterations, max_eval=25 * iterations, history_size=20, line_search_fn="strong_wolfe",
                   tolerance_grad=1e-9, tolerance_change=1e-5 * torch.finfo(features.dtype).eps)  # fmt: skip

    def closure() -> float:
        loss, weights.grad, bias.grad = objective(weights, bias, features, labels, l2)
        losses.append(loss.item())
        return losses[-1]

    solver.step(closure)  # type: ignore[no-untyped-call]
    return _fit(weights, bias, losses, features, labels, l2)


def fit_sgd(features: Tensor, labels: Tensor, classes: int, *, l2: float, lrs: Sequence[float], epochs: int, batch: int,
            generator: torch.Generator | None) -> tuple[Fit, ...]:  # fmt: skip
    """One classifier per learning rate, all trained in one pass over the same batches from the same start.

    Momentum 0.9, no dampening; learning rate of epoch e: lr/2 * (1 + cos(pi e / epochs)). Weights start as N(0, 0.01**2),
    biases at 0.
    """
    device, dtype = features.device, features.dtype
    start = torch.randn(classes, features.shape[1], generator=generator, device=device, dtype=dtype) * 0.01
    weights = start.expand(len(lrs), -1, -1).clone()  # [lrs, classes, dim]
    bias = weights.new_zeros(len(lrs), 1, classes)
    speed_w, speed_b = torch.zeros_like(weights), torch.zeros_like(bias)
    rates = torch.tensor(lrs, dtype=dtype, device=device)[:, None, None]
    history = []
    for epoch in range(epochs):
        rate = rates * (0.5 * (1 + math.cos(math.pi * epoch / epochs)))
        total = torch.zeros(len(lrs), dtype=torch.float64, device=device)
        for ids in torch.split(torch.randperm(len(features), generator=generator, device=device), batch):
            x, y = features[ids], labels[ids].expand(len(lrs), -1)[:, :, None]
            log_probs = (x @ weights.transpose(1, 2) + bias).log_softmax(dim=2)  # [lrs, batch, classes]
            total -= log_probs.gather(2, y).sum(dim=(1, 2), dtype=torch.float64)
            error = log_probs.exp_().scatter_add_(2, y, log_probs.new_full(y.shape, -1)) / len(ids)
            speed_w.mul_(0.9).add_(error.transpose(1, 2) @ x).add_(weights, alpha=2 * l2)
            speed_b.mul_(0.9).add_(error.sum(dim=1, keepdim=True))
            weights -= rate * speed_w
            bias -= rate * speed_b
        history.append((total / len(features)).tolist())
    return tuple(_fit(weights[r], bias[r, 0], [row[r] for row in history], features, labels, l2) for r in range(len(lrs)))


def _fit(weights: Tensor, bias: Tensor, losses: Sequence[float], features: Tensor, labels: Tensor, l2: float) -> Fit:
    loss, by_weights, by_bias = objective(weights, bias, features, labels, l2)
    gradient = torch.stack([by_weights.abs().max(), by_bias.abs().max()]).max().item()
    return Fit(weights.detach().clone(), bias.detach().clone(), tuple(losses), loss.item(), gradient)
