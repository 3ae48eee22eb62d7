"""Examples run as a user runs them: in a process of their own, killed, resumed, on two processes."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "examples"))

DIGITS = ["--data", "digits", "--threads", "1", "--no-flip"]


def command(example, *options, processes=1):
    start = (
        [sys.executable]
        if processes == 1
        else [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    )
    return [*start, str(ROOT / "examples" / f"{example}.py"), *map(str, options)]


def run(example, *options, processes=1):
    done = subprocess.run(command(example, *options, processes=processes), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def state(out):
    """Everything a run leaves that must repeat: the log's lines, and the checkpoint's tensors and numbers."""
    checkpoint = torch.load(out / "checkpoint.pt", weights_only=True)
    tensors, _ = torch.utils._pytree.tree_flatten(checkpoint["parts"])
    return (out / "log.jsonl").read_text(), checkpoint["step"], tensors


def same(a, b):
    return a[:2] == b[:2] and all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(a[2], b[2], strict=True))


def killed_and_resumed(example, out, options, kills, seed):
    """Runs, is killed `kills` times at random moments of training and saving, and goes on to the end. Returns the kills that hit."""
    hits, rng = 0, random.Random(seed)
    while True:
        process = subprocess.Popen(command(example, *options, "--out", out, "--resume"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if hits < kills:
            before = (out / "log.jsonl").stat().st_size if (out / "log.jsonl").exists() else 0
            while process.poll() is None and (not (out / "log.jsonl").exists() or (out / "log.jsonl").stat().st_size == before):
                time.sleep(0.002)  # until it trains
            time.sleep(rng.random() * 0.15)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                hits += 1
        error = process.communicate()[1].decode()
        if process.returncode == 0:
            assert hits or not kills, "the run ended before it was killed: nothing was shown"
            return hits
        assert process.returncode == -signal.SIGKILL, error


def first_moments(out):
    """AdamW's running mean of the gradients, [numbers]: what its steps do not tell, the gradients' scale, shows here."""
    state = torch.load(out / "checkpoint.pt", weights_only=True)["parts"]["optimizer"]["state"]
    return torch.cat([state[i]["exp_avg"].flatten() for i in sorted(state)])


def losses(out):
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]
