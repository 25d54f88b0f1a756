"""Two arms side by side: which requests are compared with which, the contrast of each metric, and the run's own A/A noise.

Interleaved: both arms saw each image once, in neighbouring blocks (A B B A ...): images pair the requests, drift cancels.
Serial: A, then B, then A again. The mean of both As stands where B stood in time; what the As differ by beyond their own noise is drift,
and as its course in between is unknown (but taken to be monotone), half of it is added to each side of the interval.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np

from client.core.bootstrap import Contrast, contrast
from client.core.estimates import rate_of, rate_series, series_of
from client.core.metrics import Arm, batch_rates, throughput_weights
from client.core.names import QUANTILES
from client.core.observed import AnySeries, Series
from client.core.plan import Arrival, Design, RunPlan
from client.core.stats import Floats, Interval, t_point
from client.core.table import Mask

LEAST_PAIRS = 0.9
"""Pairing by image is used where at least this share of either arm has a partner."""


@dataclass(frozen=True, slots=True)
class Sides:
    """`parts[0]` is the candidate; the others are the baseline, their weights sum to -1."""

    parts: tuple[Arm, ...]
    weights: tuple[float, ...]
    design: Design
    paired: bool

    @property
    def second_a(self) -> bool:
        return len(self.parts) == 3

    @property
    def requests_per_arm(self) -> int:
        return min(len(part) for part in self.parts)


def sides(baseline: Arm, candidate: Arm, design: Design) -> Sides:
    parts: tuple[Arm, ...] = (candidate, baseline)
    weights: tuple[float, ...] = (1.0, -1.0)
    if design is Design.SERIAL and len(candidate) and len(baseline):
        before = baseline.start_ns < candidate.start_ns.min()
        after = baseline.start_ns > candidate.start_ns.max()
        if before.sum() >= 2 and after.sum() >= 2:
            parts, weights = (candidate, baseline.part(before), baseline.part(after)), (1.0, -0.5, -0.5)
    return Sides(parts, weights, design, _share_images(parts))


def _share_images(parts: tuple[Arm, ...]) -> bool:
    """Each image once in each part, and nearly all of them in all parts."""
    if any(len(np.unique(part.image)) < len(part) for part in parts):
        return False
    common = _common(parts, [np.ones(len(part), np.bool_) for part in parts])
    return len(common) >= max(2.0, LEAST_PAIRS * max(len(part) for part in parts))


def _common(parts: tuple[Arm, ...], keep: list[Mask]) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    images = parts[0].image[keep[0]]
    for part, mask in zip(parts[1:], keep[1:], strict=True):
        images = images[np.isin(images, part.image[mask])]
    return images


def _defined(part: Arm, metric: str) -> Mask:
    if metric == "itl":
        return np.bincount(part.gap_owner, minlength=len(part)).astype(np.bool_)
    return ~np.isnan(part.latency[metric])


def aligned(both: Sides, metric: str) -> tuple[Arm, ...]:
    """The parts of a paired comparison, each in the candidate's order of images and only where all have the metric."""
    return reordered_all(both, [_defined(part, metric) for part in both.parts])


def reordered_all(both: Sides, keep: list[Mask]) -> tuple[Arm, ...]:
    first = both.parts[0].image
    if all(mask.all() for mask in keep) and all(np.array_equal(part.image, first) for part in both.parts[1:]):
        return both.parts  # the usual case, and no copies of a million rows
    images = _common(both.parts, keep)
    return tuple(reordered(part, images) for part in both.parts)


def reordered(part: Arm, images: np.ndarray[tuple[int], np.dtype[np.int32]]) -> Arm:
    """The rows of `part` for these images, in this order."""
    by_image = np.argsort(part.image, kind="stable")
    picked = by_image[np.searchsorted(part.image[by_image], images)]
    keep = np.zeros(len(part), np.bool_)
    keep[picked] = True
    smaller = part.part(keep)
    if bool((np.diff(picked) > 0).all()):
        return smaller
    place = np.argsort(np.argsort(picked, kind="stable"), kind="stable")  # where each wanted row lies in `smaller`
    back = np.argsort(place, kind="stable")
    fields = {name: values[place] for name, values in smaller.latency.items()}
    return Arm(
        smaller.target, smaller.rows[place], smaller.image[place], smaller.block[place], smaller.index[place],
        smaller.start_ns[place], smaller.end_ns[place], smaller.ok[place], smaller.counted[place], smaller.censored[place],
        smaller.tokens[place], smaller.prompt_tokens[place], smaller.cached_tokens[place], fields,
        smaller.gaps, back.astype(np.int32)[smaller.gap_owner], smaller.limit_ms,
    )  # fmt: skip


def _seed(plan: RunPlan, text: str) -> tuple[int, int]:
    return plan.seed & 0xFFFFFFFF, zlib.crc32(text.encode())


def latency_contrast(both: Sides, metric: str, stat: str, plan: RunPlan) -> Contrast:
    """candidate / baseline as a log, drift of a serial design included."""
    p = QUANTILES.get(stat)
    paired = both.paired and bool((_lengths(both, metric) >= 2).all())
    arms = aligned(both, metric) if paired else both.parts
    series = [series_of(part, metric, p) for part in arms]
    known: list[AnySeries] = [part for part in series if part is not None]
    if len(known) < len(series):
        return Contrast(None, None, 0, "none")
    found = contrast(known, both.weights, paired, plan.confidence, _seed(plan, stat))
    if not both.second_a:
        return found
    drift = contrast(known[1:], (-1.0, 1.0), paired, plan.confidence, _seed(plan, f"{stat} drift"))
    return Contrast(
        _with_drift(found.log, drift.log), _with_drift(found.difference, drift.difference), found.n, found.method
    )


def _lengths(both: Sides, metric: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([len(_common(both.parts, [_defined(part, metric) for part in both.parts]))])


def drift_allowance(drift: Interval) -> float:
    """Half of what the second A differs from the first beyond one and a half standard errors of its own noise."""
    return max(0.0, abs(drift.value) - 0.75 * drift.half) / 2


def _with_drift(found: Interval | None, drift: Interval | None) -> Interval | None:
    if found is None or drift is None:
        return None
    allowance = drift_allowance(drift)
    return found.shifted(-allowance, allowance)


def rate_contrast(both: Sides, name: str, plan: RunPlan) -> Contrast:
    """Throughputs: candidate / baseline as a log. The value is that of the measured windows.

    In a closed loop the spread comes from the requests: with c in flight, throughput is c / (mean time in the system) (Little 1961), so
    it is as certain as that mean. In an open loop it comes from Student's t over blocks.
    """
    values = [_window_rate(part, name, plan) for part in both.parts]
    if any(value is None or value <= 0 for value in values):
        return Contrast(None, None, 0, "none")
    rates = np.array([value for value in values if value is not None])
    point = float(np.log(rates) @ np.asarray(both.weights))
    found = (_closed_rate if plan.load.arrival is Arrival.CLOSED else _block_rate)(both, name, plan)
    if found.log is None:
        return found
    log = found.log.shifted(point - found.log.value, point - found.log.value)
    base = float(rates[0]) / math.exp(point)
    plain = Interval(*(base * math.expm1(value) for value in (point, log.low, log.high)))
    return Contrast(Interval(point, log.low, log.high), plain, found.n, found.method)


def _window_rate(part: Arm, name: str, plan: RunPlan) -> float | None:
    weights = throughput_weights(part, plan.slos).get(name)
    return None if weights is None else rate_of(part, weights, plan)


def _closed_rate(both: Sides, name: str, plan: RunPlan) -> Contrast:
    arms = reordered_all(both, [part.end_ns > part.start_ns for part in both.parts]) if both.paired else both.parts
    series: list[AnySeries] = [rate_series(part, throughput_weights(part, plan.slos)[name]) for part in arms]
    found = contrast(series, both.weights, both.paired, plan.confidence, _seed(plan, "rate"))
    if not both.second_a:
        return found
    drift = contrast(series[1:], (-1.0, 1.0), both.paired, plan.confidence, _seed(plan, "rate drift"))
    return Contrast(_with_drift(found.log, drift.log), None, found.n, found.method)


def _block_rate(both: Sides, name: str, plan: RunPlan) -> Contrast:
    logs: list[Floats] = []
    for part in both.parts:
        sums, seconds = batch_rates(part, throughput_weights(part, plan.slos)[name])
        if len(sums) < 2 or (sums <= 0).any():
            return Contrast(None, None, len(sums), "none")
        logs.append(np.log(sums / seconds))
    n = min(len(part) for part in both.parts)
    point = float(np.dot(both.weights, [float(part.mean()) for part in logs]))
    if both.design is Design.INTERLEAVED and len({len(part) for part in logs}) == 1:
        terms = np.sum([w * part for w, part in zip(both.weights, logs, strict=True)], axis=0)
        variance, freedom = float(terms.var(ddof=1)) / len(terms), len(terms) - 1.0
    else:
        each = [w * w * float(part.var(ddof=1)) / len(part) for w, part in zip(both.weights, logs, strict=True)]
        variance, freedom = sum(each), _welch(each, [len(part) for part in logs])
    half = t_point(plan.confidence, freedom) * math.sqrt(variance)
    log: Interval | None = Interval(point, point - half, point + half)
    if both.second_a:
        noise = t_point(plan.confidence, freedom) * math.sqrt(sum(float(p.var(ddof=1)) / len(p) for p in logs[1:]))
        gap = float(logs[2].mean() - logs[1].mean())
        log = _with_drift(log, Interval(gap, gap - noise, gap + noise))
    return Contrast(log, None, n, "Student's t over blocks")


def _welch(variances: list[float], sizes: list[int]) -> float:
    """Welch-Satterthwaite degrees of freedom."""
    below = sum(v * v / (n - 1) for v, n in zip(variances, sizes, strict=True))
    return sum(variances) ** 2 / below if below > 0 else float(sum(sizes) - len(sizes))


def noise_floor(both: Sides, metric: str, stat: str) -> float | None:
    """What the same server differs from itself by in this run, as a ratio minus 1; None when it could not be made.

    Serial: the second A against the first. Else: blocks of one arm against its other blocks, split so that linear drift cancels
    (+ - - + as in ABBA), the larger of both arms, scaled from half an arm to a whole one. What images differ by is taken out by the other
    arm's time for the same image (a control variate), as it does not enter the paired comparison either.
    """
    p = QUANTILES.get(stat)
    if both.second_a:
        first, second = (series_of(part, metric, p) for part in both.parts[1:])
        return None if first is None or second is None else _gap(first.value(), second.value(), 1.0)
    if metric == "itl":
        return _largest([_pace_gap(part, p) for part in both.parts])
    arms = aligned(both, metric) if both.paired else both.parts
    gaps = []
    for part, other in _with_partner(arms, both.paired):
        split = _split(part, part.latency[metric], None if other is None else other.latency[metric])
        if split is not None:
            halves = [Series(split.values[split.side == sign], p).value() for sign in (1, -1)]
            gaps.append(_gap(halves[0], halves[1], math.sqrt(0.5)))
    return _largest(gaps)


def _pace_gap(part: Arm, p: float | None) -> float | None:
    """The same of the gaps between chunks. They hardly depend on the picture: no control variate."""
    blocks = np.unique(part.block)
    if len(blocks) < 2 or not len(part.gaps):
        return None
    side = _signs(len(blocks))[np.searchsorted(blocks, part.block)][part.gap_owner]
    halves = [part.gaps[side == sign] for sign in (1, -1)]
    if not all(map(len, halves)):
        return None
    return _gap(Series(halves[0], p).value(), Series(halves[1], p).value(), math.sqrt(0.5))


def rate_floor(both: Sides, name: str, plan: RunPlan) -> float | None:
    """The same of a throughput: in a closed loop from what each request added over the time it took, in an open one from blocks."""
    if both.second_a:
        first, second = (_window_rate(part, name, plan) for part in both.parts[1:])
        return None if first is None or second is None else _gap(first, second, 1.0)
    if plan.load.arrival is not Arrival.CLOSED:
        return _largest([_block_gap(part, throughput_weights(part, plan.slos)[name]) for part in both.parts])
    arms = reordered_all(both, [part.end_ns > part.start_ns for part in both.parts]) if both.paired else both.parts
    gaps = []
    for part, other in _with_partner(arms, both.paired):
        split = _split(part, _seconds(part), None if other is None else _seconds(other))
        if split is not None:
            added = throughput_weights(part, plan.slos)[name][split.kept]
            halves = [float(added[split.side == k].sum() / split.values[split.side == k].sum()) for k in (1, -1)]
            gaps.append(_gap(halves[0], halves[1], math.sqrt(0.5)))
    return _largest(gaps)


def _with_partner(arms: tuple[Arm, ...], paired: bool) -> list[tuple[Arm, Arm | None]]:
    return [(part, arms[1 - place] if paired else None) for place, part in enumerate(arms)]


def _seconds(part: Arm) -> Floats:
    return np.asarray((part.end_ns - part.start_ns) / 1e9, np.float64)


@dataclass(frozen=True, slots=True)
class _Halves:
    """`side` is +1 or -1 for each of `values`; `kept` says which rows of the arm they are."""

    kept: Mask
    values: Floats
    side: np.ndarray[tuple[int], np.dtype[np.int64]]


def _split(part: Arm, values: Floats, other: Floats | None) -> _Halves | None:
    blocks = np.unique(part.block)
    if len(blocks) < 2:
        return None
    kept = np.isfinite(values) & (values > 0)
    if other is not None:
        kept &= np.isfinite(other) & (other > 0)
    logs = np.log(values[kept])
    if other is not None and kept.sum() > 3:
        control = np.log(other[kept])
        spread = float(control.var())
        slope = float(np.cov(logs, control, bias=True)[0, 1]) / spread if spread > 0 else 0.0
        logs = logs - min(max(slope, 0.0), 1.0) * (control - control.mean())
    side = _signs(len(blocks))[np.searchsorted(blocks, part.block[kept])]
    return _Halves(kept, np.exp(logs), side) if min((side > 0).sum(), (side < 0).sum()) >= 2 else None


def _signs(blocks: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([1 if k % 4 in (0, 3) else -1 for k in range(blocks)])


def _block_gap(part: Arm, weights: Floats) -> float | None:
    sums, seconds = batch_rates(part, weights)
    if len(sums) < 2:
        return None
    side = _signs(len(sums))
    halves = [float(sums[side == k].sum() / seconds[side == k].sum()) for k in (1, -1)]
    return _gap(halves[0], halves[1], math.sqrt(0.5))


def _largest(gaps: list[float | None]) -> float | None:
    return max((gap for gap in gaps if gap is not None), default=None)


def _gap(first: float, second: float, scale: float) -> float | None:
    if not (math.isfinite(first) and math.isfinite(second) and first > 0 and second > 0):
        return None
    return math.expm1(abs(math.log(second / first)) * scale)
