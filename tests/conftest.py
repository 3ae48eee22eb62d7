"""What every test shares: the golden folder, one thread, and the closing tables."""

import json
import zlib
from collections import defaultdict
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

HERE = Path(__file__).parent
READ = pytest.StashKey[set]()
SECONDS = pytest.StashKey[dict]()

settings.register_profile("sslkit", derandomize=True, deadline=None)  # the same examples on every machine, whatever its speed
settings.load_profile("sslkit")


def pytest_addoption(parser):
    parser.addoption("--golden", default=str(HERE / "golden"), help="folder of .npz files with the official code's numbers")
    parser.addoption(
        "--marks", help="write (component, proof) -> tests of all collected tests to this file, as JSON; see tests/registry.py"
    )


def pytest_configure(config):
    torch.set_num_threads(1)  # the same sums in the same order on every machine
    config.stash[READ] = set()
    config.stash[SECONDS] = defaultdict(float)


def pytest_collection_modifyitems(config, items):
    if config.getoption("--marks"):
        marks = [
            (*pair, item.nodeid) for item in items for mark in item.iter_markers("proves") for pair in product(mark.args[:1], mark.args[1:])
        ]
        Path(config.getoption("--marks")).write_text(json.dumps(marks))
    for item in items:
        if "golden" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.golden)
    if "full" not in config.option.markexpr:  # named by -m, they run; else they are not part of the selection
        long = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("full")]


class Golden(dict):
    """One .npz file: arrays by name; `tensor(name)` as torch, `number(name)` as a Python number."""

    def tensor(self, name, dtype=None):
        return torch.as_tensor(self[name]).to(dtype) if dtype else torch.as_tensor(self[name])

    def number(self, name):
        return self[name].item()


@pytest.fixture
def golden(request):
    """golden("ntxent") reads ntxent.npz from the folder given by --golden."""
    folder = Path(request.config.getoption("--golden"))

    def read(name):
        request.config.stash[READ].add(name)
        with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
            return Golden({key: file[key] for key in file.files})

    return read


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def same_weights_at_every_run(request):
    """Torch's global generator, from which models draw their weights, starts from the name of the test."""
    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    del outcome
    path = Path(item.location[0])
    layer = path.parts[1] if len(path.parts) > 2 else path.stem
    item.config.stash[SECONDS][layer] += call.duration


def pytest_sessionfinish(session):
    output = getattr(session.config, "workeroutput", None)  # of pytest-xdist: what this worker tells the main process
    if output is not None:
        output["read"], output["seconds"] = sorted(session.config.stash[READ]), dict(session.config.stash[SECONDS])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    output = getattr(node, "workeroutput", {})  # a worker that died tells nothing
    node.config.stash[READ].update(output.get("read", ()))
    for layer, seconds in output.get("seconds", {}).items():
        node.config.stash[SECONDS][layer] += seconds


def pytest_terminal_summary(terminalreporter, config):
    seconds, read = config.stash[SECONDS], config.stash[READ]
    terminalreporter.section("seconds per layer")
    for layer, total in sorted(seconds.items(), key=lambda pair: -pair[1]):
        terminalreporter.write_line(f"{total:8.1f}  {layer}")
    if read:
        files = {path.stem for path in Path(config.getoption("--golden")).glob("*.npz")}
        terminalreporter.section("golden files")
        terminalreporter.write_line(f"{len(read)} read; not read by any test of this run: {', '.join(sorted(files - read)) or 'none'}")
