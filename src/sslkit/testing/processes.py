"""Two and three gloo processes on this machine, kept for all tests of a run, and the proof that they equal one."""

import atexit
import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sslkit._checks import wrong

LARGEST = 3
PATIENCE = 60.0  # seconds that a rank may wait for another: a collective that one rank left out fails instead of hanging

_pool: "list[tuple[SpawnProcess, Connection]]" = []


def run_in_processes(fn: Callable[..., Any], world: int, *args: Any) -> list[Any]:
    """Calls fn(*args, group=group) in `world` processes at once and returns the results in rank order.

    fn must be importable (a function of a module, not a lambda), args and results picklable. A rank finds its number with
    torch.distributed.get_rank(group).

    Raises:
        RuntimeError: a rank raised; the message holds its traceback.
        ValueError: world is not in 1..3.
    """
    if not 1 <= world <= LARGEST:
        raise wrong("run_in_processes", given=f"world={world}", expected=f"1 to {LARGEST}", mend="prove it with two and three processes")
    if not _pool:
        _start()
    connections = [connection for _, connection in _pool[:world]]
    for connection in connections:
        connection.send((fn, world, args))
    results: dict[int, Any] = {}
    failure = ""
    while len(results) < world and not failure:
        ready = wait(connections, timeout=PATIENCE * 2)
        failure = "" if ready else f"silence: no answer for {PATIENCE * 2:.0f} s"
        for rank in [rank for rank, connection in enumerate(connections) if connection in ready]:
            try:
                results[rank], error = connections[rank].recv()
            except (EOFError, OSError):
                error = "the process ended"
            failure = failure or (f"rank {rank} of {world}: {error}" if error else "")
    if failure:
        stop()  # the other ranks may still wait inside a collective
        raise RuntimeError(f"{getattr(fn, '__name__', fn)} failed in {failure}")
    return [results[rank] for rank in range(world)]


def equals_single_process(fn: Callable[..., Tensor], worlds: tuple[int, ...] = (2, 3), *, inputs: tuple[Tensor, ...] | None = None,
                          dim: int = 0, rtol: float = 1e-5, atol: float = 1e-6) -> None:  # fmt: skip
    """Proves the contract of `group=`: the global batch cut over processes, unevenly, gives the value and gradient of one process.

    Args:
        fn: fn(*inputs, group=group) -> scalar; importable, or a functools.partial of such a function.
        worlds: numbers of processes.
        inputs: tensors that hold the global batch on axis `dim`; default: two views [7, 6].
        dim: the axis of the batch.
        rtol: of value and gradient.
        atol: of value and gradient.

    Raises:
        AssertionError: a rank's value differs from one process, or its input gradients are not W times those of one process.
    """
    if inputs is None:
        generator = torch.Generator().manual_seed(0)
        inputs = tuple(torch.randn(2, 7, 6, generator=generator))
    value, gradients = _value_and_gradients(fn, inputs, None)
    for world in worlds:
        blocks = [_uneven(x, world, dim) for x in inputs]
        answers = run_in_processes(_one_rank, world, fn, blocks)
        for rank, (its_value, _) in enumerate(answers):
            _same(its_value, value, f"value on rank {rank} of {world}", rtol, atol)
        for i, expected in enumerate(gradients):
            got = torch.cat([answer[1][i] for answer in answers], dim=dim) / world
            _same(got, expected, f"gradient of input {i}, {world} processes", rtol, atol)


def _same(got: Tensor, expected: Tensor, what: str, rtol: float, atol: float) -> None:
    torch.testing.assert_close(got, expected, rtol=rtol, atol=atol, msg=lambda message: f"{what}: {message}")


def _uneven(x: Tensor, world: int, dim: int) -> list[Tensor]:
    """Blocks that differ in size wherever the batch allows it: 7 rows -> 4, 3 and 4, 2, 1."""
    sizes: list[int] = []
    for rank in range(world):
        left = x.shape[dim] - sum(sizes)
        sizes.append(left if rank == world - 1 else max(left // 2 + left % 2, 1))
    return [block.clone() for block in torch.split(x, sizes, dim=dim)]


def _one_rank(fn: Callable[..., Tensor], blocks: list[list[Tensor]], *, group: dist.ProcessGroup) -> tuple[Tensor, list[Tensor]]:
    return _value_and_gradients(fn, tuple(block[dist.get_rank(group)] for block in blocks), group)


def _value_and_gradients(
    fn: Callable[..., Tensor], inputs: tuple[Tensor, ...], group: dist.ProcessGroup | None
) -> tuple[Tensor, list[Tensor]]:
    leaves = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]
    value = fn(*leaves, group=group)
    wanted = [x for x in leaves if x.requires_grad]
    gradients = torch.autograd.grad(value, wanted, allow_unused=True)
    return value.detach(), [torch.zeros_like(x) if g is None else g for g, x in zip(gradients, wanted, strict=True)]


def _start() -> None:
    context = multiprocessing.get_context("spawn")
    store = str(Path(tempfile.mkdtemp(prefix="sslkit-")) / "store")
    for rank in range(LARGEST):
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(rank, store, there), daemon=True)
        process.start()
        there.close()
        _pool.append((process, here))


def stop() -> None:
    """Ends the processes; the next call starts new ones."""
    for process, connection in _pool:
        connection.close()
        process.kill()
        process.join()
    _pool.clear()


atexit.register(stop)


def _serve(rank: int, store: str, connection: Connection) -> None:
    torch.set_num_threads(1)
    file = dist.FileStore(store, LARGEST)  # type: ignore[attr-defined]  # public, but not in __all__
    dist.init_process_group("gloo", store=file, rank=rank, world_size=LARGEST, timeout=timedelta(seconds=PATIENCE))
    groups = {world: dist.new_group(list(range(world))) for world in range(1, LARGEST + 1)}
    while True:
        try:
            fn, world, args = connection.recv()
        except EOFError:
            return
        except Exception:  # an argument that cannot be unpickled here is an answer, too
            connection.send((None, traceback.format_exc()))
            continue
        try:
            connection.send((fn(*args, group=groups[world]), ""))
        except Exception:
            connection.send((None, traceback.format_exc()))
