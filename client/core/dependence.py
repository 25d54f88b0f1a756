"""How much neighbours in a series depend on one another, and what that does to the spread of a statistic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from client.core.autoregression import followed_widening, strongly, widening
from client.core.observed import AnySeries, Shares, seen
from client.core.stats import Floats, block_length, inflation, resampled_inflation
from client.core.table import Ints
from client.core.waves import wave_widening

SHORT = 100
"""Up to this many values a block bootstrap has too few blocks: independent draws of a median are spread by what the logs tell instead."""
IN_VAIN = (0.68, 0.0042)
"""Of a short series' median: what is kept of its spread, a + b · n and never more than all of it. Few values cannot rule a dependence out, so
independent ones are spread for nothing (by 33 % among 30, by 16 % among 60), and the bootstrap spreads a short median by 3 % too much by
itself. These, LEAST and `_follows` were chosen together on 2,000 to 3,000 campaigns with 20, 30 and 60 values of each world of
`benchmarks/coverage`, of weaker and of stronger dependence, with other seeds than its own (docs/statistics.md)."""
LEAST = 0.85
"""The least spread of a short median: a few values that seem to swing around their middle are no reason to trust it much more."""
OF_SIGNS = 2 / math.pi
"""Of the variance of the signs of normal values, how much is linear in the values: the first term of the arcsine law. What a median feels."""
STRONG = 0.5
"""How likely a strong dependence must be (`autoregression.strongly`) to be counted whole for every statistic, as the logs show it, and to be
flagged. Fewer than 1 % of campaigns of independent requests come so far, 4 to 8 % of those that depend with 0.6."""


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
    logs = _mixed([log_times(part.times()) for part in parts], weights)
    pull = _mixed([part.pull() for part in parts], weights)
    if is_central(parts[0]):
        # Autocorrelation of the logs bounds that of their signs (arcsine law), and is known far better from few values.
        found = _of_short(logs, confidence) if len(logs) <= SHORT else depends(logs)
    else:
        found = Dependence(spread=followed_widening(pull, logs, lambda values: widening(values, confidence)))
    if wave is None:  # few long waves look like a state that lasts
        return _wider(found, widening(logs, confidence)) if strongly(logs) > STRONG else found
    follows = OF_SIGNS if is_central(parts[0]) else None
    return _wider(found, followed_widening(pull, logs, lambda values: wave_widening(values, wave, confidence), follows))


def _wider(found: Dependence, spread: float) -> Dependence:
    """Independent draws with this spread, if it is more."""
    return Dependence(spread=spread) if spread > max(found.spread, math.sqrt(found.inflation)) else found


def told_inflation(values: Floats) -> float:
    """Of one series, where it is told apart from chance: what an arm's own quantiles are worth is not doubted on a suspicion."""
    if len(values) < 8 or not np.isfinite(values).any():
        return 1.0
    return inflation(log_times(values))


def log_times(values: Floats) -> Floats:
    """Of latencies; a censored one counts as the largest that was seen."""
    return np.log(np.maximum(seen(values), 1e-9))


def is_central(part: AnySeries) -> bool:
    p = None if isinstance(part, Shares) else part.p
    return p is not None and 0.25 <= p <= 0.75


def _mixed(series: list[Floats], weights: Sequence[float]) -> Floats:
    return np.asarray(np.sum([w * each for w, each in zip(weights, series, strict=True)], axis=0), np.float64)


def _of_short(logs: Floats, confidence: float) -> Dependence:
    """Of a median of up to SHORT values."""
    n = len(logs)
    if n < 8:
        return Dependence()
    spread = math.sqrt(1 + _follows(n) * (widening(logs, confidence) ** 2 - 1))
    return Dependence(spread=max(spread * min(IN_VAIN[0] + IN_VAIN[1] * n, 1.0), LEAST))


def _follows(n: int) -> float:
    """How far a short median is taken to follow its logs: from 60 values on as signs do, up to 30 wholly, as these tell but half of a
    strong dependence."""
    return OF_SIGNS + (1 - OF_SIGNS) * min(max(2 - n / 30, 0.0), 1.0)


def depends(series: Floats) -> Dependence:
    """Of a median of more than SHORT values: where dependence is told apart from chance."""
    whole = inflation(series)
    if whole == 1.0:
        return Dependence()
    length = block_length(series)
    return Dependence(length, whole, math.sqrt(max(whole / resampled_inflation(series, length), 1.0)))
