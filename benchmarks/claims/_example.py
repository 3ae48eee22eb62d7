"""An arm that is a run of an example: its settings are the example's options."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_example(example: str, settings: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Runs examples/<example>.py on one thread with `--key value` for every setting (`--key` alone for True); the numbers it reports."""
    with tempfile.TemporaryDirectory() as folder:
        options = [f"--seed={seed}", "--threads=1", f"--out={folder}"]
        options += [f"--{key}" if value is True else f"--{key}={value}" for key, value in settings.items() if value is not False]
        done = subprocess.run([sys.executable, str(EXAMPLES / f"{example}.py"), *options], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{example} {' '.join(options)} failed:\n{done.stderr}")
        result = json.loads((Path(folder) / "result.json").read_text())
    return {name: number for name, number in result.items() if name not in ("steps", "seed")}
