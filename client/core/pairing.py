"""Two arms side by side: which requests are compared with which, and the contrast of each metric.

Interleaved: both arms saw each image once, in neighbouring blocks (A B B A ...): images pair the requests, drift cancels.
Serial: A, then B, then A again. The mean of both As stands where B stood in time; what the As differ by beyond their own noise is drift,
and as its course in between is unknown (but taken to be monotone), half of it is added to each side of the interval.

A campaign shows each A one half of the pictures, and B all of them. So requests are paired by image all the same, each half of B with its
A ("look"), and what the As differ by is read from the two looks: (A2 - B2) - (A1 - B1). With a drift g that only rises (or falls), the
error of the pooled comparison is half of |(B1 - A1) - (A2 - B2)|, and neither bracket is negative: half of their sum bounds it.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace

import numpy as np

from client.core.beginnings import Ahead, Courses, Look, averaged, courses
from client.core.bootstrap import MANY, Contrast, contrast
from client.core.drift import between, level_of, levelled, with_drift
from client.core.estimates import defined, rate_of, rate_series, series_of
from client.core.metrics import Arm, batch_rates, throughput_weights
from client.core.names import QUANTILES
from client.core.observed import AnySeries, Series, Shares
from client.core.plan import Arrival, Design, RunPlan
from client.core.stats import Floats, Interval, t_point
from client.core.table import Ints, Mask
from client.core.waves import in_waves, wave_of

LEAST_PAIRS = 0.9
"""Pairing by image is used where at least this share of either arm has a partner."""


@dataclass(frozen=True, slots=True)
class Sides:
    """`parts[0]` is the candidate; the others are the baseline, their weights sum to -1."""

    parts: tuple[Arm, ...]
    weights: tuple[float, ...]
    design: Design
    paired: bool
    looks: tuple[Sides, ...] = ()
    """Serial with the pictures divided between both As: the candidate's half against the first A, and against the second."""
    ahead: tuple[Ahead, ...] = ()
    """What was sent ahead, for each look, or for the whole; nothing where it is not known."""

    @property
    def second_a(self) -> bool:
        return len(self.parts) == 3 or bool(self.looks)

    @property
    def looks_at_baseline(self) -> tuple[Arm, ...]:
        """The baseline's requests of each of its stays."""
        return tuple(look.parts[1] for look in self.looks) if self.looks else self.parts[1:]

    @property
    def requests_per_arm(self) -> int:
        return min(len(self.parts[0]), sum(len(part) for part in self.parts[1:]))


def sides(baseline: Arm, candidate: Arm, design: Design) -> Sides:
    baseline, candidate = _once(baseline), _once(candidate)
    pair = (candidate, baseline)
    if design is Design.SERIAL and len(candidate) and len(baseline):
        before = baseline.start_ns < candidate.start_ns.min()
        after = baseline.start_ns > candidate.start_ns.max()
        if before.sum() >= 2 and after.sum() >= 2:
            return _around(candidate, baseline, (before, after))
    return Sides(pair, (1.0, -1.0), design, _share_images(pair))


def _around(candidate: Arm, baseline: Arm, when: tuple[Mask, Mask]) -> Sides:
    first, second = (baseline.part(mask) for mask in when)
    three, pair = (candidate, first, second), (candidate, baseline.part(when[0] | when[1]))
    if _share_images(three) or not _share_images(pair):
        return Sides(three, (1.0, -0.5, -0.5), Design.SERIAL, _share_images(three))
    looks = tuple(
        Sides((candidate.part(np.isin(candidate.image, part.image)), part), (1.0, -1.0), Design.SERIAL, True)
        for part in (first, second)
    )
    return Sides(pair, (1.0, -1.0), Design.SERIAL, True, looks)


def _once(part: Arm) -> Arm:
    """Without failed tries of requests that were answered in the end (`--retry-safe`): each picture then stands there once."""
    gone = part.counted & ~part.ok & ~part.censored
    again = gone & np.isin(part.image, part.image[part.ok])
    return part.part(~again) if again.any() else part


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


def aligned(both: Sides, metric: str) -> tuple[Arm, ...]:
    """The parts of a paired comparison, each in the candidate's order of images and only where all have the metric."""
    return reordered_all(both, [defined(part, metric) for part in both.parts])


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
    arms = asked = aligned(both, metric) if paired else both.parts
    if both.looks and metric != "itl":
        arms = arms[0], levelled(arms, both.looks[0].parts[1].image, metric)
    series = [series_of(part, metric, p) for part in arms]
    known: list[AnySeries] = [part for part in series if part is not None]
    if len(known) < len(series):
        return Contrast(None, None, 0, "none")
    waves = _waves([part.block[defined(part, metric)] for part in arms], plan)
    found = contrast(known, both.weights, paired, plan.confidence, _seed(plan, stat), waves)
    if paired and metric != "itl" and len(asked) == 2:
        logs = _logs(asked[0].latency[metric], asked[1].latency[metric])
        found = _with_beginnings(found, both, arms[1], known, logs, metric, plan)
    if not both.second_a:
        return found
    if both.looks:
        return with_drift(
            found, between([latency_contrast(look, metric, stat, plan) for look in both.looks]), plan.confidence
        )
    of_a = None if waves is None else waves[1:]
    drift = contrast(known[1:], (-1.0, 1.0), paired, plan.confidence, _seed(plan, f"{stat} drift"), of_a)
    return with_drift(found, drift, plan.confidence, 1.0)


def _waves(blocks: list[Ints], plan: RunPlan) -> list[Ints] | None:
    """Of each part, by the block of each request, which wave it belongs to; None where requests do not start in waves."""
    together = in_waves(plan)
    return None if together < 2 else [wave_of(block, together) for block in blocks]


def _with_beginnings(
    found: Contrast, both: Sides, baseline: Arm, series: list[AnySeries], logs: Floats, metric: str, plan: RunPlan
) -> Contrast:
    """`logs`: ratios of the pairs as measured, for what was sent ahead of a look is on its level and no other."""
    parts = [part for part in series if isinstance(part, Series | Shares)]
    if not both.ahead or len(parts) != 2 or found.n > MANY:
        return found
    return averaged(found, parts, logs, _places(both, baseline, metric), plan.confidence)


def _logs(candidate: Floats, baseline: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log(candidate / baseline), np.float64)


def _places(both: Sides, baseline: Arm, metric: str) -> list[Look]:
    """Of the compared pairs in their order, by the baseline's part of them: which stay each belongs to, and its place there."""
    found = []
    for ahead, stay in zip(both.ahead, both.looks_at_baseline, strict=True):
        rows = np.flatnonzero(np.isin(baseline.image, stay.image))
        place = np.searchsorted(np.sort(stay.start_ns), baseline.start_ns[rows]) + ahead.many
        found.append(Look(rows, place.astype(np.int64), ahead.pairs(metric)))
    return found


def courses_of(both: Sides, metric: str) -> Courses | None:
    """How likely the pairs' ratio begins elsewhere; None where that is not known."""
    if not both.paired or not both.ahead:
        return None
    arms = aligned(both, metric)
    if len(arms) != 2 or not 0 < len(arms[0]) <= MANY:
        return None
    return courses(_logs(arms[0].latency[metric], arms[1].latency[metric]), _places(both, arms[1], metric))


def _lengths(both: Sides, metric: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([len(_common(both.parts, [defined(part, metric) for part in both.parts]))])


def log_ratios(both: Sides, metric: str) -> Floats | None:
    """Of the pairs in the order in which they were measured, both looks on one level; None where requests are not paired. Finite ones only."""
    if not both.paired:
        return None
    arms = aligned(both, metric)
    if len(arms) != 2 or not len(arms[0]):
        return None
    baseline = levelled(arms, both.looks[0].parts[1].image, metric) if both.looks else arms[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(arms[0].latency[metric] / baseline.latency[metric])
    return np.asarray(logs[np.isfinite(logs)], np.float64)


def rate_contrast(both: Sides, name: str, plan: RunPlan) -> Contrast:
    """Throughputs: candidate / baseline as a log. The value is that of the measured windows.

    In a closed loop the spread comes from the requests: with c in flight, throughput is c / (mean time in the system) (Little 1961), so
    it is as certain as that mean. In an open loop it comes from Student's t over blocks.
    """
    values = [window_rate(part, name, plan) for part in both.parts]
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
    whole = Interval(point, log.low, log.high)
    return replace(found, log=whole, difference=plain)


def window_rate(part: Arm, name: str, plan: RunPlan) -> float | None:
    """Per second; None where it cannot be told."""
    weights = throughput_weights(part, plan.slos).get(name)
    return None if weights is None else rate_of(part, weights, plan)


def _closed_rate(both: Sides, name: str, plan: RunPlan) -> Contrast:
    arms = reordered_all(both, [part.end_ns > part.start_ns for part in both.parts]) if both.paired else both.parts
    if not all(map(len, arms)):  # paired by what was sent, and no picture was answered on both sides
        return Contrast(None, None, 0, "none")
    shares = [rate_series(part, throughput_weights(part, plan.slos)[name]) for part in arms]
    logs = _logs(shares[0].below, shares[1].below) if both.paired else np.zeros(0)
    if both.looks:
        early = np.isin(arms[1].image, both.looks[0].parts[1].image)
        scale = level_of(shares[0].below, shares[1].below, early)
        shares[1] = replace(shares[1], below=shares[1].below * scale)
    series: list[AnySeries] = list(shares)
    waves = _waves([part.block[part.end_ns > part.start_ns] for part in arms], plan)
    found = contrast(series, both.weights, both.paired, plan.confidence, _seed(plan, "rate"), waves)
    if both.paired and len(arms) == 2:
        found = _with_beginnings(found, both, arms[1], series, logs, "e2e", plan)
    if not both.second_a:
        return found
    if both.looks:
        return with_drift(found, between([_closed_rate(look, name, plan) for look in both.looks]), plan.confidence)
    of_a = None if waves is None else waves[1:]
    drift = contrast(series[1:], (-1.0, 1.0), both.paired, plan.confidence, _seed(plan, "rate drift"), of_a)
    return with_drift(found, drift, plan.confidence, 1.0)


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
    found = Contrast(Interval(point, point - half, point + half), None, n, "Student's t over blocks")
    if not both.second_a:
        return found
    if both.looks:
        return with_drift(found, between([_block_rate(look, name, plan) for look in both.looks]), plan.confidence)
    noise = t_point(plan.confidence, freedom) * math.sqrt(sum(float(p.var(ddof=1)) / len(p) for p in logs[1:]))
    gap = float(logs[2].mean() - logs[1].mean())
    drift = Contrast(Interval(gap, gap - noise, gap + noise), None, n, found.method)
    return with_drift(found, drift, plan.confidence, 1.0)


def _welch(variances: list[float], sizes: list[int]) -> float:
    """Welch-Satterthwaite degrees of freedom."""
    below = sum(v * v / (n - 1) for v, n in zip(variances, sizes, strict=True))
    return sum(variances) ** 2 / below if below > 0 else float(sum(sizes) - len(sizes))
