"""Every public component has its row of proofs, and the mechanical ones hold."""

import importlib
import inspect
import re

import pytest
import torch
from tests.registry import COMPONENTS, ROOT, marked, missing, table

from sslkit.testing import assert_proven, compiles

# Petals whose every public callable must be registered.
PETALS = ["losses", "targets", "maskers", "kernels", "modules", "augmentations", "backbones", "evaluation", "datasets", "plots", "saliency"]
BESIDE = {"dino_mse_loss", "spherical_kmeans"}  # take a group and are not on the page: a mean over rows; no loss
STEM = ["patches", "schedules", "optim", "counter", "distributed"]
# Results, constants and bases, which the proofs of the components that return or use them cover.
PARTS = {
    "augmentations": {"Augmentation", "IMAGENET_MEAN", "IMAGENET_STD"},
    "backbones": {"ConvNet", "Tokens", "vit_base", "vit_huge", "vit_large", "vit_small", "vit_tiny"},
    "patches": {"Order"},
    "maskers": {"Masker"},
    "modules": {"Neighbours"},
    "kernels": {"Choice", "explain", "use_backend"},
    "distributed": {"Gathered", "row_count", "world_size"},
    "losses": {"Clusters"},
    "evaluation": {"Accuracy", "CollapseReport", "FBetaResult", "FewShotResult", "JaccardResult", "KNNResult", "LearningRateRow",
                   "LinearResult", "Neighbours", "Spread"},
    "datasets": {"CLASSES", "FAMILIES", "MOTIONS", "ORIENTED", "Broken", "ClipBatch", "ClipItem", "FolderBatch", "FolderItem",
                 "LoadedImages", "RetrievalTruth", "SceneBatch", "Split", "VideoBatch"},
    "plots": {"GREEN", "RED", "save_picture"},
}  # fmt: skip


@pytest.mark.parametrize(("component", "proof"), [(c, p) for c in COMPONENTS for p in c.mechanical], ids=lambda x: getattr(x, "name", x))
def test_mechanical_proof(component, proof):
    assert_proven(component, proof)


@pytest.mark.full
@pytest.mark.parametrize("component", [c for c in COMPONENTS if "compile" in c.mechanical], ids=lambda x: x.name)
def test_inductor_equals_eager(component):
    compiles(component.build(), component.inputs(torch.Generator().manual_seed(0)), backend="inductor")


def test_every_public_component_is_registered():
    known = {c.name for c in COMPONENTS} | {f"{petal}.{name}" for petal, names in PARTS.items() for name in names}
    public = {f"{petal}.{name}" for petal in PETALS + STEM for name in importlib.import_module(f"sslkit.{petal}").__all__}
    assert sorted(public - known) == []
    assert sorted(known - public) == []


def test_no_required_cell_is_missing():
    cells = marked()
    assert {c.name: missing(c, cells) for c in COMPONENTS if missing(c, cells)} == {}


def test_marks_name_registered_components():
    assert sorted({component for component, _ in marked()} - {c.name for c in COMPONENTS}) == []


def test_the_table_in_the_docs_is_current():
    assert (ROOT / "docs" / "proofs.md").read_text() == table(), "run `python -m tests.registry`"


def test_the_page_of_several_processes_has_every_loss_that_takes_a_group():
    losses = importlib.import_module("sslkit.losses")
    wanted = {
        name for name in losses.__all__ if inspect.isfunction(f := getattr(losses, name)) and "group" in inspect.signature(f).parameters
    }
    named = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "data_parallel.md").read_text().split("|---", 1)[1]))
    assert wanted - named == BESIDE
