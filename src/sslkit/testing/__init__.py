"""Property-based tests for users: strategies, and the proofs that a part of a training loop should have.

The only place in sslkit that imports hypothesis, and only when a strategy is asked for.
"""

from sslkit.testing.processes import equals_single_process, run_in_processes
from sslkit.testing.proofs import (
    PROOFS,
    Component,
    assert_proven,
    compiles,
    computes_in_float32,
    gradient_is_exact,
    pickles,
    proves,
    resumes,
    stays_near_float32,
)
from sslkit.testing.strategies import grids, images, masks, views

__all__ = [
    "PROOFS",
    "Component",
    "assert_proven",
    "compiles",
    "computes_in_float32",
    "equals_single_process",
    "gradient_is_exact",
    "grids",
    "images",
    "masks",
    "pickles",
    "proves",
    "resumes",
    "run_in_processes",
    "stays_near_float32",
    "views",
]
