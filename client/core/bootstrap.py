"""Intervals for a contrast of logarithms of one statistic over several series: ratio of two arms, or of one against two.

    interleaved  log s(B) - log s(A)                        resampled by image: both arms of a picture stay together
    serial       log s(B) - (log s(A1) + log s(A2)) / 2     the same; drift is added by the caller

Methods: percentile for quantiles, BCa (Efron 1987) for means, both at levels expanded for small n (Hesterberg 2015). Where the series is
autocorrelated, medians of more than 100 values: the stationary bootstrap (Politis & Romano 1994), its replicates spread by what finite blocks
lose. Everything else, and short medians: independent draws spread by `client.core.autoregression`. Where requests started in waves,
independent draws spread by `client.core.waves`, if that is more. Batch means (Law 2015, ch. 9) for very
long series.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from client.core.dependence import Dependence, dependence, of_contrast
from client.core.observed import AnySeries, Clusters, Index, Series, Shares
from client.core.stats import Floats, Interval, normal_point, t_point
from client.core.table import Ints

REPLICATES = 2000
REPLICATES_LONG = 1000
"""For more than 300 values, where each costs more and the ends of the interval lie closer together."""
MANY = 2000
"""From here on batch means take over: as exact, and linear in n."""
EXPANDED = 20
"""Below this many independent values percentile intervals of quantiles are widened too; above it resampled quantiles spread enough."""
CELLS = 4_000_000
"""Numbers held at once while resampling: 32 MB."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """`log` is the interval of the weighted sum of logs; `difference` that of the same sum without logs. None: not bounded."""

    log: Interval | None
    difference: Interval | None
    n: int
    method: str
    warming: float = 0.0
    """What of the half width of `log` stands for a warm-up that may reach into the pairs."""


def stationary_index(rng: np.random.Generator, n: int, rows: int, length: int) -> Index:
    """`rows` resamples of 0..n-1 in runs of geometric length with mean `length`, wrapping around; independent draws for 1."""
    fresh = rng.integers(0, n, (rows, n), np.int32)
    if length <= 1:
        return fresh
    start = rng.random((rows, n), np.float32) < 1 / length
    start[:, 0] = True
    column = np.arange(n, dtype=np.int32)
    last_start = np.maximum.accumulate(np.where(start, column, np.int32(0)), axis=1)
    index = np.take_along_axis(fresh, last_start, axis=1) + column - last_start
    index[index >= n] -= n
    return index


def _levels(confidence: float, n: int, effective: float, *, smooth: bool) -> tuple[float, float]:
    """Percentile levels for n values that are worth `effective` independent ones. `smooth`: a mean, or a sum over a sum.

    Percentiles of a resampled quantile are wide enough from 20 independent values on, those of a mean are not.
    """
    if smooth or effective < n or n < EXPANDED:
        return expanded_levels(confidence, effective)
    return (1 - confidence) / 2, (1 + confidence) / 2


def _tails(z: float) -> tuple[float, float]:
    from scipy.special import ndtr

    tail = float(ndtr(-z))
    return tail, 1 - tail


def expanded_levels(confidence: float, effective: float) -> tuple[float, float]:
    """Percentile levels widened from the normal to Student's t, and from n to n - 1."""
    effective = max(effective, 4.0)
    return _tails(t_point(confidence, effective - 1) * math.sqrt(effective / (effective - 1)))


def contrast(
    parts: Sequence[AnySeries],
    weights: Sequence[float],
    paired: bool,
    confidence: float,
    seed: Sequence[int],
    waves: Sequence[Ints] | None = None,
) -> Contrast:
    """The interval of `Σ weight · log statistic`. Paired parts have the same length and the same order of images.

    `waves`: of each part the wave of each place, where requests were started in waves (`client.core.waves`); None where they were not.
    """
    n = min(len(part) for part in parts)
    point = np.array([part.value() for part in parts])
    if n < 2 or not np.isfinite(point).all() or (point <= 0).any():
        return Contrast(None, None, n, "none")
    if n > MANY:
        return _batched(parts, weights, point, paired, confidence, waves)
    depend = _dependences(parts, weights, paired, confidence, waves)
    replicates = _replicates(parts, paired, [d.length for d in depend], np.random.default_rng(list(seed)))
    w, spread = np.asarray(weights), np.array([d.spread for d in depend])
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = (np.log(point) + spread * (np.log(replicates) - np.log(point))) @ w
        plain = (point + spread * (replicates - point)) @ w
    means = all(isinstance(part, Series) and part.p is None for part in parts)
    worth, size = min((len(part) / d.inflation, len(part)) for part, d in zip(parts, depend, strict=True))
    smooth = all(isinstance(part, Shares) or part.p is None for part in parts)
    levels = _levels(confidence, size, worth, smooth=smooth)
    method = (
        "bootstrap"
        if all(d.spread == 1.0 for d in depend)
        else "stationary bootstrap"
        if max(d.length for d in depend) > 1
        else "spread bootstrap"
    )
    if means:
        levels = _bca_levels(logs, float(np.log(point) @ w), _jackknife(parts, w, paired), levels)
        method += ", BCa"
    return Contrast(
        _bounds(logs, float(np.log(point) @ w), levels), _bounds(plain, float(point @ w), levels), n, method
    )


def _dependences(
    parts: Sequence[AnySeries],
    weights: Sequence[float],
    paired: bool,
    confidence: float,
    waves: Sequence[Ints] | None,
) -> list[Dependence]:
    """One for each part; paired parts share that of their contrast, as they are resampled together."""
    of_each = [None] * len(parts) if waves is None else waves
    if paired:
        return [of_contrast(parts, weights, confidence, of_each[0])] * len(parts)
    return [dependence(part, confidence, wave) for part, wave in zip(parts, of_each, strict=True)]


def _replicates(parts: Sequence[AnySeries], paired: bool, lengths: list[int], rng: np.random.Generator) -> Floats:
    widest = max(part.width() if isinstance(part, Clusters) else len(part) for part in parts)
    total = REPLICATES if len(parts[0]) <= 300 else REPLICATES_LONG
    step = max(1, min(total, CELLS // max(widest, 1)))
    chunks = []
    for begin in range(0, total, step):
        rows = min(step, total - begin)
        shared = stationary_index(rng, len(parts[0]), rows, lengths[0]) if paired else None
        chunks.append(
            np.stack(
                [
                    part.resampled(shared if shared is not None else stationary_index(rng, len(part), rows, length))
                    for part, length in zip(parts, lengths, strict=True)
                ],
                axis=1,
            )
        )
    return np.concatenate(chunks)


def _bounds(replicates: Floats, point: float, levels: tuple[float, float]) -> Interval | None:
    """Percentiles of the replicates; None as soon as an end is not finite (time-outs reach it)."""
    ordered = np.sort(np.where(np.isnan(replicates), np.inf, replicates))
    places = [min(max(level * (len(ordered) + 1) - 1, 0.0), len(ordered) - 1.0) for level in levels]
    low, high = float(ordered[math.floor(places[0])]), float(ordered[math.ceil(places[1])])
    return Interval(point, low, high) if math.isfinite(low) and math.isfinite(high) else None


def _jackknife(parts: Sequence[AnySeries], weights: Floats, paired: bool) -> Floats:
    """Influence values of the contrast of log means."""
    each = [w * np.log(p.without_each()) for w, p in zip(weights, parts, strict=True) if isinstance(p, Series)]
    if paired:
        return np.asarray(np.sum(each, axis=0), np.float64)
    return np.concatenate([part - part.mean() for part in each])


def _bca_levels(
    replicates: Floats, point: float, jackknife: Floats, levels: tuple[float, float]
) -> tuple[float, float]:
    """Levels corrected for bias and for a variance that changes with the value (Efron 1987)."""
    from scipy.special import ndtr, ndtri

    finite = replicates[np.isfinite(replicates)]
    share = (float((finite < point).sum()) + 0.5 * float((finite == point).sum())) / max(len(finite), 1)
    bias = float(ndtri(min(max(share, 1e-3), 1 - 1e-3)))
    pull = jackknife.mean() - jackknife
    scale = float((pull**2).sum()) ** 1.5
    rate = float((pull**3).sum()) / (6 * scale) if scale > 0 else 0.0
    corrected = []
    for level in levels:
        if not 0 < level < 1:  # two values or three widen a level to the end of the sample: nothing is left to correct
            corrected.append(level)
            continue
        z = bias + float(ndtri(level))
        corrected.append(float(ndtr(bias + z / max(1 - rate * z, 0.1))))
    return corrected[0], corrected[1]


def _batched(
    parts: Sequence[AnySeries],
    weights: Sequence[float],
    point: Floats,
    paired: bool,
    confidence: float,
    waves: Sequence[Ints] | None,
) -> Contrast:
    """Batch means: the contrast over 10 to 50 consecutive runs gives the spread, the whole gives the value. No wave lies in many batches."""
    n = min(len(part) for part in parts)
    p = None if isinstance(parts[0], Shares) else parts[0].p
    tail = 0.5 if p is None else min(p, 1 - p)
    batches = int(min(max(n * tail / 10, 10), 50))
    if waves is not None:
        batches = max(2, min(batches, *(int(wave.max()) + 1 for wave in waves)))
    values = np.empty((batches, len(parts)))
    for column, part in enumerate(parts):
        edges = np.linspace(0, len(part), batches + 1).astype(int)
        values[:, column] = [part.run(int(a), int(b)) for a, b in pairwise(edges)]
    w = np.asarray(weights)
    with np.errstate(
        invalid="ignore", divide="ignore"
    ):  # a batch in which nothing came back has no logarithm, and then no interval
        log = _batch_interval(np.log(values) * w, float(np.log(point) @ w), paired, confidence)
        plain = _batch_interval(values * w, float(point @ w), paired, confidence)
    return Contrast(log, plain, n, "batch means")


def _batch_interval(terms: Floats, point: float, paired: bool, confidence: float) -> Interval | None:
    batches = len(terms)
    variance = float(terms.sum(axis=1).var(ddof=1)) if paired else float(terms.var(axis=0, ddof=1).sum())
    half = t_point(confidence, batches - 1) * math.sqrt(variance / batches)
    return Interval(point, point - half, point + half) if math.isfinite(half) else None


def z_of(interval: Interval, confidence: float) -> float:
    """How many standard errors the value lies from zero, read back from its interval: from the half that faces zero, so that the interval leaves
    zero out where this is beyond its point, or from half of the whole, if that is more."""
    facing = interval.value - interval.low if interval.value > 0 else interval.high - interval.value
    half = max(facing, interval.half)
    return interval.value / (half / normal_point(confidence)) if half > 0 else math.copysign(99.0, interval.value)
