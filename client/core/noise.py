"""The A/A noise floor of a run: what the same server differs from itself by, for each metric, in the evidence at hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from client.core.estimates import series_of
from client.core.metrics import Arm, batch_rates, throughput_weights
from client.core.names import QUANTILES
from client.core.observed import Series
from client.core.pairing import Sides, aligned, reordered_all, window_rate
from client.core.plan import Arrival, RunPlan
from client.core.stats import Floats
from client.core.table import Mask


def noise_floor(both: Sides, metric: str, stat: str) -> float | None:
    """What the same server differs from itself by in this run, as a ratio minus 1; None when it could not be made.

    Serial: the second A against the first. Else: blocks of one arm against its other blocks, split so that linear drift cancels
    (+ - - + as in ABBA), the larger of both arms, scaled from half an arm to a whole one. What images differ by is taken out by the other
    arm's time for the same image (a control variate), as it does not enter the paired comparison either.
    """
    p = QUANTILES.get(stat)
    if both.looks:
        return _look_gap([_values(aligned(look, metric), metric, p) for look in both.looks])
    if both.second_a:
        return _gap(*_values(both.parts[1:], metric, p), 1.0)
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


def _values(parts: tuple[Arm, ...], metric: str, p: float | None) -> tuple[float, float]:
    first, second = (series_of(part, metric, p) for part in parts)
    return (math.nan if first is None else first.value(), math.nan if second is None else second.value())


def _look_gap(looks: list[tuple[float, float]]) -> float | None:
    """Of (candidate, baseline) at both looks. Halved: each look has half of the pairs, so that their gap is twice as uncertain as the whole."""
    (b1, a1), (b2, a2) = looks
    return _gap(b1 / a1, b2 / a2, 0.5) if min(a1, a2) > 0 else None


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
    if both.looks:
        return _look_gap([_rates(look.parts, name, plan) for look in both.looks])
    if both.second_a:
        return _gap(*_rates(both.parts[1:], name, plan), 1.0)
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


def _rates(parts: tuple[Arm, ...], name: str, plan: RunPlan) -> tuple[float, float]:
    first, second = (window_rate(part, name, plan) for part in parts)
    return (math.nan if first is None else first, math.nan if second is None else second)


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
