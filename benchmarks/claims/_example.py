"""An arm that is a run of an example: its settings are the example's options."""

import atexit
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_example(example: str, settings: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Runs examples/<example>.py on one thread with `--key value` for every setting (`--key` alone for True); the numbers it reports."""
    with tempfile.TemporaryDirectory() as folder:
        return _run(example, settings, seed, Path(folder))


def trained(example: str, settings: Mapping[str, Any], seed: int) -> str:
    """The folder of a run that others begin with: a teacher, a tokenizer. Made once a process, and gone with it."""
    return _trained(example, json.dumps(settings, sort_keys=True), seed)


@lru_cache
def _trained(example: str, settings: str, seed: int) -> str:
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    _run(example, json.loads(settings), seed, Path(folder))
    return folder


def run_and_finetune(example: str, finetune: Mapping[str, Any], settings: Mapping[str, Any], seed: int) -> dict[str, float]:
    """`run_example`, then examples/finetune.py from its weights, on the same data; `finetuned` is the accuracy of that."""
    shared = {key: settings[key] for key in ("data", "size", "no-flip", "flip") if key in settings}
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / example
        numbers = _run(example, settings, seed, first)
        return numbers | {"finetuned": _run("finetune", {**shared, **finetune, "init": first}, seed, Path(folder) / "finetune")["accuracy"]}


def _run(example: str, settings: Mapping[str, Any], seed: int, out: Path) -> dict[str, float]:
    options = [f"--seed={seed}", "--threads=1", f"--out={out}"]
    options += [f"--{key}" if value is True else f"--{key}={value}" for key, value in settings.items() if value is not False]
    done = subprocess.run([sys.executable, str(EXAMPLES / f"{example}.py"), *options], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{example} {' '.join(options)} failed:\n{done.stderr}")
    result = json.loads((out / "result.json").read_text())
    return {name: number for name, number in result.items() if name not in ("steps", "seed")}
