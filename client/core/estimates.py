"""One arm on its own: every metric as an Estimate, or a note that says what it would take."""

from __future__ import annotations

import math

import numpy as np

from client.core.blocks import levels_of
from client.core.bootstrap import contrast
from client.core.dependence import log_times, told_inflation
from client.core.findings import Estimate
from client.core.metrics import Arm, batch_rates, throughput_weights, unknown_of
from client.core.names import LATENCIES, QUANTILES
from client.core.observed import Clusters, Series, Shares
from client.core.plan import Arrival, RunPlan
from client.core.stats import Floats, least_n, order_interval, quantile, t_interval, wilson
from client.core.table import Ints, Mask
from client.core.waves import told_wave_inflation, waves_of

NOT_MEASURED = "not measured"


MERGED_SHARE = 0.05
"""Chunks that share a stamp were merged on the way: above this share the gaps are those of the network, not of the model."""


def not_measured(unit: str = "", note: str = NOT_MEASURED) -> Estimate:
    return Estimate(unit=unit, note=note)


def arm_metrics(arm: Arm, plan: RunPlan) -> dict[str, Estimate]:
    """Keys as in TargetFindings.metrics."""
    found: dict[str, Estimate] = {}
    for metric in LATENCIES:
        if metric == "itl" and len(arm.gaps) and (merged := float((arm.gaps == 0).mean())) > MERGED_SHARE:
            note = f"not measured: {merged:.0%} of the chunks arrived together with the one before"
            found |= {f"itl_ms_{stat}": not_measured("ms", note) for stat in (*QUANTILES, "mean")}
            continue
        values, effective = latency_values(arm, metric, plan)
        ordered = np.sort(values)
        for stat, p in QUANTILES.items():
            found[f"{metric}_ms_{stat}"] = quantile_estimate(ordered, p, plan.confidence, effective, arm)
        found[f"{metric}_ms_mean"] = mean_estimate(arm, metric, plan)
    for name, weights in throughput_weights(arm, plan.slos).items():
        found[name] = rate_estimate(arm, weights, plan)
    if arm.ok.any():
        found.setdefault("output_tokens_per_s", not_measured("1/s", "the server gave no token counts"))
    found.setdefault("output_tokens_per_s", not_measured("1/s"))
    if plan.slos and (unknown := unknown_of(arm, plan.slos)) is not None:
        found["goodput_per_s"] = not_measured("1/s", f"the {unknown} of some answers is not known")
    found["error_rate"] = error_rate(arm, plan.confidence)
    return found


def latency_values(arm: Arm, metric: str, plan: RunPlan) -> tuple[Floats, float]:
    """The defined values in time order, and how many independent ones they are worth."""
    part = series_of(arm, metric, None)  # gaps of one answer move together: an answer counts once
    values = arm.gaps if part is None or isinstance(part, Clusters) else part.values
    return values, 0.0 if part is None else len(part) / _inflation(part, _waves(arm, metric, plan), plan)


def _inflation(part: Series | Clusters, waves: Ints | None, plan: RunPlan) -> float:
    """What neighbours share, or requests that started together if that is more."""
    times = part.times()
    if waves is None or not np.isfinite(times).any():
        return told_inflation(times)
    return max(told_inflation(times), told_wave_inflation(log_times(times), waves, plan.confidence))


def _waves(arm: Arm, metric: str, plan: RunPlan) -> Ints | None:
    return waves_of(arm.block[defined(arm, metric)], plan)


def defined(arm: Arm, metric: str) -> Mask:
    """Of which requests the metric is."""
    if metric == "itl":
        return np.bincount(arm.gap_owner, minlength=len(arm)).astype(np.bool_)
    return ~np.isnan(arm.latency[metric])


def quantile_estimate(ordered: Floats, p: float, confidence: float, effective: float, arm: Arm) -> Estimate:
    """Of ascending values, inf where a request timed out."""
    n = len(ordered)
    if n == 0:
        return not_measured("ms")
    interval = order_interval(ordered, p, confidence, effective)
    if interval is None:
        return _unsupported(ordered, p, confidence, effective)
    if math.isinf(interval.value):
        return _at_limit(interval.low, n, arm)
    note = "the upper end is beyond the time-out" if math.isinf(interval.high) else None
    return Estimate(value=interval.value, low=interval.low, high=_finite(interval.high), n=n, unit="ms", note=note)


def _unsupported(ordered: Floats, p: float, confidence: float, effective: float) -> Estimate:
    """No interval exists at this confidence. A median is told all the same, with the range seen; other quantiles are not."""
    n, needed = len(ordered), least_n(p, confidence)
    few = f"needs n ≥ {needed}"
    if effective < n and n >= needed:
        few += f"; the {n} here are worth {max(effective, 1):.0f} independent ones"
    middle = quantile(ordered, p)
    if p != 0.5 or math.isinf(middle):
        return Estimate(n=n, unit="ms", note=few)
    note = f"{few} for {confidence:.0%}; the interval is the range seen"
    return Estimate(value=middle, low=float(ordered[0]), high=_finite(float(ordered[-1])), n=n, unit="ms", note=note)


def _at_limit(low: float, n: int, arm: Arm) -> Estimate:
    """The quantile itself timed out: it is at least the limit, and no more is known."""
    limit = arm.limit_ms
    known_low = low if math.isfinite(low) else limit
    timed_out = int(arm.censored.sum())
    return Estimate(value=limit, low=known_low, n=n, unit="ms", note=f"≥ {limit:.0f} ms: {timed_out} of {n} timed out")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def mean_estimate(arm: Arm, metric: str, plan: RunPlan) -> Estimate:
    part = series_of(arm, metric, None)
    if part is None:
        return not_measured("ms")
    value, n = part.value(), len(part)
    if math.isinf(value):
        return Estimate(n=n, unit="ms", note="not bounded: requests timed out")
    waves = _waves(arm, metric, plan)
    interval = contrast(
        [part], [1.0], False, plan.confidence, (plan.seed, 11), None if waves is None else [waves]
    ).difference
    if interval is None:
        return Estimate(value=value, n=n, unit="ms", note="needs n ≥ 2 for an interval")
    return Estimate(value=value, low=interval.low, high=interval.high, n=n, unit="ms")


def series_of(arm: Arm, metric: str, p: float | None) -> Series | Clusters | None:
    """What the bootstrap resamples; None when the metric is not defined for any request."""
    if metric == "itl":
        if not len(arm.gaps):
            return None
        has_gaps = np.bincount(arm.gap_owner, minlength=len(arm)) > 0
        owner = arm.gap_owner if has_gaps.all() else (np.cumsum(has_gaps) - 1).astype(np.int32)[arm.gap_owner]
        return Clusters(arm.gaps, owner, int(has_gaps.sum()), p, bool((owner[1:] >= owner[:-1]).all()))
    values = arm.latency[metric]
    values = values[~np.isnan(values)]
    return Series(values, p) if len(values) else None


def rate_series(arm: Arm, weights: Floats) -> Shares:
    """What each ended request added, over the seconds that it held its place in a closed loop: from when its lane became free, for what the
    generator lets a lane wait is throughput that the server was not asked for."""
    ended = arm.end_ns > arm.start_ns
    held_s = (arm.end_ns - arm.start_ns)[ended] / 1e9
    if "response" in arm.latency:
        with np.errstate(invalid="ignore"):
            idle_ms = (arm.latency["response"] - arm.latency["e2e"])[ended]
        held_s = held_s + np.where(np.isfinite(idle_ms) & (idle_ms > 0), idle_ms, 0.0) / 1e3
    return Shares(weights[ended], held_s)


def rate_of(arm: Arm, weights: Floats, plan: RunPlan) -> float | None:
    """Per second. One lane or an open loop: sum over the seconds of the measured windows.

    Several lanes in a closed loop: Little's law (1961), lanes × Σ weights / Σ time in the system. The window of the measured requests is
    shared with lead-in and lead-out, so that counting measured completions in it would be too few, and counting all too many.
    """
    lanes = levels_of(plan.load)[0].concurrency if plan.load.arrival is Arrival.CLOSED else 1
    if lanes > 1:
        held = rate_series(arm, weights)
        return lanes * held.value() if len(held) else None
    sums, seconds = batch_rates(arm, weights, least=1)
    return float(sums.sum() / seconds.sum()) if len(sums) else None


def rate_estimate(arm: Arm, weights: Floats, plan: RunPlan) -> Estimate:
    """`rate_of` with its interval: see `client.core.pairing.rate_contrast`."""
    if not arm.counted.any():
        return not_measured("1/s")  # nothing but cancelled requests says nothing of the server
    value, n = rate_of(arm, weights, plan), int(arm.ok.sum())
    if value is None:
        return not_measured("1/s")
    if value == 0:
        return _none_counted(arm, plan)
    if plan.load.arrival is Arrival.CLOSED:
        waves = waves_of(arm.block[arm.end_ns > arm.start_ns], plan)
        of_each = None if waves is None else [waves]
        found = contrast([rate_series(arm, weights)], [1.0], False, plan.confidence, (plan.seed, 12), of_each).log
        spread = None if found is None else (math.exp(found.low - found.value), math.exp(found.high - found.value))
    else:
        sums, seconds = batch_rates(arm, weights)
        over_blocks = t_interval(sums / seconds, plan.confidence)
        spread = (
            None if over_blocks is None or value <= 0 else (1 - over_blocks.half / value, 1 + over_blocks.half / value)
        )
    if spread is None:
        return Estimate(value=value, n=n, unit="1/s", note="too few requests for an interval")
    return Estimate(value=value, low=max(0.0, value * spread[0]), high=value * spread[1], n=n, unit="1/s")


def _none_counted(arm: Arm, plan: RunPlan) -> Estimate:
    """Of n requests none counted: their share lies below Wilson's bound, and so does the rate, below that share of all that ended."""
    ended = rate_of(arm, np.ones(len(arm)), plan) or 0.0
    share = wilson(0, int(arm.counted.sum()), plan.confidence)
    return Estimate(
        value=0.0, low=0.0, high=None if share is None else ended * share.high, n=int(arm.ok.sum()), unit="1/s"
    )


def error_rate(arm: Arm, confidence: float) -> Estimate:
    """Share of counted requests that failed (time-outs are failures too)."""
    counted = int(arm.counted.sum())
    failed = int((arm.counted & ~arm.ok).sum())
    interval = wilson(failed, counted, confidence)
    if interval is None:
        return not_measured()
    return Estimate(value=interval.value, low=interval.low, high=interval.high, n=counted)


def single_request(arm: Arm) -> dict[str, Estimate]:
    """`e2e_ms` and `ttft_ms` of the first request of an arm: one observation, with no interval."""
    found: dict[str, Estimate] = {}
    for metric in ("e2e", "ttft"):
        value = float(arm.latency[metric][0]) if len(arm) else math.nan
        if math.isnan(value):
            found[f"{metric}_ms"] = not_measured("ms")
        elif math.isinf(value):
            found[f"{metric}_ms"] = Estimate(value=arm.limit_ms, n=1, unit="ms", note="≥ its time-out")
        else:
            found[f"{metric}_ms"] = Estimate(value=value, n=1, unit="ms", note="one request")
    return found
