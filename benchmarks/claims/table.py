"""The Markdown page of all claims, method by method."""

import math
import os
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.claims.claim import Standing

ORDER = ("reproduced", "not resolved", "opposite", "not run on both sides yet")
TITLES = {"beit": "BEiT", "deit": "DeiT", "dilo": "DiLo", "dino": "DINO, and the methods of its table", "looc": "LooC", "mae": "MAE",
          "maskfeat": "MaskFeat", "nnclr": "NNCLR", "simclr": "SimCLR"}  # fmt: skip
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
    cells = [f"{claim.statement} ({claim.source})", claim.paper, f"{claim.metric}: {ours}", difference, f"**{block(standing)}**"]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def title(name: str) -> str:
    """The heading of a family."""
    return TITLES.get(name, name)


def family(standing: Standing) -> str:
    """What a claim is listed with, and the name of its picture: the first word of its file of results."""
    return re.split("[-_]", standing.claim.log or standing.claim.name)[0]


def families(standings: Sequence[Standing]) -> dict[str, list[Standing]]:
    """By name; within one, what is reproduced first, what was not run last."""
    found: dict[str, list[Standing]] = {}
    for standing in sorted(standings, key=lambda s: (family(s), ORDER.index(block(s)))):
        found.setdefault(family(standing), []).append(standing)
    return found


def block(standing: Standing) -> str:
    """The verdict, or that there is none yet."""
    return standing.judgement.verdict if standing.judgement.differences else ORDER[-1]


def table(standings: Sequence[Standing]) -> str:
    """The page: how many of each verdict a method has, then all its claims, and notes and lone runs; no claim is left out."""
    lines = [
        "# Claims in miniature", "",
        "Made by `python -m benchmarks.claims` from the lines in `benchmarks/results/claims/`; not to be edited by hand.", "",
        "A row compares arms of equal seeds. The paired difference is positive where the paper's sign holds. `reproduced`: its "
        "mean is above 2 sd / sqrt(n), n >= 3. `opposite`: as far on the other side. Else `not resolved`. All runs count.", "",
        "| claims | " + " | ".join(ORDER) + " |", "|---" * (len(ORDER) + 1) + "|",
    ]  # fmt: skip
    for name, own in families(standings).items():
        counts = [sum(block(s) == verdict for s in own) for verdict in ORDER]
        lines.append(f"| [{title(name)}](#{slug(name)}) | " + " | ".join(map(str, counts)) + " |")
    for name, own in families(standings).items():
        lines += ["", f"## {title(name)}", ""]
        if any(s.judgement.differences for s in own):
            lines += [f"![Paired differences of {title(name)}](claims/{name}.png)", ""]
        lines += [*HEAD, *map(row, own)]
        notes = [f"- {s.claim.name}: {s.claim.note}" for s in own if s.claim.note]
        notes += [f"- {s.claim.name}: without a partner of the same seed: {', '.join(s.unpaired)}." for s in own if s.unpaired]
        lines += ["", *notes] if notes else []
    return "\n".join(lines) + "\n"


def slug(name: str) -> str:
    """The anchor of a family's heading."""
    return re.sub("[^a-z0-9]+", "-", title(name).lower()).strip("-")


def write_table(standings: Sequence[Standing], path: Path) -> Path:
    """Writes the page by a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(table(standings), encoding="utf-8")
    temporary.replace(path)
    return path
