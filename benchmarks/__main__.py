"""Runs the jobs of this folder: `python -m benchmarks [names] [--list] [-- options of the job]`.

A job is a module beside this one with `run() -> Report`, which is saved to results/<name>.json and printed here, or with
`main(argv)`, which does both itself. docs/speed.md is then written anew from all results.
"""

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType

import benchmarks
from benchmarks._page import PAGE, page


def discover() -> dict[str, ModuleType]:
    """Name -> module, by name; the harness and folders (claims) are no jobs."""
    found = pkgutil.iter_modules(benchmarks.__path__)
    names = sorted(info.name for info in found if not info.ispkg and not info.name.startswith("_"))
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in names if name != "harness"}
    return {name: module for name, module in modules.items() if hasattr(module, "main") or hasattr(module, "run")}


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    argv, rest = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="jobs; all if left out")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--page", action="store_true", help="measure nothing, write docs/speed.md from the results")
    options = parser.parse_args(argv)
    if options.page:
        PAGE.write_text(page())
        return 0
    jobs = discover()
    if options.list:
        print("\n".join(jobs))
        return 0
    unknown = [name for name in options.names if name not in jobs]
    if unknown:
        parser.error(f"no job named {', '.join(unknown)}; there are {', '.join(jobs)}")
    failed = []
    for name in options.names or jobs:
        try:
            if hasattr(jobs[name], "main"):
                jobs[name].main(rest)
            else:
                report = jobs[name].run()
                print(report, report.save(), sep="\n", end="\n\n")
        except Exception as error:  # the others still run; the exit status and the last line tell
            print(f"{name} failed: {type(error).__name__}: {error}", file=sys.stderr)
            failed.append(name)
    PAGE.write_text(page())
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
