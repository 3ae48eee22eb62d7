"""Random masks: ours against the forms of MAE and of lightly, written here from their descriptions.

Each gives what its users work with: ours ids of visible tokens and the mask, MAE's ids, inverse order and mask, lightly's ids of
visible and of hidden tokens. All draw the same noise from one generator, so the visible tokens must agree.
"""

import argparse
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import Report, compare
from sslkit.maskers import RandomMasker

BATCH, GRID, KEPT = 128, (14, 14), 49
TOKENS = GRID[0] * GRID[1]


def ours(generator: torch.Generator) -> Tensor:
    return RandomMasker(count=TOKENS - KEPT)(BATCH, GRID, generator=generator).ids_keep


def two_sorts(generator: torch.Generator) -> Tensor:
    """MAE's: sort the noise, sort the order for its inverse, gather a float mask by it."""
    order = torch.rand(BATCH, TOKENS, generator=generator).argsort(dim=1)
    restore = order.argsort(dim=1)
    mask = torch.ones(BATCH, TOKENS)
    mask[:, :KEPT] = 0
    mask.gather(1, restore)
    return order[:, :KEPT]


def one_sort(generator: torch.Generator) -> Tensor:
    """lightly's: sort the noise, split the order in two; a class token is not counted here."""
    order = torch.rand(BATCH, TOKENS, generator=generator).argsort(dim=1)
    return order.split([KEPT, TOKENS - KEPT], dim=1)[0]


FORMS = {"sslkit": ours, "two sorts and a mask (MAE)": two_sorts, "one sort (lightly)": one_sort}
CALLS = 20  # a call of a tenth of a millisecond is below what a clock measures well


def repeated(form: str, calls: int) -> Tensor:
    """The ids of `calls` batches, sorted inside a row."""
    generator = torch.Generator().manual_seed(0)
    return [FORMS[form](generator) for _ in range(calls)][-1]


def agree(mine: Tensor, reference: Tensor) -> None:
    torch.testing.assert_close(mine.sort(dim=1).values, reference.sort(dim=1).values)


def run(rounds: int = 15) -> Report:
    jobs = {name: partial(repeated, name, CALLS) for name in FORMS}
    return compare("masks_random", jobs, rounds=rounds, reference="one sort (lightly)", agree=agree,
                   title=f"Random masks, {CALLS} batches of {BATCH} x {TOKENS}, {KEPT} visible",
                   notes=("shared machine; ratios are formed inside a round",))  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    report = run(options.rounds)
    print(report, report.save(), sep="\n", end="\n\n")


if __name__ == "__main__":
    main()
