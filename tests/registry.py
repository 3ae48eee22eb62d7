"""The registry of proofs: one line per public component. `python -m tests.registry` writes docs/proofs.md.

A component of a petal that is not listed, and a listed one with a missing cell, fail tests/test_proofs.py.
"""

import ast
from functools import partial
from pathlib import Path

import torch

from sslkit.backbones import convnet_small
from sslkit.losses import nt_xent
from sslkit.modules import MLPProjector
from sslkit.testing import PROOFS, Component
from sslkit.testing.proofs import REQUIRED

ROOT = Path(__file__).parent.parent

NO_NUMBERS = "no official numbers exist for it"
OWN_SET = "this data set is defined here"


def _two_views(generator):
    return tuple(torch.randn(2, 7, 6, generator=generator))


def _projector():
    torch.manual_seed(0)
    return MLPProjector(6, 8, 4)


def _convnet():
    torch.manual_seed(0)
    return convnet_small(width=2)


COMPONENTS = [
    Component("losses.nt_xent", "loss", lambda: partial(nt_xent, temperature=0.2), _two_views, ("gradcheck", "worlds", "compile", "half", "pickle")),
]


def marked() -> dict[tuple[str, str], list[str]]:
    """(component, proof) -> tests marked with `@proves(component, ..., proof, ...)`, read from the sources, so that a selection hides none."""
    cells: dict[tuple[str, str], list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text())
        constants = {n.targets[0].id: n.value for n in tree.body if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                continue
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "proves":
                    component, *proofs = [ast.literal_eval(constants.get(getattr(a, "id", ""), a)) for a in decorator.args]
                    for proof in proofs:
                        cells.setdefault((component, proof), []).append(f"{path.relative_to(ROOT)}::{node.name}")
    return cells


def missing(component: Component, cells: dict[tuple[str, str], list[str]]) -> list[str]:
    """Required proofs that are neither mechanical, nor marked on a test, nor excused."""
    return [
        proof
        for proof in REQUIRED[component.kind]
        if proof not in component.mechanical and proof not in component.absent and (component.name, proof) not in cells
    ]


def table() -> str:
    """docs/proofs.md."""
    cells = marked()
    lines = [
        "# What is proven",
        "",
        "Made by `python -m tests.registry` from the tests. A tick is a test that runs in `make test`; an empty cell does not apply.",
        "A component that lacks a required cell without a reason fails the tests.",
        "",
        *[f"- **{name}**: {meaning}." for name, meaning in PROOFS.items()],
        "",
        "| component | " + " | ".join(PROOFS) + " |",
        "|---|" + "---|" * len(PROOFS),
    ]
    reasons: list[str] = []
    for component in COMPONENTS:
        row = []
        for proof in PROOFS:
            if proof in component.mechanical or (component.name, proof) in cells:
                row.append("✓")
            elif proof in component.absent and proof in REQUIRED[component.kind]:
                reason = component.absent[proof]
                if reason not in reasons:
                    reasons.append(reason)
                row.append(f"[{reasons.index(reason) + 1}]")
            else:
                row.append("")
        lines.append(f"| `{component.name}` | " + " | ".join(row) + " |")
    lines += ["", *[f"{i}. {reason}." for i, reason in enumerate(reasons, 1)], ""]
    return "\n".join(lines)


if __name__ == "__main__":
    (ROOT / "docs" / "proofs.md").write_text(table())
