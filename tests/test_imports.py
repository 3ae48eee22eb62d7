"""What importing costs and touches, and who may import whom."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "sslkit"
STEM = {"patches", "schedules", "counter", "distributed", "optim", "_bank", "_checks", "_unit", "kernels"}
PETALS = {"maskers", "targets", "losses", "modules", "augmentations", "saliency", "backbones", "evaluation", "datasets", "plots"}
EXTRA_EDGES = {("backbones", "maskers")}
ANYWHERE = {"torch", "torchvision", "einops"} | sys.stdlib_module_names
# Module -> who may import it at the top of a file; inside a function, the same ones may.
RESTRICTED = {
    "kornia": {"augmentations", "saliency"},
    "matplotlib": {"plots"},
    "triton": {"kernels"},
    "hypothesis": {"testing"},
    "pytest": {"testing"},
}
INSIDE_A_FUNCTION = {"timm", "transformers", "skimage", "sklearn", "torchcodec", "av", "PIL", "numpy"}


def imports(path):
    """(module, inside a function) of every import in a file; what is only for type checkers does not count."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    inner = {id(child) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for child in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in inner
        elif isinstance(node, ast.ImportFrom) and node.module == "sslkit":
            for alias in node.names:
                yield f"sslkit.{alias.name}", id(node) in inner
        elif isinstance(node, ast.ImportFrom):
            yield node.module, id(node) in inner


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=lambda p: str(p.relative_to(SRC)))
def test_import_rules(path):
    home = path.relative_to(SRC).parts[0].removesuffix(".py")
    for module, inside in imports(path):
        top, *rest = module.split(".")
        if top == "sslkit":
            target = rest[0] if rest else ""
            if home in PETALS:
                assert target in STEM | {home} or (home, target) in EXTRA_EDGES, f"{home} imports {module}"
            elif home in STEM:
                assert target in STEM, f"the stem imports the petal {module}"
        elif top in RESTRICTED:
            assert home in RESTRICTED[top], f"{home} imports {module}"
            assert inside or top == "kornia" or (top == "triton" and path.name == "fused.py"), f"{module} at the top of a file"
        else:
            assert top in ANYWHERE or (inside and top in INSIDE_A_FUNCTION), f"{home} imports {module}{'' if inside else ' at the top'}"


PROBE = """
import json, os, random, sys
import torch
before = dict(os.environ), random.getstate(), torch.initial_seed(), torch.get_num_threads(), len(__import__("logging").root.handlers)
modules = set(sys.modules)
import sslkit
after = dict(os.environ), random.getstate(), torch.initial_seed(), torch.get_num_threads(), len(__import__("logging").root.handlers)
new = {m.split(".")[0] for m in set(sys.modules) - modules}
print(json.dumps({"untouched": before == after, "new": sorted(new), "cuda": torch.cuda.is_initialized()}))
"""


def test_import_loads_nothing_and_touches_nothing():
    answer = json.loads(subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True).stdout)
    assert answer["untouched"]
    assert not answer["cuda"]
    assert answer["new"] == ["sslkit"]


def test_every_part_loads_without_the_extras():
    """With plots, scikit-learn, hypothesis and triton hidden, every subpackage still imports."""
    code = (
        "import sys\n"
        "for name in ('matplotlib', 'sklearn', 'hypothesis', 'pytest', 'triton', 'timm', 'skimage'): sys.modules[name] = None\n"
        "import sslkit\n"
        "for name in sslkit.__all__: getattr(sslkit, name)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_an_unknown_name_lists_the_known():
    import sslkit

    with pytest.raises(AttributeError, match="has no attribute 'loses'; it has augmentations, "):
        _ = sslkit.loses
    assert set(sslkit._MODULES) <= set(dir(sslkit))
