"""The public surface is written down: a removed or renamed name or parameter fails here, and is then a decision.

`python -m tests.test_api_surface` writes tests/api_surface.txt anew.
"""

import importlib
import inspect
from pathlib import Path

import sslkit

FILE = Path(__file__).parent / "api_surface.txt"


def surface():
    lines = []
    for module in sslkit._MODULES:
        loaded = importlib.import_module(f"sslkit.{module}")
        names = getattr(loaded, "__all__", None) or [
            n for n, v in vars(loaded).items() if not n.startswith("_") and getattr(v, "__module__", "") == loaded.__name__
        ]
        for name in sorted(names):
            value = getattr(loaded, name)
            parameters = (
                "(" + ", ".join(inspect.signature(value).parameters) + ")" if inspect.isclass(value) or inspect.isroutine(value) else ""
            )
            lines.append(f"{module}.{name}{parameters}")
    return "\n".join(lines) + "\n"


def test_the_surface_is_as_written():
    assert surface() == FILE.read_text(), "a public name changed: see CONTRIBUTING, then run `python -m tests.test_api_surface`"


def test_every_public_name_is_documented():
    undocumented = []
    for line in surface().splitlines():
        module, name = line.split("(")[0].split(".")
        value = getattr(importlib.import_module(f"sslkit.{module}"), name)
        if (inspect.isclass(value) or inspect.isroutine(value)) and not inspect.getdoc(value):
            undocumented.append(line)
    assert undocumented == []


if __name__ == "__main__":
    FILE.write_text(surface())
