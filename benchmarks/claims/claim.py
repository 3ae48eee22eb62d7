"""A claim of a paper, what its runs left, and the rule that judges it."""

import dataclasses
import hashlib
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Settings = Mapping[str, Any]
Verdict = Literal["reproduced", "opposite", "not resolved"]
TIERS = ("cpu", "quick", "gpu")


@dataclass(frozen=True)
class Claim:
    """Two or more arms, one of which a paper says is better.

    `run(settings, seed)` trains one arm and returns its metrics. Fairness is the runner's part: the same seed gives the same
    pictures in the same order to every arm, all arms take the same number of steps, the last step is evaluated.
    """

    name: str  # letters, digits, _ and -
    statement: str  # the claim in a sentence
    source: str  # paper, table
    paper: str  # the paper's numbers, as text
    arms: Mapping[str, Settings]  # everything that differs or matters, JSON values; the first two are printed side by side
    metric: str  # decides
    better: tuple[str, str]  # (arm the paper puts ahead, arm behind)
    run: Callable[[Settings, int], Mapping[str, float]] = field(repr=False)
    larger: bool = True  # the arm ahead has the larger metric; False for errors
    metrics: tuple[str, ...] = ()  # further ones, recorded and listed in the results
    seeds: tuple[int, ...] = (0, 1, 2)
    tiers: tuple[str, ...] = ("cpu",)
    quick: Settings = field(default_factory=dict)  # replaces settings of every arm in tier `quick`
    digits: int = 1  # after the point, in the table
    revision: int = 1  # to be raised when the runner's code changes the numbers: earlier runs then count no more
    note: str = ""  # a reason for a verdict, printed under the table
    log: str = ""  # of the file of results, the name if left out; claims that share arms share it, and each arm is run once

    def __post_init__(self) -> None:
        problem = None
        odd = [word for word in (self.name, self.log or self.name) if not word.replace("_", "").replace("-", "").isalnum()]
        if odd:
            problem = f"name={self.name!r}, log={self.log!r}; expected letters, digits, _ and -"
        elif len(set(self.better)) != 2 or not set(self.better) <= set(self.arms):
            problem = f"better={self.better}; expected two names of {list(self.arms)}"
        elif not set(self.tiers) <= set(TIERS):
            problem = f"tiers={self.tiers}; expected some of {TIERS}"
        elif len({settings_hash(self, arm, "cpu") for arm in self.arms}) != len(self.arms):
            problem = "two arms with equal settings; expected different ones"
        if problem:
            raise ValueError(f"Claim: got {problem}. To mend: correct it in the file of the claim.")

    @property
    def file(self) -> str:
        """The name of the file of results."""
        return f"{self.log or self.name}.jsonl"

    def settings(self, arm: str, tier: str) -> dict[str, Any]:
        """What the runner of an arm is given."""
        return {**self.arms[arm], **(self.quick if tier == "quick" else {})}

    def difference(self, ahead: float, behind: float) -> float:
        """Above 0 where the paper's sign holds."""
        return (ahead - behind) * (1 if self.larger else -1)


def settings_hash(claim: Claim, arm: str, tier: str) -> str:
    """Of arm, settings and revision: a run counts for a row only if all of these are the row's."""
    content = {"arm": arm, "settings": claim.settings(arm, tier), "revision": claim.revision}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Judgement:
    """The paired differences of a claim, their mean and standard deviation, and the verdict."""

    differences: tuple[float, ...]
    mean: float
    sd: float
    verdict: Verdict


def verdict(differences: Sequence[float]) -> Judgement:
    """Judges differences between arms of equal seed, positive where the paper's sign holds.

        reproduced    mean >  2 sd / sqrt(n)  and n >= 3
        opposite      mean < -2 sd / sqrt(n)  and n >= 3
        not resolved  everything else, also where a difference is not finite

    sd over n - 1; nan for fewer than two differences, as is the mean of none.
    """
    n = len(differences)
    mean = math.fsum(differences) / n if n else math.nan
    finite = all(math.isfinite(value) for value in differences)
    sd = statistics.stdev(differences) if n > 1 and finite else math.nan
    answer: Verdict = "not resolved"
    if n >= 3 and finite and abs(mean) > 2 * sd / math.sqrt(n):
        answer = "reproduced" if mean > 0 else "opposite"
    return Judgement(tuple(differences), mean, sd, answer)


@dataclass(frozen=True)
class Standing:
    """A claim with the runs that count for it: arm -> seed -> metrics."""

    claim: Claim
    tier: str
    runs: dict[str, dict[int, dict[str, float]]]

    def values(self, arm: str, metric: str | None = None) -> list[float]:
        """The metric of all runs of an arm, by seed."""
        return [metrics[metric or self.claim.metric] for _, metrics in sorted(self.runs[arm].items())]

    @property
    def judgement(self) -> Judgement:
        ahead, behind = (self.runs[arm] for arm in self.claim.better)
        metric = self.claim.metric
        seeds = sorted(ahead.keys() & behind.keys())
        return verdict([self.claim.difference(ahead[seed][metric], behind[seed][metric]) for seed in seeds])

    @property
    def unpaired(self) -> list[str]:
        """Runs whose seed the other arm lacks: they are in the means, but in no difference."""
        ahead, behind = self.claim.better
        return [f"{arm} seed {seed}" for arm, other in ((ahead, behind), (behind, ahead))
                for seed in sorted(self.runs[arm].keys() - self.runs[other].keys())]  # fmt: skip


def standing(claim: Claim, records: Sequence[Mapping[str, Any]], tier: str) -> Standing:
    """Sorts records into arms by settings hash. The first of an (arm, seed) counts: a repeated run cannot replace a bad one."""
    runs: dict[str, dict[int, dict[str, float]]] = {arm: {} for arm in claim.arms}
    hashes = {settings_hash(claim, arm, tier): arm for arm in claim.arms}
    for record in records:
        arm = hashes.get(record["hash"])
        if arm is not None:
            runs[arm].setdefault(int(record["seed"]), dict(record["metrics"]))
    return Standing(claim, tier, runs)


def replace(claim: Claim, **changes: Any) -> Claim:
    """A claim with some fields changed."""
    return dataclasses.replace(claim, **changes)
