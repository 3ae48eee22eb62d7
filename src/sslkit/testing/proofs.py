"""The ten proofs: what they are, which component needs which, and those that a machine can do without being told how."""

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sslkit._checks import wrong
from sslkit.testing.processes import equals_single_process, run_in_processes

PROOFS = {
    "golden": "equal to numbers of the official code",
    "loop": "equal to a loop written from the paper",
    "gradcheck": "gradient equal to finite differences in float64",
    "worlds": "two and three processes on different data equal one",
    "compile": "torch.compile(fullgraph=True) equal to eager",
    "half": "bf16 and fp16, in and out of autocast: finite, error within twice the dtype's own",
    "resume": "a state_dict round trip goes on exactly",
    "property": "property-based tests",
    "errors": "wrong input raises the three-part error",
    "pickle": "deepcopy, pickle and spawn",
}

REQUIRED = {
    "loss": ("golden", "loop", "gradcheck", "worlds", "compile", "half", "property", "errors", "pickle"),
    "masker": ("golden", "loop", "compile", "property", "errors", "pickle"),
    "target": ("golden", "loop", "gradcheck", "compile", "half", "property", "errors"),
    "module": ("golden", "loop", "gradcheck", "worlds", "compile", "half", "resume", "property", "errors", "pickle"),
    "augmentation": ("golden", "loop", "compile", "half", "property", "errors", "pickle"),
    "evaluation": ("golden", "loop", "half", "property", "errors"),
    "dataset": ("property", "errors", "pickle"),
    "plot": ("property", "errors"),
    "stem": ("property", "errors"),
}


def proves(component: str, *proofs: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Marks a test as the proof of a component: `@proves("losses.nt_xent", "golden")`. The table of proofs is made from these marks."""
    import pytest

    for proof in proofs:
        if proof not in PROOFS:
            raise wrong("proves", given=repr(proof), expected=f"one of {', '.join(PROOFS)}", mend="use a name of that list")
    return pytest.mark.proves(component, *proofs)


@dataclass(frozen=True)
class Component:
    """One line of the registry: a public component, how to call it, and why a cell of its row is empty.

    Args:
        name: "losses.nt_xent": subpackage and public name.
        kind: a key of REQUIRED.
        build: () -> the callable: a function, or a new module or dataclass with fixed weights and options.
        inputs: generator -> the tensors to call it with, the batch on the first axis; None: no proof of this component is mechanical.
        mechanical: proofs that `assert_proven` does for it.
        absent: proof -> the reason why it does not apply, or cannot be had.
    """

    name: str
    kind: str
    build: Callable[[], Callable[..., Any]] | None = None
    inputs: Callable[[torch.Generator], tuple[Tensor, ...]] | None = None
    mechanical: tuple[str, ...] = ()
    absent: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in REQUIRED:
            raise wrong("Component", given=f"kind={self.kind!r}", expected=f"one of {', '.join(REQUIRED)}", mend="choose the nearest kind")
        if unknown := (set(self.mechanical) - set(_MECHANICAL)) | (set(self.absent) - set(PROOFS)):
            raise wrong("Component", given=f"{sorted(unknown)}",
                        expected=f"mechanical proofs among {', '.join(_MECHANICAL)}, absent ones of PROOFS",
                        mend="prove the others by a marked test")  # fmt: skip
        if self.mechanical and (self.build is None or self.inputs is None):
            raise wrong(
                "Component", given="mechanical proofs without build or inputs", expected="both", mend="say how to build and call it"
            )


def assert_proven(component: Component, proof: str | None = None) -> None:
    """Does the mechanical proofs of a component, or the one named.

    Raises:
        AssertionError: a proof fails.
    """
    for name in component.mechanical if proof is None else (proof,):
        if component.build is None or component.inputs is None:
            raise wrong(
                "assert_proven", given=f"{component.name} without build or inputs", expected="both", mend="say how to build and call it"
            )
        _MECHANICAL[name](component.build(), component.inputs(torch.Generator().manual_seed(0)))


def gradient_is_exact(fn: Callable[..., Any], inputs: tuple[Tensor, ...]) -> None:
    """Gradients of the floating inputs, and of a module's parameters, equal finite differences in float64."""
    doubles = tuple(x.double().requires_grad_() if x.is_floating_point() else x for x in inputs)
    if not isinstance(fn, nn.Module):
        torch.autograd.gradcheck(fn, doubles)
        return
    module = copy.deepcopy(fn).double()
    names, parameters = zip(*module.named_parameters(), strict=True) if list(module.parameters()) else ((), ())

    def call(*tensors: Tensor) -> Any:
        given = dict(zip(names, tensors[len(doubles) :], strict=True))
        return torch.func.functional_call(module, given, tensors[: len(doubles)])

    torch.autograd.gradcheck(call, (*doubles, *(p.detach().requires_grad_() for p in parameters)))


def compiles(fn: Callable[..., Any], inputs: tuple[Tensor, ...], *, backend: str = "aot_eager") -> None:
    """One graph, forward and backward, and the results of eager: to 1e-5; to 1e-4 by inductor, whose code adds in another order."""
    torch.compiler.reset()
    expected = _run(fn, inputs)
    got = _run(torch.compile(copy.deepcopy(fn), fullgraph=True, backend=backend), inputs)
    rtol, atol = (1e-4, 1e-5) if backend == "inductor" else (1e-5, 1e-6)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def computes_in_float32(fn: Callable[..., Any], inputs: tuple[Tensor, ...]) -> None:
    """16-bit inputs, in and out of autocast: the value of the same inputs in float64 to 1e-5; the gradient within twice its rounding."""
    for dtype in (torch.bfloat16, torch.float16):
        rounded = tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)
        value, *gradients = _run(fn, tuple(x.double() if x.is_floating_point() else x for x in rounded))
        for autocast in (False, True):
            with torch.autocast("cpu", dtype=dtype, enabled=autocast):
                got, *got_gradients = _run(fn, rounded)
            torch.testing.assert_close(got.double(), value, rtol=1e-5, atol=1e-6)
            for a, b in zip(got_gradients, gradients, strict=True):
                own = (b.to(dtype).double() - b).norm()
                error = (a.double() - b).norm()
                if not error <= 2 * own + 1e-7:
                    raise AssertionError(f"{dtype}, autocast {autocast}: gradient error {error:.3g}, the dtype's own {own:.3g}")


def stays_near_float32(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """bf16 and fp16, in and out of autocast: finite, and autocast's error at most twice that of the module cast to the dtype."""
    expected = copy.deepcopy(module).double()(*[x.double() if x.is_floating_point() else x for x in inputs])
    for dtype in (torch.bfloat16, torch.float16):
        narrow = copy.deepcopy(module).to(dtype)(*[x.to(dtype) if x.is_floating_point() else x for x in inputs])
        with torch.autocast("cpu", dtype):
            mixed = copy.deepcopy(module)(*inputs)
        own, error = (narrow.double() - expected).norm(), (mixed.double() - expected).norm()
        if not (own.isfinite() and error <= 2 * own):
            raise AssertionError(f"{dtype}: error {error:.3g} in autocast, {own:.3g} of the module in that dtype")


def _half(fn: Callable[..., Any], inputs: tuple[Tensor, ...]) -> None:
    if isinstance(fn, nn.Module):
        stays_near_float32(fn, inputs)
    else:
        computes_in_float32(fn, inputs)


def pickles(fn: Callable[..., Any], inputs: tuple[Tensor, ...]) -> None:
    """A deep copy, a pickled copy, and a copy in a freshly spawned process give the same results."""
    expected = _run(fn, inputs)
    for other in (copy.deepcopy(fn), pickle.loads(pickle.dumps(fn))):
        for a, b in zip(_run(other, inputs), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    (answer,) = run_in_processes(_elsewhere, 1, fn, inputs)
    for a, b in zip(answer, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)  # another process may sum with another number of threads


def resumes(
    module: nn.Module, step: Callable[[nn.Module], Any], *, fresh: Callable[[], nn.Module] | None = None, before: int = 3, after: int = 3
) -> None:
    """`before` steps, save, load into a fresh module, `after` steps: bit for bit the unbroken run. `step` changes the module in place.

    Args:
        module: the component in its start state.
        step: one step; must be a function of the module's state alone, or take its data from a counter that it resets with the module.
        fresh: () -> a module to load into; default: a copy of the start.
        before: steps before the state is saved.
        after: steps after it.
    """
    start = copy.deepcopy(module)
    for _ in range(before):
        step(module)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    resumed = fresh() if fresh is not None else start
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(after):
        step(module)
        step(resumed)
    for (name, a), b in zip(module.state_dict().items(), resumed.state_dict().values(), strict=True):
        if not torch.equal(a, b):
            raise AssertionError(f"{name} after the resume: {b} instead of {a}")


def _run(fn: Callable[..., Any], inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The result, then the gradients of floating inputs and parameters: of the result if scalar, else of its product with fixed numbers."""
    leaves = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]
    weights = list(fn.parameters()) if isinstance(fn, nn.Module) else []
    out = fn(*leaves)
    if not (isinstance(out, Tensor) and out.requires_grad):
        return [x.detach() for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, Tensor)]
    fixed = torch.linspace(-1, 1, out.numel(), dtype=torch.float32).view(out.shape) if out.ndim else torch.ones(())
    wanted = [x for x in [*leaves, *weights] if x.requires_grad]
    gradients = torch.autograd.grad((out * fixed.to(out.dtype)).sum(), wanted, allow_unused=True)
    return [out.detach(), *[torch.zeros_like(x) if g is None else g for x, g in zip(wanted, gradients, strict=True)]]


def _elsewhere(fn: Callable[..., Any], inputs: tuple[Tensor, ...], *, group: Any) -> list[Tensor]:
    return _run(fn, inputs)


def _worlds(fn: Callable[..., Any], inputs: tuple[Tensor, ...]) -> None:
    equals_single_process(fn, inputs=inputs)


_MECHANICAL: dict[str, Callable[[Callable[..., Any], tuple[Tensor, ...]], None]] = {
    "gradcheck": gradient_is_exact,
    "worlds": _worlds,
    "compile": compiles,
    "half": _half,
    "pickle": pickles,
}
