"""When open-loop requests start: arrival processes as offsets in ns from the start of their block.

A process is first drawn at rate 1 ("operational time": each unit holds one expected arrival) and then stretched by the inverse of the
cumulative rate Λ(t). A constant rate r gives t = u / r. A ramp from r0 to r1 over T gives Λ(t) = r0·t + (r1 − r0)·t² / 2T, so
t = (sqrt(r0² + 2·k·u) − r0) / k with k = (r1 − r0) / T (Lewis and Shedler's time-scale transformation of 1979; exact for Poisson arrivals).

Burstiness follows vLLM's convention (`vllm/benchmarks/serve.py`, `get_request`): gaps are gamma with shape `burstiness` and mean 1, so their
coefficient of variation is 1/sqrt(burstiness). 1 is Poisson, below 1 is burstier, above 1 is more even.
"""

from __future__ import annotations

from collections.abc import Iterable

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
    arrival: Arrival, rate_per_s: float, count: int, *, seed: tuple[int, ...], burstiness: float = 1.0
) -> Offsets:
    """Offsets of exactly `count` arrivals at a steady rate."""
    check_rate(rate_per_s, burstiness)
    units = unit_arrivals(arrival, burstiness, count, np.random.default_rng(seed))
    return to_ns(units / rate_per_s)


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
    check_rate(max(rate_per_s, end), burstiness)
    if min(rate_per_s, end) < 0:
        raise UsageError(f"A ramp from {rate_per_s:g} to {end:g}/s has a negative rate.", "Give rates of 0 or more.")
    expected = (rate_per_s + end) / 2 * duration_s
    rng = np.random.default_rng(seed)
    units = unit_arrivals(arrival, burstiness, int(expected + 8 * (expected / min(1.0, burstiness)) ** 0.5) + 16, rng)
    while units[-1] < expected:  # rarer than 8 standard deviations, but a short list would be a silent end of the load
        units = np.concatenate([units, units[-1] + unit_arrivals(arrival, burstiness, len(units), rng)])
    # An arrival at exactly Λ(T) belongs to the next interval; 1e-9 forgives the rounding of rate × duration.
    units = units[units < expected - 1e-9]
    slope = (end - rate_per_s) / duration_s
    if slope == 0:
        return to_ns(units / rate_per_s)
    return to_ns((np.sqrt(rate_per_s**2 + 2 * slope * units) - rate_per_s) / slope)


def from_intended(intended_ns: Iterable[int]) -> Offsets:
    """The arrivals of a saved run as offsets from its first one."""
    stamps = np.sort(np.fromiter(intended_ns, dtype=np.int64))
    return stamps - stamps[0] if len(stamps) else stamps


def to_ns(seconds: NDArray[np.float64]) -> Offsets:
    return np.rint(seconds * NS).astype(np.int64)


def check_rate(rate_per_s: float, burstiness: float) -> None:
    if not 0 < rate_per_s < 1e6:
        raise UsageError(f"A rate of {rate_per_s:g} requests/s cannot be walked.", "Give --rate a number above 0.")
    if not 0 < burstiness < 1e6:
        raise UsageError(
            f"A burstiness of {burstiness:g} has no gaps.", "Give --burstiness a number above 0; 1 is Poisson."
        )
