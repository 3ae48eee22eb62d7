"""Gathering, restoring and replacing tokens, forward and backward: ours against the forms of MAE, lightly and BEiT.

The peers are written here from their descriptions: an index repeated or expanded to the tokens' width, a sequence of mask tokens
that is joined to the visible ones and unshuffled, or written into by index; a blend by a float mask.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import Call, Report, command, compare
from sslkit.kernels import gather_tokens, replace_tokens, scatter_tokens

BATCH, TOKENS, KEPT = 128, 196, 49
DIM = {"gather": 768, "restore": 512, "replace": 768}
HIDDEN = 75  # of BEiT's masks; in the job "replace"
Inputs = dict[str, Tensor]


def data(job: str) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    order = torch.rand(BATCH, TOKENS, generator=generator).argsort(dim=1)
    length = {"gather": TOKENS, "restore": KEPT, "replace": TOKENS}[job]
    out = {"gather": KEPT, "restore": TOKENS, "replace": TOKENS}[job]
    mask = torch.zeros(BATCH, TOKENS, dtype=torch.bool).scatter(1, order[:, -HIDDEN:], True)
    return {"x": torch.randn(BATCH, length, DIM[job], generator=generator), "token": torch.randn(DIM[job], generator=generator),
            "positions": torch.randn(TOKENS, DIM[job], generator=generator), "ids": order[:, :KEPT].contiguous(),
            "order": order.argsort(dim=1), "mask": mask,
            "grad": torch.randn(BATCH, out, DIM[job], generator=generator)}  # fmt: skip


def gather_ours(x: Tensor, token: Tensor, i: Inputs) -> Tensor:
    return gather_tokens(x, i["ids"])


def gather_repeated(x: Tensor, token: Tensor, i: Inputs) -> Tensor:
    """MAE's: the index in memory once for every number."""
    return x.gather(1, i["ids"].unsqueeze(-1).repeat(1, 1, x.shape[2]))


def gather_expanded(x: Tensor, token: Tensor, i: Inputs) -> Tensor:
    """lightly's: the index seen once for every number."""
    return x.gather(1, i["ids"].unsqueeze(-1).expand(-1, -1, x.shape[2]))


def restore_ours(x: Tensor, token: Tensor, i: Inputs) -> Tensor:
    return scatter_tokens(x, i["ids"], TOKENS, token, positions=i["positions"])


def restore_joined(x: Tensor, token: Tensor, i: Inputs) -> Tensor:
    """MAE's: mask tokens behind the visible ones, then all unshuffled, then positions added."""
    hidden = token.view(1, 1, -1).repeat(BATCH, TOKENS - KEPT, 1)
    joined = torch.cat([x, hidden], dim=1)
    return joined.gather(1, i["order"].unsqueeze(-1).repeat(1, 1, x.shape[2])) + i["positions"]


def restore_written(x: Tensor, token: Tensor, i: Inputs) -> Tensor:
    """lightly's: mask tokens everywhere, the visible ones written into them by index, then positions added."""
    out = token.view(1, 1, -1).repeat(BATCH, TOKENS, 1)
    return out.scatter(1, i["ids"].unsqueeze(-1).expand(-1, -1, x.shape[2]), x) + i["positions"]


def replace_ours(x: Tensor, token: Tensor, i: Inputs) -> Tensor:
    return replace_tokens(x, i["mask"], token)


def replace_blend(x: Tensor, token: Tensor, i: Inputs) -> Tensor:
    """BEiT's, and lightly's for a bool mask: x * (1 - w) + token * w."""
    w = i["mask"].unsqueeze(-1).to(x.dtype)
    return x * (1 - w) + token.expand(BATCH, TOKENS, -1) * w


def replace_where(x: Tensor, token: Tensor, i: Inputs) -> Tensor:
    return torch.where(i["mask"].unsqueeze(-1), token, x)


Form = Callable[[Tensor, Tensor, Inputs], Tensor]
JOBS: dict[str, dict[str, Form]] = {
    "gather": {"sslkit": gather_ours, "repeated index (MAE)": gather_repeated, "expanded index (lightly)": gather_expanded},
    "restore": {"sslkit": restore_ours, "joined and unshuffled (MAE)": restore_joined, "written by index (lightly)": restore_written},
    "replace": {"sslkit": replace_ours, "torch.where": replace_where, "blend (BEiT, lightly)": replace_blend},
}


def forward_backward(form: Form, inputs: Inputs) -> tuple[Tensor | None, ...]:
    x, token = (inputs[name].detach().requires_grad_() for name in ("x", "token"))
    out = form(x, token, inputs)
    out.backward(inputs["grad"])
    return out.detach(), x.grad, token.grad


def setup(job: str, form: str) -> Call:
    """For the memory measurement: inputs made, the call ready."""
    return partial(forward_backward, JOBS[job][form], data(job))


def agree(mine: tuple[Tensor | None, ...], reference: tuple[Tensor | None, ...]) -> None:
    """Values and the gradient of x to rounding; the token's gradient is a sum over 20 000 rows."""
    for a, b, tolerance in zip(mine, reference, (1e-6, 1e-6, 2e-3), strict=True):
        if b is not None and a is not None:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=tolerance)


def run(job: str, rounds: int = 7, memory: bool = True) -> Report:
    inputs, forms = data(job), JOBS[job]
    jobs = {name: partial(forward_backward, form, inputs) for name, form in forms.items()}
    peaks = {name: partial(setup, job, name) for name in forms} if memory else None
    shape = f"{BATCH} x {TOKENS} x {DIM[job]}, {f'{HIDDEN} hidden' if job == 'replace' else f'{KEPT} visible'}"
    return compare(f"tokens_{job}", jobs, rounds=rounds, reference=list(forms)[-1], agree=agree, peaks=peaks,
                   title=f"Tokens, {job}, forward and backward, {shape}",
                   notes=("shared machine; ratios are formed inside a round", "memory includes the result and the gradients"))  # fmt: skip


main = command(__doc__, run, list(JOBS), rounds=7)

if __name__ == "__main__":
    main()
