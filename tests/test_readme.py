"""What README says is so: its sample runs, and what its table names exists."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_sample_runs_and_is_short():
    (sample,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(compile(sample, "README.md", "exec"), names)
    assert names["loss"].isfinite()
    assert names["encoder"].stages.conv0.weight.grad.abs().sum() > 0
    assert len([line for line in sample.splitlines() if line.strip()]) <= 12


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`((?:augmentations|losses|modules|evaluation|maskers|targets|backbones)\.\w+)`", README)))
)
def test_named_components_exist(name):
    module, attribute = name.split(".")
    assert hasattr(importlib.import_module(f"sslkit.{module}"), attribute)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/index.md"])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), target
    for target in re.findall(r"`(examples/\w+\.py)`", (ROOT / page).read_text()):
        assert (ROOT / target).exists(), target
