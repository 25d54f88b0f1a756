"""Quantiles, their distribution-free intervals, autocorrelation, warm-up detection, small-sample corrections.

Sources: Harrell & Davis 1982 (the quantile estimator used: a weighted mean of order statistics, of smaller variance than one of them and
smooth enough to be resampled); Hyndman & Fan 1996 (type 8, used where values are censored or very many);
Hutson 1999 (fractional order-statistic intervals); Politis & White 2004 with Patton, Politis & White 2009 (block length);
Kendall 1954, Marriott & Pope 1954 (bias of the lag-1 autocorrelation); White 1997, White, Cobb & Spratt 2000 (MSER-5);
Serfling 1980, ch. 8 (influence values of a weighted mean of order statistics); Hesterberg 2015 (expanded percentile interval); Holm 1979.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt

K = TypeVar("K", str, tuple[int, str])
Floats = npt.NDArray[np.float64]
DEPENDENT = 1.645
"""Standard errors (one-sided 5 %) from which autocorrelation is taken to be real."""
ENDS_WITHIN = 5.0
"""Standard errors from its centre within which each part of a mixture is looked at."""
SMOOTHED = 2000
"""Up to this n quantiles are Harrell-Davis; above it the estimators differ by less than the rounding of a report."""


@dataclass(frozen=True, slots=True)
class Interval:
    value: float
    low: float
    high: float

    def shifted(self, low: float, high: float) -> Interval:
        return Interval(self.value, self.low + low, self.high + high)

    @property
    def half(self) -> float:
        return (self.high - self.low) / 2


def position(n: int, p: float) -> float:
    """Where the type-8 quantile lies among n ordered values, counted from 1."""
    return min(max((n + 1 / 3) * p + 1 / 3, 1.0), float(n))


def at_position(ordered: Floats, place: float) -> float:
    """Linear between the order statistics around `place` (from 1); inf as soon as a censored value takes part."""
    below = math.floor(place)
    share = place - below
    low = float(ordered[below - 1])
    if share == 0.0:
        return low
    high = float(ordered[min(below, len(ordered) - 1)])
    return math.inf if math.isinf(high) else low + share * (high - low)


@cache
def harrell_davis_weights(n: int, p: float) -> Floats:
    """Weights of the n order statistics: what a Beta((n + 1) p, (n + 1)(1 - p)) variable gives to each 1/n of its range."""
    from scipy.special import betainc

    return np.diff(np.asarray(betainc((n + 1) * p, (n + 1) * (1 - p), np.arange(n + 1) / n), np.float64))


def quantile(ordered: Floats, p: float) -> float:
    """Harrell-Davis quantile of ascending values, type 8 where a value is censored or n is large; NaN for none."""
    n = len(ordered)
    if n == 0:
        return math.nan
    if n > SMOOTHED or math.isinf(float(ordered[-1])):
        return at_position(ordered, position(n, p))
    return float(ordered @ harrell_davis_weights(n, p))


def quantile_rows(matrix: Floats, p: float, censored: bool = False) -> Floats:
    """The same quantile of each row, in any order of its values."""
    n = matrix.shape[1]
    if n <= SMOOTHED and not censored:
        return np.asarray(np.sort(matrix, axis=1) @ harrell_davis_weights(n, p), np.float64)
    place = position(n, p)
    below = math.floor(place)
    share = place - below
    above = min(below, n - 1)
    parted = np.partition(matrix, (below - 1, above), axis=1)
    low, high = parted[:, below - 1], parted[:, above]
    if share == 0.0:
        return low
    with np.errstate(invalid="ignore"):
        return np.where(np.isinf(high), np.inf, low + share * (high - low))


@cache
def least_n(p: float, confidence: float) -> int:
    """The smallest n for which two order statistics enclose the p-quantile with this confidence: 6, 59, 299 for p50, p95, p99 at 95 %."""
    n = 2
    while 1 - p**n - (1 - p) ** n < confidence:
        n += 1
    return n


@cache
def _fractional_place(n: float, p: float, tail: float) -> float:
    """e with I_p((n+1)e, (n+1)(1-e)) = tail, by bisection: the fraction at which an interval for the p-quantile ends (Hutson 1999)."""
    from scipy.special import betainc

    low, high = 1e-9, 1 - 1e-9
    for _ in range(60):
        middle = (low + high) / 2
        if betainc((n + 1) * middle, (n + 1) * (1 - middle), p) > tail:
            low = middle  # the tail falls as the place rises
        else:
            high = middle
    return (low + high) / 2


def order_interval(ordered: Floats, p: float, confidence: float, effective: float | None = None) -> Interval | None:
    """Distribution-free interval of the p-quantile; None when n supports none. `effective` n where the series is autocorrelated."""
    n = len(ordered)
    size = min(float(n), effective if effective is not None else float(n))
    alpha = 1 - confidence
    if n == 0 or p**size + (1 - p) ** size > alpha:
        return None
    above = max(alpha / 2, p**size)  # one tail may need more than its half: the other gets what is left
    below = max(alpha / 2, (1 - p) ** size)
    above, below = min(above, alpha - (1 - p) ** size), min(below, alpha - p**size)
    low = _fractional_place(size, p, 1 - below)
    high = _fractional_place(size, p, above)
    places = [min(max(place * (n + 1), 1.0), float(n)) for place in (low, high)]
    return Interval(quantile(ordered, p), at_position(ordered, places[0]), at_position(ordered, places[1]))


def quantile_influence(values: Floats, p: float) -> Floats:
    """How far each value pulls its Harrell-Davis quantile, times n; they sum to zero. Finite values only.

    A weighted mean of order statistics is, but for terms that vanish, the mean of these (Serfling 1980): what autocorrelation does to the
    quantile it does through them, and not through the values. Of an extreme quantile few values pull, and neighbours hardly matter.
    """
    n = len(values)
    order = np.argsort(values, kind="stable")
    weights = n * harrell_davis_weights(n, p)
    steps = np.diff(values[order]) * (weights[:-1] + weights[1:]) / 2
    above = np.concatenate([np.cumsum(steps[::-1])[::-1], np.zeros(1)])
    found = np.empty(n)
    found[order] = float(steps @ np.arange(1, n)) / n - above
    return found


def autocovariance(series: Floats, lags: int) -> Floats:
    """Lags 0..lags, divided by n (so that the sequence is positive definite)."""
    centred = series - series.mean()
    size = 1 << (2 * len(series) - 1).bit_length()
    spectrum = np.fft.rfft(centred, size)
    return np.asarray(np.fft.irfft(spectrum * np.conj(spectrum), size)[: lags + 1] / len(series), np.float64)


def autocorrelation(series: Floats) -> Floats:
    """Lags 1 to min(n/4, 200), corrected for the bias that the estimated mean brings; empty for a constant or very short series."""
    n = len(series)
    lags = min(n // 4, 200)
    if lags < 1:
        return np.zeros(0)
    covariance = autocovariance(series, lags)
    if covariance[0] <= 0:
        return np.zeros(0)
    rho = covariance[1:] / covariance[0]
    return np.asarray(np.minimum((rho + 1 / n) / (1 - 3 / n), 0.99), np.float64)


def inflation(series: Floats, least: float = DEPENDENT) -> float:
    """By how much autocorrelation multiplies the variance of the mean; 1 where it lies under `least` standard errors, never less.

    Sums autocorrelations in pairs as long as a pair is positive, each pair at most as large as the one before (Geyer 1992).
    """
    n = len(series)
    rho = autocorrelation(series)
    if len(rho) < 2 or max(float(rho[0]), float(rho[:2].sum()) / math.sqrt(2)) < least / math.sqrt(n):
        return 1.0
    whole = np.concatenate([np.ones(1), rho])
    pairs = whole[: len(whole) // 2 * 2].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(pairs <= 0)
    pairs = np.minimum.accumulate(pairs[: int(negative[0])] if len(negative) else pairs)
    return float(min(max(2 * float(pairs.sum()) - 1, 1.0), n / 3))


def resampled_inflation(series: Floats, length: int) -> float:
    """How much of it the stationary bootstrap with this mean block length reproduces (Politis & Romano 1994, their eq. for the variance)."""
    if length <= 1:
        return 1.0
    rho = autocorrelation(series)
    k = np.arange(1, len(rho) + 1)
    kept = (1 - k / len(series)) * (1 - 1 / length) ** k
    return float(max(1 + 2 * float((kept * rho).sum()), 0.3))


def block_length(series: Floats) -> int:
    """Mean block length of the stationary bootstrap by the rule of Politis & White 2004; 1 where no autocorrelation shows."""
    n = len(series)
    if inflation(series) == 1.0:
        return 1
    rho = autocorrelation(series)
    limit = 2 * math.sqrt(math.log10(n) / n)
    small = np.flatnonzero(np.abs(rho) < limit)
    cut = 2 * max(int(small[0]) if len(small) else len(rho), 1)
    k = np.arange(1, min(cut, len(rho)) + 1)
    window = np.minimum(1.0, 2 * (1 - k / cut)) * rho[: len(k)]
    g = 2 * float((k * window).sum())
    d = 2 * (1 + 2 * float(window.sum())) ** 2
    if d <= 0 or g <= 0:
        return 2
    return int(min(max(round((2 * g * g / d) ** (1 / 3) * n ** (1 / 3)), 2), max(n // 3, 2)))


def normal_point(confidence: float) -> float:
    from scipy.special import ndtri

    return float(ndtri((1 + confidence) / 2))


def t_point(confidence: float, freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + confidence) / 2))


def mixture_ends(weight: Floats, centre: Floats, error: Floats, confidence: float) -> tuple[float, float]:
    """Both ends of the central interval of a mixture of normals, by bisection. Weights sum to 1, errors are above 0."""
    from scipy.special import ndtr

    reach = ENDS_WITHIN * error
    ends = []
    for level in ((1 - confidence) / 2, (1 + confidence) / 2):
        low, high = float((centre - reach).min()), float((centre + reach).max())
        for _ in range(40):
            middle = (low + high) / 2
            below = float(weight @ ndtr((middle - centre) / error))
            low, high = (middle, high) if below < level else (low, middle)
        ends.append((low + high) / 2)
    return ends[0], ends[1]


def two_sided_p(z: float) -> float:
    from scipy.special import ndtr

    return float(2 * ndtr(-abs(z)))


def t_interval(values: Floats, confidence: float) -> Interval | None:
    """Of the mean of independent batches; None for fewer than two."""
    n = len(values)
    if n < 2:
        return None
    mean = float(values.mean())
    half = t_point(confidence, n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def wilson(hits: int, n: int, confidence: float) -> Interval | None:
    """Interval of a share (Wilson 1927); None for n = 0."""
    if n == 0:
        return None
    z = normal_point(confidence)
    p = hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(p, max(0.0, middle - half), min(1.0, middle + half))


def fisher_p(a_hits: int, a_n: int, b_hits: int, b_n: int) -> float:
    """Two-sided Fisher exact test of two shares."""
    from scipy.special import gammaln

    def log_choose(n: int, k: Floats) -> Floats:
        return np.asarray(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1), np.float64)

    hits = a_hits + b_hits
    k = np.arange(max(0, hits - b_n), min(hits, a_n) + 1, dtype=np.float64)
    logs = log_choose(a_n, k) + log_choose(b_n, hits - k)
    weights = np.exp(logs - logs.max())
    observed = weights[a_hits - int(k[0])]
    return float(min(1.0, weights[weights <= observed * (1 + 1e-9)].sum() / weights.sum()))


def holm(p_values: Mapping[K, float]) -> dict[K, float]:
    """Adjusted p-values that keep the family-wise error rate (Holm 1979)."""
    adjusted: dict[K, float] = {}
    worst = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda key: (p_values[key], key))):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = worst
    return adjusted


def mser5(series: Floats, batch: int = 5) -> int | None:
    """How many first values to leave out so that the rest is steady state; None when the series never settles.

    MSER-5: of means of five, drop d so that (sum of squared deviations of the rest) / (number of the rest)² is least. By the usual
    rule a minimum in the second half is no answer: the run is too short, or has no steady state. None also below four batches.
    """
    batches = len(series) // batch
    if batches < 4:
        return None
    means = series[: batches * batch].reshape(batches, batch).mean(axis=1)
    left = np.arange(batches, 0, -1)
    sums = np.cumsum(means[::-1])[::-1]
    squares = np.cumsum((means**2)[::-1])[::-1]
    score = (squares - sums**2 / left) / left**2.0
    best = int(np.argmin(score[: batches - max(3, batches // 4)]))  # the last few batches look alike by chance
    return None if best > batches // 2 else best * batch
