"""The Markdown table of all claims: what is reproduced, what does not show at this scale, and what was not run on both sides yet."""

import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.claims.claim import Standing

HEAD = ["| claim | paper | ours, mean +- sd (n) | paired difference +- sd | verdict |", "|---|---|---|---|---|"]


def spread(values: Sequence[float], digits: int) -> str:
    """mean +- sd (n); sd over n - 1, absent for one value."""
    if not values:
        return "no run"
    sd = f" +- {statistics.stdev(values):.{digits}f}" if len(values) > 1 and all(map(math.isfinite, values)) else ""
    return f"{math.fsum(values) / len(values):.{digits}f}{sd} ({len(values)})"


def row(standing: Standing) -> str:
    """One row. The difference is positive where the paper's sign holds."""
    claim, judged = standing.claim, standing.judgement
    ours = "; ".join(f"{arm} {spread(standing.values(arm), claim.digits)}" for arm in claim.arms)
    difference = f"{judged.mean:+.{claim.digits}f}" if judged.differences else "none"
    if len(judged.differences) > 1:
        difference += f" +- {judged.sd:.{claim.digits}f}"
    difference += f" ({len(judged.differences)})"
    cells = [f"{claim.statement} ({claim.source})", claim.paper, f"{claim.metric}: {ours}", difference, f"**{judged.verdict}**"]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def table(standings: Sequence[Standing]) -> str:
    """The page: what is reproduced, what does not show, what has no pair of runs yet, then notes and lone runs; no claim is left out."""
    shown = [s for s in standings if s.judgement.verdict == "reproduced"]
    others = [s for s in standings if s.judgement.differences and s not in shown]
    waiting = [s for s in standings if not s.judgement.differences]
    lines = [
        "# Claims in miniature", "",
        "Made by `python -m benchmarks.claims` from the lines in `benchmarks/results/claims/`; not to be edited by hand.", "",
        "A row compares arms of equal seeds. The paired difference is positive where the paper's sign holds. `reproduced`: its "
        "mean is above 2 sd / sqrt(n), n >= 3. `opposite`: as far on the other side. Else `not resolved`. All runs count.", "",
        "![Paired differences of all claims](claims.png)", "",
        "## Reproduced", "", *(HEAD + [row(s) for s in shown] if shown else ["None yet."]), "",
        "## Does not show at this scale", "", *(HEAD + [row(s) for s in others] if others else ["None."]), "",
    ]  # fmt: skip
    if waiting:
        lines += ["## Not run on both sides yet", "", *HEAD, *(row(s) for s in waiting), ""]
    notes = [f"- {s.claim.name}: {s.claim.note}" for s in standings if s.claim.note]
    notes += [f"- {s.claim.name}: without a partner of the same seed: {', '.join(s.unpaired)}." for s in standings if s.unpaired]
    return "\n".join(lines + (["## Notes", "", *notes, ""] if notes else []))


def write_table(standings: Sequence[Standing], path: Path) -> Path:
    """Writes the page by a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(table(standings), encoding="utf-8")
    temporary.replace(path)
    return path
