"""Which model version becomes champion: the rule, without the registry it is written to.

Promises: versions are compared only where they were asked the same questions (one evaluation digest); a worse one never
replaces a better one; every verdict says why. `track.py` carries it out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Version:
    """A model version with its scores; `digest` is of what was asked, `number` the registry's."""

    address: str
    stage: str
    metrics: Mapping[str, float]
    digest: str
    number: int = 0

    def score(self, metric: str) -> float:
        """NaN where it was not measured: such a one neither wins nor loses."""
        return self.metrics.get(metric, math.nan)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether the version becomes champion, and why."""

    promoted: bool
    reason: str


def contender(versions: Sequence[Version], metric: str) -> Version:
    """The best of one run's versions among those asked the same as its last stage; of equals the later one."""
    last = versions[-1]
    rivals = [v for v in versions if v.digest == last.digest and not math.isnan(v.score(metric))]
    best = last
    for version in rivals:
        if math.isnan(best.score(metric)) or version.score(metric) >= best.score(metric):
            best = version
    return best


def judge(version: Version, champion: Version | None, metric: str) -> Verdict:
    """No champion yet, or at least as good as it on the same questions."""
    if champion is None:
        return Verdict(True, "promoted: there was no champion")
    rival = f"champion {champion.address} (version {champion.number})"
    if version.digest != champion.digest:
        return Verdict(False, f"not compared: {rival} was asked other questions")
    ours, theirs = version.score(metric), champion.score(metric)
    if math.isnan(ours) or math.isnan(theirs):
        return Verdict(False, f"not compared: {metric} was not measured of both this and {rival}")
    sign = "promoted" if ours >= theirs else "kept out"
    return Verdict(ours >= theirs, f"{sign}: {metric} {ours:.6g}, {rival} has {theirs:.6g}")
