"""What the three token operations share in their tests: inputs, and the checks that are the same for all."""

import copy

import torch

from sslkit.kernels import gather_tokens, replace_tokens, scatter_tokens


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def unique_ids(batch, tokens, kept, seed=0, dtype=torch.int64):
    """[batch, kept], unique inside a row, in random order."""
    return torch.rand(batch, tokens, generator=seeded(seed)).argsort(dim=1)[:, :kept].to(dtype)


def gather_inputs(batch=3, tokens=7, dim=4, kept=3, prefix=2, dtype=torch.float64):
    g = seeded(1)
    floats = (torch.randn(batch, tokens, dim, generator=g), torch.randn(tokens, dim, generator=g), torch.randn(prefix, dim, generator=g))
    x, positions, prefix = (t.to(dtype).requires_grad_() for t in floats)
    ids = unique_ids(batch, tokens, kept)
    return (x, positions, prefix), lambda x, positions, prefix, **o: gather_tokens(x, ids, positions=positions, prefix=prefix, **o)


def scatter_inputs(batch=3, tokens=7, dim=4, kept=3, prefix=2, dtype=torch.float64):
    g = seeded(2)
    floats = (torch.randn(batch, prefix + kept, dim, generator=g), torch.randn(dim, generator=g),
              torch.randn(prefix + tokens, dim, generator=g))  # fmt: skip
    x, token, positions = (t.to(dtype).requires_grad_() for t in floats)
    ids = unique_ids(batch, tokens, kept)
    return (x, token, positions), lambda x, token, positions, **o: scatter_tokens(
        x, ids, tokens, token, positions=positions, prefix=prefix, **o
    )


def replace_inputs(batch=3, tokens=7, dim=4, kept=3, prefix=0, dtype=torch.float64):
    g = seeded(3)
    mask = torch.rand(batch, tokens, generator=g) < 0.5  # rows hide different numbers
    x, token = (torch.randn(*shape, generator=g).to(dtype).requires_grad_() for shape in ((batch, tokens, dim), (dim,)))
    return (x, token), lambda x, token, **o: replace_tokens(x, mask, token, **o)


OPERATIONS = {"gather_tokens": gather_inputs, "scatter_tokens": scatter_inputs, "replace_tokens": replace_inputs}


def value_and_gradients(function, inputs):
    """The result, and the gradients of its inner product with fixed numbers."""
    leaves = [x.detach().clone().requires_grad_(x.requires_grad) for x in inputs]
    out = function(*leaves)
    weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float32).view(out.shape).to(out.dtype)
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    return [out.detach(), *(torch.autograd.grad(out, wanted, weights) if wanted else ())]


def double_gradients(function, inputs):
    """Gradients with respect to the inputs of a number made from first gradients that depend on the inputs."""
    leaves = [copy.deepcopy(x.detach()).requires_grad_() for x in inputs]
    first = torch.autograd.grad(function(*leaves).pow(3).sum(), leaves, create_graph=True)
    return torch.autograd.grad(sum(f.square().sum() for f in first), leaves)
