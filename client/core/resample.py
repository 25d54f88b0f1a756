"""Intervals for numbers that come from images: bootstrap by image, Wilson for shares, exact McNemar.

Images are the units that were drawn at random, not boxes: two boxes of one picture are not two observations. Every interval here
resamples or counts images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""Sums over images, shape (…, columns), to statistics, shape (…, m). NaN where a statistic has no denominator."""

_DRAWS_AT_ONCE = 1_000_000
_NORMAL = NormalDist()


class Resampling(NamedTuple):
    """How an interval is made: its two-sided level, and the draws behind it."""

    confidence: float = 0.95
    seed: int = 0
    resamples: int = 2000


class Interval(NamedTuple):
    """Values of m statistics, the ends of their intervals and their standard errors: four arrays of length m, NaN where undefined."""

    value: Floats
    low: Floats
    high: Floats
    error: Floats


def bootstrap_sums(rows: Floats, *, seed: int, resamples: int) -> Floats:
    """Column sums of `resamples` draws of n images with replacement, shape (resamples, columns).

    Each draw is kept only as a count per image, so memory stays flat whatever the number of resamples.
    """
    n = len(rows)
    draw = np.random.default_rng(seed)
    sums = np.empty((resamples, rows.shape[1]))
    step = max(1, min(resamples, _DRAWS_AT_ONCE // n))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        picked = draw.integers(0, n, size=(size, n), dtype=np.int32 if n * size < 2**31 else np.int64)
        picked += (np.arange(size, dtype=picked.dtype) * n)[:, None]
        counts = np.bincount(picked.ravel(), minlength=size * n).reshape(size, n)
        sums[start : start + size] = counts @ rows
    return sums


def bca(rows: Floats, statistic: Statistic, how: Resampling) -> Interval:
    """Bias-corrected and accelerated bootstrap intervals (Efron 1987) of statistics of sums, by image; `rows` is (images, columns).

    Equal to the percentile interval where the bootstrap shows neither bias nor skew. The acceleration comes from the jackknife.
    """
    total = rows.sum(axis=0)
    value = statistic(total)
    drawn = statistic(bootstrap_sums(rows, seed=how.seed, resamples=how.resamples))
    jackknife = statistic(total - rows)
    ends = np.array([_bca_ends(v, d, j, how.confidence) for v, d, j in zip(value, drawn.T, jackknife.T, strict=True)])
    with np.errstate(invalid="ignore"):
        error = np.array([np.std(d[np.isfinite(d)]) if np.isfinite(d).any() else math.nan for d in drawn.T])
    return Interval(value, ends[:, 0], ends[:, 1], error)


def _bca_ends(value: float, drawn: Floats, jackknife: Floats, confidence: float) -> tuple[float, float]:
    drawn = drawn[np.isfinite(drawn)]
    jackknife = jackknife[np.isfinite(jackknife)]
    if not math.isfinite(value) or not len(drawn):
        return math.nan, math.nan
    # Ties count half: with few distinct values "below" alone would lean to one side.
    below = (np.sum(drawn < value) + 0.5 * np.sum(drawn == value)) / len(drawn)
    if not 0 < below < 1:
        return _percentile(drawn, (1 - confidence) / 2, (1 + confidence) / 2)
    bias = _NORMAL.inv_cdf(float(below))
    away = jackknife.mean() - jackknife
    spread = float(np.sum(away**2)) ** 1.5
    acceleration = float(np.sum(away**3)) / (6 * spread) if spread > 0 else 0.0

    def share(level: float) -> float:
        z = bias + _NORMAL.inv_cdf(level)
        return _NORMAL.cdf(bias + z / (1 - acceleration * z)) if acceleration * z < 1 else 1.0

    return _percentile(drawn, share((1 - confidence) / 2), share((1 + confidence) / 2))


def _percentile(drawn: Floats, low: float, high: float) -> tuple[float, float]:
    ends = np.quantile(drawn, [low, high])
    return float(ends[0]), float(ends[1])


def wilson(hits: float, n: float, confidence: float) -> tuple[float, float]:
    """Score interval of a share (Wilson 1927); honest at 0 and at 1, where a bootstrap sees no spread. `n` must be above zero."""
    z = _NORMAL.inv_cdf((1 + confidence) / 2)
    share = hits / n
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    return (0.0 if hits == 0 else max(0.0, low)), (1.0 if hits == n else min(1.0, high))


def share_difference(
    both: float, first: float, second: float, neither: float, confidence: float
) -> tuple[float, float]:
    """Interval of the paired difference of two shares, second minus first, from the four counts of a 2 x 2 table.

    Square-and-add of two Wilson intervals with the correlation of the pairs (Newcombe 1998, method 10).
    """
    n = both + first + second + neither
    p1, p2 = (both + first) / n, (both + second) / n
    (l1, u1), (l2, u2) = wilson(both + first, n, confidence), wilson(both + second, n, confidence)
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    phi = (both * neither - first * second) / math.sqrt(margins) if margins > 0 else 0.0

    def half(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    return p2 - p1 - half(p2 - l2, u1 - p1), p2 - p1 + half(u2 - p2, p1 - l1)


def mcnemar(lost: int, gained: int) -> float:
    """Two-sided exact p of McNemar's test: are `lost` and `gained` images a fair coin? 1.0 when none changed."""
    n = lost + gained
    if n == 0:
        return 1.0
    return min(1.0, 2 * float(special.bdtr(min(lost, gained), n, 0.5)))


def images_needed(error: float, n: int, distance: float, confidence: float, power: float = 0.8) -> int:
    """Images for an interval to exclude a value this far from the true one, with this power.

    `error` is the standard error seen with `n` images; it falls with the square root of their number.
    """
    z = _NORMAL.inv_cdf((1 + confidence) / 2) + _NORMAL.inv_cdf(power)
    return math.ceil(n * (z * error / distance) ** 2)
