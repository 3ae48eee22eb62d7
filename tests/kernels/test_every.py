"""What holds for every token operation: registration, gradients, compilation, dtypes, dispatch, errors."""

import subprocess
import sys

import pytest
import torch
from tests.kernels.operations import OPERATIONS, double_gradients, seeded, unique_ids, value_and_gradients
from torch._subclasses import FakeTensorMode

from sslkit.kernels import Choice, explain, gather_tokens, replace_tokens, scatter_tokens, use_backend
from sslkit.testing import proves

every = pytest.mark.parametrize("name", OPERATIONS)


def proves_all(*proofs):
    def mark(test):
        for name in OPERATIONS:
            test = proves(f"kernels.{name}", *proofs)(test)
        return test

    return mark


def registered(name, arguments):
    torch.library.opcheck(getattr(torch.ops.sslkit, name).default, arguments)


@every
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # opcheck's own look at its copies
def test_registration_is_sound(name, grad):
    """All tests of opcheck: schema, autograd registration, fake tensors, and compilation with dynamic shapes."""
    x = torch.randn(3, 5, 4, generator=seeded(), requires_grad=grad)
    rows = torch.randn(5, 4, generator=seeded(1), requires_grad=grad)
    token = torch.randn(4, generator=seeded(2), requires_grad=grad)
    ids, mask = unique_ids(3, 5, 2), torch.rand(3, 5, generator=seeded()) < 0.5
    if name == "gather_tokens":
        for positions, prefix, dtype in [(rows, rows[:2].detach().requires_grad_(grad), None), (None, None, torch.float64)]:
            registered(name, (x, ids, positions, prefix, dtype, "auto"))
        registered(f"{name}_backward", (torch.randn(3, 4, 4, requires_grad=grad), ids, 5, 2, torch.float32, torch.float32, None, "auto"))
        registered(f"{name}_backward", (torch.randn(3, 2, 4, requires_grad=grad), ids, 5, 0, None, torch.float32, None, "auto"))
    elif name == "scatter_tokens":
        visible = x[:, :3].detach().requires_grad_(grad)
        registered(name, (visible, ids, 4, token, rows, 1, None, "auto"))
        registered(name, (x[:, :2].detach().requires_grad_(grad), ids.clamp(max=3), 5, token, None, 0, torch.float64, "reference"))
        registered(f"{name}_backward", (x.detach().requires_grad_(grad), ids.clamp(max=3), 4, 1, *[torch.float32] * 3, "auto"))
        registered(f"{name}_backward", (x.detach().requires_grad_(grad), ids, 5, 0, None, torch.float32, None, "auto"))
    else:
        registered(name, (x, mask, token, "auto"))
        registered(f"{name}_backward", (x.detach().requires_grad_(grad), mask, torch.float32, torch.float32, "auto"))
        registered(f"{name}_backward", (x.detach().requires_grad_(grad), mask, None, torch.float32, "auto"))


@proves_all("gradcheck")
@every
@pytest.mark.parametrize("wanted", range(1, 8))
def test_gradients_are_exact(name, wanted):
    """All subsets of the inputs: what is not wanted is not computed."""
    inputs, function = OPERATIONS[name]()
    needs = [bool(wanted >> i & 1) for i in range(len(inputs))]
    if not any(needs):
        return
    leaves = tuple(x.detach().clone().requires_grad_(need) for x, need in zip(inputs, needs, strict=True))
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@every
def test_double_backward_equals_plain_torch(name):
    inputs, function = OPERATIONS[name]()
    plain = {"gather_tokens": plain_gather, "scatter_tokens": plain_scatter, "replace_tokens": plain_replace}[name]
    for got, expected in zip(double_gradients(function, inputs), double_gradients(plain, inputs), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def plain_gather(x, positions, prefix):
    ids = unique_ids(3, 7, 3)[..., None].expand(-1, -1, x.shape[2])
    return torch.cat([prefix.expand(len(x), -1, -1), (x + positions).gather(1, ids)], dim=1)


def plain_scatter(x, token, positions):
    ids = unique_ids(3, 7, 3)[..., None].expand(-1, -1, x.shape[2])
    return torch.cat([x[:, :2], token.expand(len(x), 7, -1).scatter(1, ids, x[:, 2:])], dim=1) + positions


def plain_replace(x, token):
    return torch.where(torch.rand(3, 7, generator=seeded(3))[..., None] < 0.5, token, x)


@proves_all("compile")
@every
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.full)])
def test_compiles_in_one_graph_forward_and_backward(name, backend):
    torch.compiler.reset()
    inputs, function = OPERATIONS[name](dtype=torch.float32)
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    for got, expected in zip(value_and_gradients(compiled, inputs), value_and_gradients(function, inputs), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@proves_all("compile")
def test_one_graph_serves_every_batch_size():
    torch.compiler.reset()
    graphs = []

    def count(graph, examples):
        graphs.append(graph)
        return graph

    def step(x, ids, mask, token):
        return scatter_tokens(gather_tokens(x, ids), ids, x.shape[1], token) + replace_tokens(x, mask, token)

    compiled = torch.compile(step, fullgraph=True, backend=count, dynamic=True)
    for batch in (6, 5, 8):  # unlike the other sizes: equal ones share a symbol
        x, token = torch.randn(batch, 7, 4, generator=seeded()), torch.randn(4, generator=seeded())
        ids, mask = unique_ids(batch, 7, 3), torch.rand(batch, 7, generator=seeded()) < 0.5
        torch.testing.assert_close(compiled(x, ids, mask, token), step(x, ids, mask, token), rtol=0, atol=0)
    assert len(graphs) == 1


@every
def test_exports(name):
    inputs, function = OPERATIONS[name](dtype=torch.float32)
    inputs = tuple(x.detach() for x in inputs)

    class Model(torch.nn.Module):
        def forward(self, *tensors):
            return function(*tensors)

    exported = torch.export.export(Model(), inputs)
    torch.testing.assert_close(exported.module()(*inputs), function(*inputs), rtol=0, atol=0)
    assert f"sslkit.{name}.default" in str(exported.graph)


@every
def test_sizes_dtypes_and_strides_are_known_on_a_device_without_numbers(name):
    inputs, function = OPERATIONS[name](dtype=torch.bfloat16)
    real = value_and_gradients(function, inputs)

    def run(device, grad):
        fakes = [torch.empty(x.shape, dtype=x.dtype, device=device, requires_grad=grad) for x in inputs]
        ids, mask = torch.empty(3, 3, dtype=torch.int64, device=device), torch.empty(3, 7, dtype=torch.bool, device=device)
        if name == "gather_tokens":
            out = gather_tokens(fakes[0], ids, positions=fakes[1], prefix=fakes[2])
        elif name == "scatter_tokens":
            out = scatter_tokens(fakes[0], ids, 7, fakes[1], positions=fakes[2], prefix=2)
        else:
            out = replace_tokens(fakes[0], mask, fakes[1])
        return [out, *(torch.autograd.grad(out, fakes, torch.empty_like(out)) if grad else ())]

    with FakeTensorMode():
        (on_a_gpu,) = run("cuda", grad=False)  # autograd asks the driver for the device, so the gradients are taken below
        assert (on_a_gpu.device.type, on_a_gpu.shape, on_a_gpu.stride()) == ("cuda", real[0].shape, real[0].stride())
    for got, expected in zip(run("meta", grad=True), real, strict=True):
        assert (got.shape, got.dtype, got.stride()) == (expected.shape, expected.dtype, expected.stride())


@proves_all("half")
@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_sixteen_bits(name, dtype, autocast):
    """The result rounds once; a gradient's error is at most twice its own rounding. Both against float64 on the same numbers."""
    inputs, function = OPERATIONS[name](batch=16, tokens=49, dim=8, kept=12, dtype=dtype)
    expected = value_and_gradients(lambda *leaves: function(*leaves), [x.detach().double().requires_grad_() for x in inputs])
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        got = value_and_gradients(function, inputs)
    weights = torch.linspace(-1, 1, expected[0].numel()).view(expected[0].shape)
    exact = torch.autograd.grad(function(*(leaves := [x.detach().double().requires_grad_() for x in inputs])), leaves,
                                weights.to(dtype).double())  # the incoming gradient as the 16-bit run sees it  # fmt: skip
    for a, b in zip(got, [expected[0], *exact], strict=True):
        assert a.dtype == dtype
        assert a.isfinite().all()
        own = (b.to(dtype).double() - b).norm()
        assert (a.double() - b).norm() <= 2 * own + 1e-9


@every
def test_dtypes_promote(name):
    inputs, function = OPERATIONS[name](dtype=torch.bfloat16)
    for i in range(len(inputs)):
        mixed = [x.detach().float() if i == j else x.detach() for j, x in enumerate(inputs)]
        mixed = [x.requires_grad_() for x in mixed]
        out, *gradients = value_and_gradients(function, mixed)
        assert out.dtype == torch.float32
        assert [g.dtype for g in gradients] == [x.dtype for x in mixed]
    if name != "replace_tokens":
        wide = function(*inputs, out_dtype=torch.float32)
        assert wide.dtype == torch.float32
        torch.testing.assert_close(wide, function(*(x.float() for x in inputs)), rtol=0, atol=0)  # computed wide, not widened
        assert function(*(x.float() for x in inputs), out_dtype=torch.float16).dtype == torch.float16


@every
def test_results_share_no_memory_and_are_contiguous(name):
    inputs, function = OPERATIONS[name]()
    results = value_and_gradients(function, inputs)
    assert all(r.is_contiguous() for r in results)
    pointers = {r.untyped_storage().data_ptr() for r in (*results, *inputs)}
    assert len(pointers) == len(results) + len(inputs)


@every
def test_the_version_that_runs_is_told(name):
    x = torch.randn(2, 3, 4)
    assert explain(name, x) == Choice("reference", f"{name} has no fused version for cpu and torch.float32")
    assert explain(name, x, "reference") == Choice("reference", "asked for by name")
    with use_backend("reference"):
        assert explain(name, x).reason == "asked for by name"
    with pytest.raises(
        ValueError, match=f'{name}: got backend="fused", but {name} has no fused version .*; expected "auto" or "reference"'
    ):
        explain(name, x, "fused")


EXPLAIN_ON_A_GPU = """
import sys
{hide}
import torch
from torch._subclasses import FakeTensorMode
from sslkit.kernels import explain
with FakeTensorMode():
    for dtype in (torch.bfloat16, torch.float64):
        print(explain("gather_tokens", torch.empty(2, 3, 4, dtype=dtype, device="cuda")))
"""


@pytest.mark.parametrize("hidden", ["no", "triton", "an old triton"])
def test_a_gpu_takes_the_fused_version_where_triton_is(hidden):
    """Asked in a process of its own, in which Triton is there, absent, or of another year. Nothing else of the package misses it."""
    pytest.importorskip("triton", reason="Triton is not made for this system")
    hide = {
        "no": "",
        "triton": "sys.modules['triton'] = None",
        "an old triton": "import triton; triton.__version__ = '3.5.1+git'",
    }[hidden]
    run = subprocess.run([sys.executable, "-c", EXPLAIN_ON_A_GPU.format(hide=hide)], capture_output=True, text=True, check=True)
    expected = [
        Choice("fused", "gather_tokens has a fused version for cuda") if hidden == "no"
        else Choice("reference", "Triton 3.6 or newer is not installed"),
        Choice("reference", "gather_tokens has no fused version for cuda and torch.float64"),
    ]  # fmt: skip
    assert run.stdout.splitlines() == list(map(str, expected))


@proves_all("errors")
@every
def test_an_explicit_backend_that_cannot_run_raises(name):
    inputs, function = OPERATIONS[name]()
    for call in (lambda: function(*inputs, backend="fused"), lambda: torch.compile(function, backend="eager")(*inputs, backend="fused")):
        with pytest.raises(Exception, match=f'{name}: got backend="fused", but {name} has no fused version'):
            call()
    with use_backend("fused"), pytest.raises(ValueError, match="To mend: leave backend out"):
        function(*inputs)
    with use_backend("fused"):
        function(*inputs, backend="reference")  # a backend named in the call stands above the block's
        with use_backend("auto"):
            function(*inputs)
    function(*inputs)
    with pytest.raises(ValueError, match=f"{name}: got backend='quick'; expected 'auto' or 'reference' or 'fused'"):
        function(*inputs, backend="quick")


def test_backends_and_operations_must_be_known():
    with pytest.raises(ValueError, match="use_backend: got backend='fast'"), use_backend("fast"):
        pass
    names = "gather_patches, gather_tokens, hog, masked_pixel_loss, replace_tokens, scatter_tokens"
    with pytest.raises(ValueError, match=f"explain: got 'gather'; expected one of {names}"):
        explain("gather", torch.ones(1, 1, 1))


def test_a_block_reaches_a_compiled_call():
    torch.compiler.reset()
    compiled = torch.compile(lambda x, i: gather_tokens(x, i), fullgraph=True, backend="aot_eager")
    x, ids = torch.randn(2, 5, 3), unique_ids(2, 5, 2)
    compiled(x, ids)
    with use_backend("fused"), pytest.raises(ValueError, match="no fused version"):
        compiled(x, ids)
    assert torch.equal(compiled(x, ids), gather_tokens(x, ids))


@proves_all("property")
@every
def test_empty_and_tiny_sizes(name):
    for batch, tokens, dim, kept in [(0, 4, 3, 2), (2, 4, 0, 2), (2, 4, 3, 0), (2, 4, 3, 4), (1, 1, 1, 1), (1, 1, 1, 0), (2, 0, 3, 0)]:
        for prefix in (0, 1):
            inputs, function = OPERATIONS[name](batch=batch, tokens=tokens, dim=dim, kept=kept, prefix=prefix)
            results = value_and_gradients(function, inputs)
            assert [r.shape for r in results[1:]] == [x.shape for x in inputs]
            assert all(r.isfinite().all() for r in results)


@proves_all("property")
@every
def test_any_strides_give_the_same(name):
    inputs, function = OPERATIONS[name](dtype=torch.float32)
    expected = value_and_gradients(function, inputs)
    x = inputs[0].detach()
    batch, _, dim = x.shape
    views = {
        "a slice of tokens": torch.cat([x.new_full((batch, 2, dim), torch.nan), x], dim=1)[:, 2:],
        "a slice of the batch": torch.stack([x, x + 1], dim=1)[:, 0],
        "every second row": torch.stack([x, x + 1], dim=2).flatten(1, 2)[:, ::2],
        "a slice of dims": torch.cat([x, x], dim=2)[:, :, :dim],
        "transposed": x.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        "tokens first": x.transpose(0, 1).contiguous().transpose(0, 1),
    }
    for view in views.values():
        assert torch.equal(view, x)
        leaf = view.requires_grad_()
        out = function(leaf, *inputs[1:])
        assert torch.equal(out, expected[0])
        weights = torch.linspace(-1, 1, out.numel()).view(out.shape)
        strided = weights.transpose(0, 2).contiguous().transpose(0, 2)
        assert torch.equal(torch.autograd.grad(out, leaf, strided)[0], expected[1])
    same = x[:1].expand(batch, -1, -1)
    assert torch.equal(function(same, *inputs[1:]), function(same.contiguous(), *inputs[1:]))
