"""Runs what is missing, then writes page and pictures.

python -m benchmarks.claims [names] [--tier cpu|quick|gpu] [--seeds 0 1 2] [--no-run]
"""

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import benchmarks.claims
from benchmarks.claims.claim import TIERS, Claim, standing
from benchmarks.claims.plot import plot_claims
from benchmarks.claims.runs import FOLDER, read_runs, run_claim
from benchmarks.claims.table import families, table, write_table

MACHINERY = {"claim", "runs", "table", "plot", "nnclr_match", "__main__"}
DOCS = Path(__file__).parents[2] / "docs"


def discover() -> list[Claim]:
    """Every claim of this folder, by name."""
    found: list[Claim] = []
    for info in pkgutil.iter_modules(benchmarks.claims.__path__):
        if info.name in MACHINERY or info.name.startswith("_"):
            continue
        module = importlib.import_module(f"benchmarks.claims.{info.name}")
        found += [module.CLAIM] if hasattr(module, "CLAIM") else []
        found += list(getattr(module, "CLAIMS", ()))
    names = [claim.name for claim in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"discover: got two claims named {', '.join(twice)}; expected one name each. To mend: rename one.")
    return sorted(found, key=lambda claim: claim.name)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=__doc__)
    parser.add_argument("names", nargs="*", help="claims, or files of results that several share (mae, beit); all of the tier if left out")
    parser.add_argument("--tier", choices=TIERS, default="cpu", help="quick: smaller settings, one seed, not written to docs")
    parser.add_argument("--seeds", type=int, nargs="+", help="the claim's own if left out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-run", action="store_true", help="only page and pictures, from the runs there are")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    claims = discover()
    unknown = set(options.names) - {claim.name for claim in claims} - {claim.log for claim in claims}
    if unknown:
        known = ", ".join(claim.name for claim in claims) or "none"
        parser.error(f"no claim named {', '.join(sorted(unknown))}; there are {known}")
    if not options.no_run:
        for claim in claims:
            if {claim.name, claim.log} & set(options.names) or (not options.names and options.tier in claim.tiers):
                seeds = options.seeds or (claim.seeds[:1] if options.tier == "quick" else None)
                run_claim(claim, tier=options.tier, seeds=seeds)
    if options.tier == "quick":
        chosen = [c for c in claims if {c.name, c.log} & set(options.names) or (not options.names and "quick" in c.tiers)]
        print(table([standing(c, read_runs(FOLDER / c.file), "quick") for c in chosen]))
        return 0
    # the page always holds every claim, whichever were run now: leaving one out would hide an unfavourable row.
    standings = [standing(c, read_runs(FOLDER / c.file), "cpu") for c in claims]
    for name, own in families(standings).items():
        plot_claims(own, DOCS / "claims" / f"{name}.png")
    print(table(standings), write_table(standings, DOCS / "claims.md"), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
