"""Drift between the looks of a serial design: what the second A differs from the first by, and what that adds to an interval.

With a drift g that only rises (or falls), the error of the pooled comparison is half of |(B1 - A1) - (A2 - B2)|, and neither bracket is
negative: half of their sum bounds it (`client.core.pairing` has the design).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from client.core.bootstrap import Contrast
from client.core.metrics import Arm
from client.core.stats import Floats, Interval
from client.core.table import Codes, Mask


@dataclass(frozen=True, slots=True)
class Drifted(Contrast):
    """With drift between two As inside its intervals: `allowance` on each side of the log. More requests do not take it away."""

    allowance: float = 0.0


def drift_allowance(drift: Interval) -> float:
    """Half of what the second A differs from the first beyond one and a half standard errors of its own noise."""
    return max(0.0, abs(drift.value) - 0.75 * drift.half) / 2


def levelled(arms: tuple[Arm, ...], first: Codes, metric: str) -> Arm:
    """The baseline with both looks brought to one level: drift between them is added to the interval as what it is, and would otherwise
    be taken for dependence of neighbours as well."""
    values, early = arms[1].latency[metric], np.isin(arms[1].image, first)
    scale = level_of(arms[0].latency[metric], values, early)
    return replace(arms[1], latency=arms[1].latency | {metric: values * scale})


def level_of(candidate: Floats, baseline: Floats, early: Mask) -> Floats:
    """What each value of the baseline is multiplied by: brings the median log ratios of both looks together, as far as they differ by
    more than two of their standard errors."""
    known = np.isfinite(candidate) & np.isfinite(baseline) & (candidate > 0) & (baseline > 0)
    if min((known & early).sum(), (known & ~early).sum()) < 2:
        return np.ones(len(baseline))
    looks = [np.log(candidate[mask] / baseline[mask]) for mask in (known & early, known & ~early)]
    step = float(np.median(looks[0]) - np.median(looks[1]))
    error = math.sqrt(math.pi / 2 * sum(float(look.var(ddof=1)) / len(look) for look in looks))  # of medians
    beyond = math.copysign(max(0.0, abs(step) - 2 * error), step)
    return np.exp(np.where(early, 0.5, -0.5) * beyond)


def with_drift(found: Contrast, drift: Contrast) -> Contrast:
    if found.log is None or drift.log is None:
        return Contrast(None, None, found.n, found.method)
    allowance = drift_allowance(drift.log)
    plain = None
    if found.difference is not None and drift.difference is not None:
        wider = drift_allowance(drift.difference)
        plain = found.difference.shifted(-wider, wider)
    return Drifted(found.log.shifted(-allowance, allowance), plain, found.n, found.method, allowance)


def between(looks: list[Contrast]) -> Contrast:
    """What the baseline drifted by from the first look to the second, the candidate's own halves taken out."""
    first, second = looks
    return Contrast(_gap_of(first.log, second.log), _gap_of(first.difference, second.difference), first.n, first.method)


def _gap_of(first: Interval | None, second: Interval | None) -> Interval | None:
    """First minus second, of independent intervals."""
    if first is None or second is None:
        return None
    gap, half = first.value - second.value, math.hypot(first.half, second.half)
    return Interval(gap, gap - half, gap + half)
