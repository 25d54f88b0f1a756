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
_MOST_UNITS = 10_000
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


def by_image(rows: Floats, statistic: Statistic, how: Resampling) -> Interval:
    """Expanded percentile bootstrap intervals of statistics of sums; `rows` is (images, columns), two rows or more.

    The plain percentile interval is too narrow for few images; the expanded one takes its percentiles where Student's t and the factor
    n / (n − 1) put them (Hesterberg 2015, What Teachers Should Know About the Bootstrap, section 4.3). Against scores as detectors give
    them it covered the truth more often than the BCa interval, on paired differences by far (docs/accuracy.md has the numbers).
    """
    rows = _thinned(rows, how.seed)
    n = len(rows)
    drawn = statistic(bootstrap_sums(rows, seed=how.seed, resamples=how.resamples))
    expanded = float(special.stdtrit(n - 1, (1 + how.confidence) / 2)) * math.sqrt(n / (n - 1))
    tail = _NORMAL.cdf(-expanded)
    columns = [column[np.isfinite(column)] for column in drawn.T]
    ends = np.array([np.quantile(c, [tail, 1 - tail]) if len(c) else (math.nan, math.nan) for c in columns])
    error = np.array([np.std(c) if len(c) else math.nan for c in columns])
    return Interval(statistic(rows.sum(axis=0)), ends[:, 0], ends[:, 1], error)


def _thinned(rows: Floats, seed: int) -> Floats:
    """Very many images summed into random groups of equal size.

    Sums of independent images vary as the images do, so the interval stays the same, for a tenth of the work at 100,000 images.
    """
    size = len(rows) // _MOST_UNITS
    if size < 2:
        return rows
    shuffled = np.random.default_rng(seed).permutation(rows)
    grouped: Floats = np.add.reduceat(shuffled, np.arange(0, len(rows), size), axis=0)
    return grouped


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
