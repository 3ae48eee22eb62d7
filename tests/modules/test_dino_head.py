"""DINO's head: official numbers, the formula row by row, what its two norms promise, names of other files."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sslkit.modules import DINOHead
from sslkit.testing import proves

NAME = "modules.DINOHead"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def head(dim=6, out_dim=9, **options):
    torch.manual_seed(0)
    return DINOHead(dim, out_dim, **{"hidden": 8, "bottleneck": 5, **options})


@proves(NAME, "golden")
@pytest.mark.parametrize("case", ["plain", "free_gain", "bn", "one_layer"])
def test_official_numbers(golden, case):
    """Outputs and gradients, training and evaluation; which parameters have a gradient at all; the statistics of a batch norm."""
    g = golden("dino_head")
    dim, out_dim, layers, hidden, bottleneck, norm_last_layer, batch_norm = g[f"{case}/config"].tolist()
    module = DINOHead(dim, out_dim, hidden=hidden, bottleneck=bottleneck, layers=layers, batch_norm=bool(batch_norm),
                      norm_last_layer=bool(norm_last_layer))  # fmt: skip
    start = f"{case}/state/"
    module.load_state_dict({name.removeprefix(start): g.tensor(name) for name in g if name.startswith(start)})
    x = g.tensor(f"{case}/x").requires_grad_()
    y = module(x)
    y.backward(g.tensor(f"{case}/grad_out"))
    torch.testing.assert_close(y.detach(), g.tensor(f"{case}/y_train"), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x.grad, g.tensor(f"{case}/grad_x"), rtol=1e-4, atol=1e-5)
    for name, parameter in module.named_parameters():
        assert parameter.requires_grad == g.number(f"{case}/requires_grad/{name}"), name
        assert (parameter.grad is None) == (f"{case}/grad/{name}" not in g), name
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, g.tensor(f"{case}/grad/{name}"), rtol=1e-4, atol=1e-5)
    after = {name.split("after_train/")[1]: g.tensor(name) for name in g if name.startswith(f"{case}/state_after_train/")}
    assert after.keys() == dict(module.named_buffers()).keys()
    for name, buffer in module.named_buffers():
        torch.testing.assert_close(buffer, after[name], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module.eval()(x).detach(), g.tensor(f"{case}/y_eval"), rtol=1e-4, atol=1e-5)


@proves(NAME, "golden")
def test_official_zero_row(golden):
    g = golden("dino_head")
    state = {name.removeprefix("zero_row/state/"): g.tensor(name) for name in g if name.startswith("zero_row/state/")}
    bottleneck, dim = state["mlp.weight"].shape
    module = DINOHead(dim, len(state["last_layer.weight_g"]), bottleneck=bottleneck, layers=1)
    module.load_state_dict(state)
    y = module(g.tensor("zero_row/x"))
    assert (y[0] == 0).all()
    torch.testing.assert_close(y.detach(), g.tensor("zero_row/y"), rtol=1e-4, atol=1e-5)


def product(row, matrix):
    return [sum(a * b for a, b in zip(row, line, strict=True)) for line in matrix]


def normalised(column):
    mean = sum(column) / len(column)
    spread = math.sqrt(sum((a - mean) ** 2 for a in column) / len(column) + 1e-5)
    return [(a - mean) / spread for a in column]


@proves(NAME, "loop")
@pytest.mark.parametrize(("layers", "batch_norm"), [(1, False), (2, False), (3, True)])
def test_equals_the_formula_number_by_number(layers, batch_norm):
    module = head(layers=layers, batch_norm=batch_norm, norm_last_layer=False).double()
    module.last_layer.weight_g.data.uniform_(0.5, 2, generator=seeded())
    x = torch.randn(4, 6, generator=seeded(1), dtype=torch.float64)
    linears = [m for m in module.mlp.modules() if isinstance(m, nn.Linear)]
    assert len(linears) == layers
    rows = x.tolist()
    for linear in linears:
        weight, bias = linear.weight.tolist(), linear.bias.tolist()
        rows = [[a + b for a, b in zip(product(row, weight), bias, strict=True)] for row in rows]
        if linear is linears[-1]:
            break
        if batch_norm:
            rows = list(zip(*map(normalised, zip(*rows, strict=True)), strict=True))
        rows = [[a * 0.5 * (1 + math.erf(a / math.sqrt(2))) for a in row] for row in rows]
    gains, directions = module.last_layer.weight_g.flatten().tolist(), module.last_layer.weight_v.tolist()
    prototypes = [[gain * a / math.hypot(*v) for a in v] for gain, v in zip(gains, directions, strict=True)]
    expected = [product([a / math.hypot(*h) for a in h], prototypes) for h in rows]
    torch.testing.assert_close(module(x), torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-12)


@proves(NAME, "property")
@settings(max_examples=25)
@given(
    sizes=st.tuples(*[st.integers(1, 9)] * 4),
    layers=st.integers(1, 4),
    free=st.booleans(),
    power=st.integers(-8, 8),
    seed=st.integers(0, 99),
)
def test_logits_are_bounded_by_the_gain_and_blind_to_the_length_of_the_bottleneck(sizes, layers, free, power, seed):
    dim, out_dim, hidden, bottleneck = sizes
    module = DINOHead(dim, out_dim, hidden=hidden, bottleneck=bottleneck, layers=layers, norm_last_layer=not free).double()
    x = torch.randn(3, dim, generator=seeded(seed), dtype=torch.float64)
    last = module.mlp if layers == 1 else module.mlp[-1]
    last.bias.data.fill_(0.5)
    module.last_layer.weight_g.data.uniform_(0, 3, generator=seeded(seed))
    logits = module(x)
    assert logits.shape == (3, out_dim)
    assert (logits.abs() <= module.last_layer.weight_g.T + 1e-12).all()
    for tensor in (last.weight, last.bias, module.last_layer.weight_v):  # a power of two, which rounds nothing
        tensor.data.mul_(2.0**power)
    torch.testing.assert_close(module(x), logits, rtol=1e-12, atol=1e-12)
    assert module.last_layer.weight_g.requires_grad == free


@proves(NAME, "property")
@pytest.mark.parametrize("batch_norm", [False, True])
def test_all_leading_axes_are_one_batch(batch_norm):
    module, x = head(batch_norm=batch_norm), torch.randn(2, 3, 4, 6, generator=seeded())
    rows = copy.deepcopy(module)(x.flatten(0, 2))
    torch.testing.assert_close(module(x), rows.view(2, 3, 4, 9), rtol=0, atol=0)
    assert head()(x[:0]).shape == (0, 3, 4, 9)


@proves(NAME, "property")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_row_of_zeros_has_finite_gradients(dtype):
    module = head(layers=1).to(dtype)
    x = torch.zeros(2, 6, dtype=dtype, requires_grad=True)
    y = module(x)
    y.backward(torch.full_like(y, 1e-3))
    assert y.eq(0).all()
    assert y.dtype == dtype
    for gradient in (x.grad, module.mlp.weight.grad, module.last_layer.weight_v.grad):
        assert gradient.isfinite().all()


@proves(NAME, "property")
def test_start_and_size():
    module = head(dim=300, hidden=400, bottleneck=200, out_dim=500)
    for linear in (m for m in module.mlp if isinstance(m, nn.Linear)):
        assert linear.bias.eq(0).all()
        # 80,000 numbers and more: their spread is known to 0.25 % standard error, their mean to 0.02 / sqrt(80000)
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert abs(linear.weight.mean().item()) < 5 * 0.02 / math.sqrt(linear.weight.numel())
    assert module.last_layer.weight_g.eq(1).all()
    bound = 1 / math.sqrt(200)  # of torch's Linear
    assert 0.99 * bound < module.last_layer.weight_v.abs().max().item() <= bound
    with torch.device("meta"):
        assert sum(p.numel() for p in DINOHead(384, 65536).parameters()) == 22_352_128


@proves(NAME, "property")
def test_reads_the_names_of_torchs_weight_norms():
    """The parametrised one's, and through them those of the public files, which are this module's own."""
    module = head(norm_last_layer=False)
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(5, 9, bias=False), dim=0)
    linear.parametrizations.weight.original0.data.uniform_(0.5, 2, generator=seeded())
    state = {**{f"mlp.{name}": x for name, x in head(dim=6, layers=3).mlp.state_dict().items()},
             **{f"last_layer.{name}": x for name, x in linear.state_dict().items()}}  # fmt: skip
    names = set(state)
    module.load_state_dict(state)
    assert set(state) == names  # the caller's own is not changed
    h = nn.functional.normalize(module.mlp(torch.randn(4, 6, generator=seeded(1))), dim=-1)
    torch.testing.assert_close(module.last_layer(h), linear(h))
    linear.load_state_dict(module.last_layer.state_dict())  # torch reads ours
    nested = nn.ModuleDict({"head": head(norm_last_layer=False)})
    nested.load_state_dict({f"head.{name}": x for name, x in state.items()})
    torch.testing.assert_close(nested["head"].last_layer(h), linear(h))
    assert set(module.state_dict()) >= {"last_layer.weight_g", "last_layer.weight_v", "mlp.0.weight", "mlp.4.bias"}


@proves(NAME, "property")
def test_its_batch_norms_become_synchronised_ones():
    module = nn.SyncBatchNorm.convert_sync_batchnorm(head(batch_norm=True))
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in module.modules()) == 2
    assert not any(isinstance(m, nn.BatchNorm1d) for m in module.modules())


@proves(NAME, "errors")
def test_errors():
    with pytest.raises(ValueError, match=r"DINOHead: got embeddings \[2, 7\] with an axis=7; expected an axis=6. To mend"):
        head()(torch.zeros(2, 7))
    with pytest.raises(TypeError, match="DINOHead: got embeddings of dtype torch.int64; expected a floating dtype"):
        head()(torch.zeros(2, 6, dtype=torch.int64))
    for name in ("dim", "out_dim", "hidden", "bottleneck", "layers"):
        with pytest.raises(ValueError, match=f"DINOHead: got {name}=0; expected a whole {name} from 1 on"):
            head(**{name: 0})
