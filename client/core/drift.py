"""Drift between the looks of a serial design: what the second A differs from the first by, and what that adds to an interval.

With a drift that only rises (or falls) the truth lies between the two looks, B1 - A1 and B2 - A2 (`client.core.pairing` has the design).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from client.core.bootstrap import Contrast
from client.core.metrics import Arm
from client.core.stats import Floats, Interval, mixture_ends, normal_point
from client.core.table import Codes, Mask


@dataclass(frozen=True, slots=True)
class Drifted(Contrast):
    """With drift between two As inside its intervals: `allowance` on each side of the log. More requests do not take it away."""

    allowance: float = 0.0


EXPECTED = 4.0
"""How large a drift is expected to be where there is one, in standard errors of what the looks differ by. Beforehand one is as likely as not."""
OF_A_LOOK = math.sqrt(0.5)
"""Standard error of one look over that of the difference of two independent ones."""


def drift_likely(gap: Interval, confidence: float) -> float:
    """How likely it is that the looks differ by more than noise (spike and slab; the slab is a normal of EXPECTED standard errors)."""
    error = gap.half / normal_point(confidence)
    z = abs(gap.value) / error if error > 0 else (math.inf if gap.value else 0.0)
    spread = EXPECTED**2
    odds = math.exp(min(0.5 * z * z * spread / (1 + spread), 700.0)) / math.sqrt(1 + spread)
    return odds / (1 + odds)


def held(found: Interval, gap: Interval, confidence: float, of_a_look: float = OF_A_LOOK) -> tuple[Interval, float]:
    """The interval with what may have happened between the looks, and how much of each side more requests do not take away.

    Without drift it is that of the pooled comparison. With a monotone one the truth lies between the two looks, wherever in between it
    happened; at worst it is one of them, and an interval around each covers that (Imbens & Manski 2004). Both by how likely a drift is.
    """
    error, likely = found.half / normal_point(confidence), drift_likely(gap, confidence)
    if error <= 0 or not math.isfinite(error):
        return found, 0.0
    apart = gap.value / 2
    alone = max(of_a_look * gap.half / normal_point(confidence), error)
    ends = mixture_ends(
        np.array([1 - likely, likely / 2, likely / 2]),
        np.array([0.0, apart, -apart]),
        np.array([error, alone, alone]),
        confidence,
    )
    wider = max(0.0, ends[1] - found.half)
    return found.shifted(-wider, wider), min(wider, likely * abs(apart))


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


def with_drift(found: Contrast, drift: Contrast, confidence: float, of_a_look: float = OF_A_LOOK) -> Contrast:
    """`drift`: what the looks differ by."""
    if found.log is None or drift.log is None:
        return Contrast(None, None, found.n, found.method)
    log, allowance = held(found.log, drift.log, confidence, of_a_look)
    plain = None
    if found.difference is not None and drift.difference is not None:
        plain, _ = held(found.difference, drift.difference, confidence, of_a_look)
    return Drifted(log, plain, found.n, found.method, found.warming, allowance)


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
