"""Every public component has its row of proofs, and the mechanical ones hold."""

import importlib

import pytest

from sslkit.testing import assert_proven
from tests.registry import COMPONENTS, ROOT, marked, missing, table

# Petals whose every public callable must be registered.
PETALS = ["losses", "modules", "augmentations", "backbones", "evaluation", "datasets"]
# Results, constants and helpers of a registered component, which its proofs cover.
PARTS: dict[str, str] = {}


@pytest.mark.parametrize(("component", "proof"), [(c, p) for c in COMPONENTS for p in c.mechanical], ids=lambda x: getattr(x, "name", x))
def test_mechanical_proof(component, proof):
    assert_proven(component, proof)


def test_every_public_component_is_registered():
    known = {c.name for c in COMPONENTS} | PARTS.keys()
    public = {f"{petal}.{name}" for petal in PETALS for name in importlib.import_module(f"sslkit.{petal}").__all__}
    assert sorted(public - known) == []
    assert sorted(known - public) == []


def test_no_required_cell_is_missing():
    cells = marked()
    assert {c.name: missing(c, cells) for c in COMPONENTS if missing(c, cells)} == {}


def test_marks_name_registered_components():
    assert sorted({component for component, _ in marked()} - {c.name for c in COMPONENTS}) == []


def test_the_table_in_the_docs_is_current():
    assert (ROOT / "docs" / "proofs.md").read_text() == table(), "run `python -m tests.registry`"
