"""How much wider waves make an interval. A closed loop with c requests in flight starts them together: c lanes that begin as one stay
together for a while, so that what the server does to one of a wave it does to all of it. Requests of one wave are then worth less than as many
independent ones, and neighbours tell it badly where waves are few and long.

A random effect of the wave (intraclass correlation; Kish 1965, Moulton 1986). Its size is not estimated and then believed, for a handful of
waves do not tell it: the interval is averaged over all sizes, each weighed by its restricted likelihood (Patterson & Thompson 1971), half of
the weight beforehand on "none". Given the size, the mean is Student's t.
"""

from __future__ import annotations

import numpy as np

from client.core.autoregression import ROUNDING, mixture_point
from client.core.blocks import levels_of
from client.core.plan import Arrival, RunPlan
from client.core.stats import Floats, t_point
from client.core.table import Ints

RATIOS = np.array([0.0, *2.0 ** np.arange(-5, 11)])
"""Variance of the waves' effects over variance within a wave: none, then evenly spaced in the logarithm, as a scale is."""
SHARES = RATIOS / (1 + RATIOS)
"""The same as a share of the whole variance (intraclass correlation)."""
NONE_SHARED = 0.55
"""How likely it is beforehand that a wave shares nothing; all other ratios are equally likely. Independent requests then pay some 2 % of
width over 16 waves, 5 % over eight and 10 to 15 % over four; without it the latter would pay 60 %."""


def wave_of(block: Ints, in_flight: int) -> Ints:
    """The number of the wave of each request of one arm, in the order in which they were sent: every `in_flight` of a block are one."""
    _, inside, sizes = np.unique(block, return_inverse=True, return_counts=True)
    order = np.argsort(inside, kind="stable")
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    turn = np.empty(len(block), np.int64)
    turn[order] = np.arange(len(block)) - first
    return np.asarray(np.unique(inside * (len(block) + 1) + turn // in_flight, return_inverse=True)[1], np.int64)


def in_waves(plan: RunPlan) -> int:
    """How many requests start together; 1 where none do. A level of a sweep has its own load."""
    load = levels_of(plan.load)[0]
    return load.concurrency if load.arrival is Arrival.CLOSED else 1


def waves_of(block: Ints, plan: RunPlan) -> Ints | None:
    """Of each request of one arm, by its block; None where requests do not start in waves."""
    together = in_waves(plan)
    return None if together < 2 else wave_of(block, together)


def wave_widening(pull: Floats, wave: Ints, confidence: float) -> float:
    """Half-width of the interval of the mean over its half-width for independent values; 1 for fewer than 8 values, a constant, a single
    wave, or waves of one."""
    n, found = len(pull), _weighed(pull, wave)
    if found is None:
        return 1.0
    weights, spread = found
    return mixture_point(weights, spread, confidence, n - 1) / t_point(confidence, n - 1)


def told_wave_inflation(values: Floats, wave: Ints, confidence: float) -> float:
    """Of the variance, where it is likelier than not that requests of a wave share something; 1 else. What an arm's own quantiles are worth
    is not doubted on a suspicion."""
    found = _weighed(values, wave)
    if found is None or found[0][0] >= 0.5:
        return 1.0
    return max(wave_widening(values, wave, confidence) ** 2, 1.0)


def _weighed(pull: Floats, wave: Ints) -> tuple[Floats, Floats] | None:
    """For each ratio of variances how likely it is, and the spread of the mean over that of independent values."""
    n, sizes = len(pull), np.bincount(wave)
    variance = float(pull.var(ddof=1)) if n >= 8 else 0.0
    if len(sizes) < 2 or len(sizes) == n or variance <= (ROUNDING * float(np.abs(pull).max(initial=0.0))) ** 2:
        return None
    means = np.bincount(wave, pull) / sizes
    within = float(((pull - means[wave]) ** 2).sum())
    # One row for each share: `size` is the variance of a wave's mean times its requests, `left` what is unexplained.
    size = 1 + SHARES[:, np.newaxis] * (sizes - 1)
    weight = sizes / size
    middle = (weight @ means) / weight.sum(axis=1)
    left = within / (1 - SHARES) + (weight * (means - middle[:, np.newaxis]) ** 2).sum(axis=1)
    logs = -0.5 * (np.log(size).sum(axis=1) + (n - len(sizes)) * np.log(1 - SHARES) + np.log(weight.sum(axis=1)))
    logs += _log_prior() - (n - 1) / 2 * np.log(left)
    weights = np.exp(logs - logs.max())
    spread = np.sqrt((size @ sizes) * left / (n * (n - 1) * variance))
    return weights / weights.sum(), spread


def _log_prior() -> Floats:
    some = (1 - NONE_SHARED) / (len(SHARES) - 1)
    return np.log(np.where(SHARES == 0, NONE_SHARED, some))
