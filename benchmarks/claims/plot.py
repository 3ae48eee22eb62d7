"""A picture of a method's claims."""

import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.claims.claim import Standing

COLOURS = {"reproduced": "#1b7837", "opposite": "#b2182b", "not resolved": "#777777"}


def plot_claims(standings: Sequence[Standing], path: Path) -> Path | None:
    """A line per claim: every paired difference (small) and their mean (large), in standard errors of the mean.

    The band of 2 is the rule of the verdict, and metrics of different units share the axis. Claims without a standard error
    (fewer than two differences, or all equal) are named without marks; those without a pair of runs stand on the page alone. Returns
    None if nothing is left.
    """
    from matplotlib.figure import Figure

    standings = [standing for standing in standings if standing.judgement.differences]
    if not standings:
        return None
    figure = Figure(figsize=(9, 1.6 + 0.42 * len(standings)), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(-2, 2, color="#eeeeee", zorder=0)
    axes.axvline(0, color="#999999", linewidth=0.8)
    for y, standing in enumerate(standings):
        judged = standing.judgement
        error = judged.sd / math.sqrt(len(judged.differences)) if judged.differences else math.nan
        if not (math.isfinite(error) and error > 0):
            continue
        colour = COLOURS[judged.verdict]
        each = [difference / error for difference in judged.differences]
        axes.plot(each, [y] * len(each), "o", color=colour, alpha=0.4, markersize=4)
        axes.plot([judged.mean / error], [y], "D", color=colour, markersize=7)
    axes.set_xscale("symlog", linthresh=4)  # a clear claim lies tens of errors out; the band must stay readable
    names = [f"{s.claim.name} ({s.judgement.verdict}, n={len(s.judgement.differences)})" for s in standings]
    axes.set_yticks(range(len(standings)), names)
    axes.set_ylim(len(standings) - 0.5, -0.5)
    axes.set_xlabel("paired difference / standard error of the mean\n(right: the paper's sign; grey: within 2)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
