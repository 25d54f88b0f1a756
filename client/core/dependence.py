"""How much neighbours in a series depend on one another, and what that does to the spread of a statistic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from client.core.autoregression import followed_widening, widening
from client.core.observed import AnySeries, Shares, seen
from client.core.stats import DEPENDENT, Floats, block_length, inflation, resampled_inflation
from client.core.table import Ints
from client.core.waves import wave_widening

SHORT = 100
"""Up to this many values a block bootstrap has too few blocks: independent draws are spread by the variance inflation instead."""
SUSPECTED = 0.5
"""Standard errors from which autocorrelation of a short series is reckoned with. A test at 5 % overlooks a third of those among 30 values,
and its intervals are too narrow; the lower the bar, the more width independent series pay for nothing. This and `bootstrap.IN_VAIN` were
chosen together, on 8,000 campaigns of each world of `benchmarks/coverage` with other seeds than its own (docs/statistics.md)."""

OF_SIGNS = 2 / math.pi
"""Of the variance of the signs of normal values, how much is linear in the values: the first term of the arcsine law. What a median feels."""


@dataclass(frozen=True, slots=True)
class Dependence:
    """Of neighbours in a series: mean block length to resample with, variance inflation, and the factor by which replicates must still
    be spread around their point, because finite blocks lose some of the autocorrelation."""

    length: int = 1
    inflation: float = 1.0
    spread: float = 1.0


def dependence(series: AnySeries, confidence: float, wave: Ints | None = None) -> Dependence:
    """Of one series on its own."""
    return of_contrast([series], [1.0], confidence, wave)


def of_contrast(
    parts: Sequence[AnySeries], weights: Sequence[float], confidence: float, wave: Ints | None = None
) -> Dependence:
    """Of the contrast of these parts, which stand in one order; of one part on its own. Of neighbours, or of waves if that is more."""
    if not all(np.isfinite(part.times()).any() for part in parts):
        return Dependence()
    logs = _mixed([np.log(np.maximum(seen(part.times()), 1e-9)) for part in parts], weights)
    pull = _mixed([part.pull() for part in parts], weights)
    if is_central(parts[0]):
        # Autocorrelation of the logs bounds that of their signs (arcsine law), and is known far better from few values.
        found = depends(logs, SUSPECTED if len(logs) <= SHORT else DEPENDENT)
    else:
        found = Dependence(spread=followed_widening(pull, logs, lambda values: widening(values, confidence)))
    if wave is None:
        return found
    follows = OF_SIGNS if is_central(parts[0]) else None
    shared = followed_widening(pull, logs, lambda values: wave_widening(values, wave, confidence), follows)
    return Dependence(spread=shared) if shared > max(found.spread, math.sqrt(found.inflation)) else found


def told_inflation(values: Floats) -> float:
    """Of one series, where it is told apart from chance: what an arm's own quantiles are worth is not doubted on a suspicion."""
    if len(values) < 8 or not np.isfinite(values).any():
        return 1.0
    return inflation(np.log(np.maximum(seen(values), 1e-9)))


def is_central(part: AnySeries) -> bool:
    p = None if isinstance(part, Shares) else part.p
    return p is not None and 0.25 <= p <= 0.75


def _mixed(series: list[Floats], weights: Sequence[float]) -> Floats:
    return np.asarray(np.sum([w * each for w, each in zip(weights, series, strict=True)], axis=0), np.float64)


def depends(series: Floats, least: float = SUSPECTED) -> Dependence:
    if len(series) < 8:
        return Dependence()
    whole = inflation(series, least)
    if whole == 1.0:
        return Dependence()
    if len(series) <= SHORT:
        return Dependence(1, whole, math.sqrt(whole))
    length = block_length(series)
    return Dependence(length, whole, math.sqrt(max(whole / resampled_inflation(series, length), 1.0)))
