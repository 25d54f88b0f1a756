"""When open-loop requests start: arrival processes as offsets in ns from the start of their block.

A process is first drawn at rate 1 ("operational time": each unit holds one expected arrival) and then stretched by the inverse of the
cumulative rate Λ(t). A constant rate r gives t = u / r. A ramp from r0 to r1 over T gives Λ(t) = r0·t + (r1 − r0)·t² / 2T, so
t = (sqrt(r0² + 2·k·u) − r0) / k with k = (r1 − r0) / T (Lewis and Shedler's time-scale transformation of 1979; exact for Poisson arrivals).

Burstiness follows vLLM's convention (`vllm/benchmarks/serve.py`, `get_request`): gaps are gamma with shape `burstiness` and mean 1, so their
coefficient of variation is 1/sqrt(burstiness). 1 is Poisson, below 1 is burstier, above 1 is more even.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.core.plan import Arrival
from client.errors import UsageError

NS = 1_000_000_000
Offsets = NDArray[np.int64]


def unit_arrivals(arrival: Arrival, burstiness: float, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """`count` arrivals at rate 1, ascending. CONSTANT starts at 0; the others start after their first gap."""
    if arrival is Arrival.CONSTANT:
        return np.arange(count, dtype=np.float64)
    if arrival is Arrival.POISSON:
        return np.cumsum(rng.standard_exponential(count))
    if arrival is Arrival.GAMMA:
        return np.cumsum(rng.standard_gamma(burstiness, count) / burstiness)
    raise UsageError(f"Arrivals `{arrival}` have no rate.", "Use constant, poisson or gamma with --rate.")


def by_count(
    arrival: Arrival,
    rate_per_s: float,
    count: int,
    *,
    seed: tuple[int, ...],
    burstiness: float = 1.0,
    end_rate_per_s: float | None = None,
) -> Offsets:
    """Offsets of exactly `count` arrivals. `end_rate_per_s` makes it a linear ramp, over the time in which `count` are expected.

    The gaps of a ramp are scaled to end with it: for Poisson arrivals that is their law, given their number (sorted uniform draws).
    """
    rng = np.random.default_rng(seed)
    if end_rate_per_s is None:
        check_rate(rate_per_s, burstiness)
        return to_ns(unit_arrivals(arrival, burstiness, count, rng) / rate_per_s)
    _check_ramp(rate_per_s, end_rate_per_s, burstiness)
    units = unit_arrivals(arrival, burstiness, count + 1, rng)
    return _ramped(
        units[:-1] * (count / units[-1]), rate_per_s, end_rate_per_s, 2 * count / (rate_per_s + end_rate_per_s)
    )


def by_duration(
    arrival: Arrival,
    rate_per_s: float,
    duration_s: float,
    *,
    seed: tuple[int, ...],
    burstiness: float = 1.0,
    end_rate_per_s: float | None = None,
) -> Offsets:
    """Offsets of all arrivals in [0, duration): their number is part of the process. `end_rate_per_s` makes it a linear ramp."""
    end = rate_per_s if end_rate_per_s is None else end_rate_per_s
    _check_ramp(rate_per_s, end, burstiness)
    expected = (rate_per_s + end) / 2 * duration_s
    rng = np.random.default_rng(seed)
    units = unit_arrivals(arrival, burstiness, int(expected + 8 * (expected / min(1.0, burstiness)) ** 0.5) + 16, rng)
    while units[-1] < expected:  # rarer than 8 standard deviations, but a short list would be a silent end of the load
        units = np.concatenate([units, units[-1] + unit_arrivals(arrival, burstiness, len(units), rng)])
    # An arrival at exactly Λ(T) belongs to the next interval; 1e-9 forgives the rounding of rate × duration.
    return _ramped(units[units < expected - 1e-9], rate_per_s, end, duration_s)


def _ramped(units: NDArray[np.float64], rate_per_s: float, end_per_s: float, duration_s: float) -> Offsets:
    """The inverse of the cumulative rate, see above."""
    slope = (end_per_s - rate_per_s) / duration_s
    if slope == 0:
        return to_ns(units / rate_per_s)
    return to_ns((np.sqrt(rate_per_s**2 + 2 * slope * units) - rate_per_s) / slope)


def _check_ramp(rate_per_s: float, end_per_s: float, burstiness: float) -> None:
    check_rate(max(rate_per_s, end_per_s), burstiness)
    if min(rate_per_s, end_per_s) < 0:
        raise UsageError(
            f"A ramp from {rate_per_s:g} to {end_per_s:g}/s has a negative rate.", "Give rates of 0 or more."
        )


def to_ns(seconds: NDArray[np.float64]) -> Offsets:
    return np.rint(seconds * NS).astype(np.int64)


def check_rate(rate_per_s: float, burstiness: float) -> None:
    if not 0 < rate_per_s < 1e6:
        raise UsageError(f"A rate of {rate_per_s:g} requests/s cannot be walked.", "Give --rate a number above 0.")
    if not 0 < burstiness < 1e6:
        raise UsageError(
            f"A burstiness of {burstiness:g} has no gaps.", "Give --burstiness a number above 0; 1 is Poisson."
        )
