"""The stimulus itself. Tolerances derive from the arrival process: a count over T has standard deviation sqrt(rate·T)·cv."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.core.arrivals import NS, by_count, by_duration
from client.core.plan import Arrival
from client.errors import UsageError

SIGMAS = 5
RANDOM = [(Arrival.POISSON, 1.0), (Arrival.GAMMA, 0.25), (Arrival.GAMMA, 4.0)]


def spread(arrival: Arrival, burstiness: float) -> float:
    """Coefficient of variation of the gaps: 1 for Poisson, 1/sqrt(shape) for gamma."""
    return 1.0 if arrival is Arrival.POISSON else burstiness**-0.5


def test_constant_arrivals_are_evenly_spaced_from_the_start() -> None:
    assert by_count(Arrival.CONSTANT, 4, 5, seed=(0,)).tolist() == [0, 250_000_000, 500_000_000, 750_000_000, NS]


@given(rate=st.floats(0.1, 5000), seconds=st.floats(0.01, 20))
def test_constant_arrivals_by_duration_fill_it_exactly(rate: float, seconds: float) -> None:
    offsets = by_duration(Arrival.CONSTANT, rate, seconds, seed=(0,))
    assert abs(len(offsets) - rate * seconds) <= 1
    assert offsets[0] == 0
    assert offsets[-1] < seconds * NS


@pytest.mark.parametrize(("arrival", "burstiness"), RANDOM)
@pytest.mark.parametrize("seed", range(5))
def test_the_offered_rate_is_the_asked_one(arrival: Arrival, burstiness: float, seed: int) -> None:
    rate, seconds = 200.0, 50.0
    offsets = by_duration(arrival, rate, seconds, seed=(seed,), burstiness=burstiness)
    deviation = (rate * seconds) ** 0.5 * spread(arrival, burstiness)
    assert abs(len(offsets) - rate * seconds) < SIGMAS * deviation
    assert (np.diff(offsets) >= 0).all()
    assert 0 <= offsets[0] <= offsets[-1] < seconds * NS


@pytest.mark.parametrize(("arrival", "burstiness"), RANDOM)
def test_the_gaps_are_as_bursty_as_asked(arrival: Arrival, burstiness: float) -> None:
    gaps = np.diff(by_count(arrival, 100, 20_000, seed=(7,), burstiness=burstiness)) / NS
    assert gaps.mean() == pytest.approx(0.01, rel=SIGMAS * spread(arrival, burstiness) / 20_000**0.5)
    assert gaps.std() / gaps.mean() == pytest.approx(spread(arrival, burstiness), rel=0.05)


def test_a_poisson_count_has_the_variance_of_a_poisson_count() -> None:
    """Index of dispersion over windows of 1 s: 1 ± 5·sqrt(2/n). Even or bunched arrivals with the right mean would fail here."""
    offsets = by_duration(Arrival.POISSON, 20, 1000, seed=(1,))
    counts = np.histogram(offsets, bins=np.arange(0, 1001) * NS)[0]
    assert counts.var() / counts.mean() == pytest.approx(1, abs=SIGMAS * (2 / 1000) ** 0.5)


@pytest.mark.parametrize("arrival", [Arrival.CONSTANT, Arrival.POISSON])
def test_a_ramp_has_the_rate_of_the_moment(arrival: Arrival) -> None:
    offsets = by_duration(arrival, 10, 100, seed=(2,), end_rate_per_s=90)
    for start in range(0, 100, 20):
        expected = 20 * (10 + 0.8 * (start + 10))
        found = ((offsets >= start * NS) & (offsets < (start + 20) * NS)).sum()
        tolerance = 1 if arrival is Arrival.CONSTANT else SIGMAS * expected**0.5
        assert abs(found - expected) <= tolerance, start


def test_a_ramp_may_start_or_end_at_nothing() -> None:
    up = by_duration(Arrival.CONSTANT, 0, 10, seed=(0,), end_rate_per_s=10)
    down = by_duration(Arrival.CONSTANT, 10, 10, seed=(0,), end_rate_per_s=0)
    assert len(up) == len(down) == 50
    assert np.diff(up)[0] > np.diff(up)[-1]
    assert np.diff(down)[0] < np.diff(down)[-1]


@given(seed=st.integers(0, 2**32), arrival=st.sampled_from([Arrival.POISSON, Arrival.GAMMA]))
def test_the_seed_decides(seed: int, arrival: Arrival) -> None:
    first, again, other = (by_count(arrival, 3, 50, seed=s) for s in ((seed,), (seed,), (seed + 1,)))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_no_global_random_state_is_used() -> None:
    np.random.seed(1)
    before = np.random.get_state()[1].tolist()
    by_count(Arrival.POISSON, 3, 50, seed=(1,))
    assert np.random.get_state()[1].tolist() == before


@pytest.mark.parametrize("arrival", [Arrival.CONSTANT, Arrival.POISSON, Arrival.GAMMA])
@pytest.mark.parametrize(("start", "end"), [(2.0, 10.0), (10.0, 2.0), (0.0, 8.0), (8.0, 0.0), (5.0, 5.0)])
def test_a_ramp_by_count_sends_exactly_so_many_at_the_rate_of_the_moment(
    arrival: Arrival, start: float, end: float
) -> None:
    count, duration_s = 6_000, 2 * 6_000 / (start + end)
    offsets = by_count(arrival, start, count, seed=(3,), burstiness=2.0, end_rate_per_s=end) / NS
    assert len(offsets) == count
    assert (np.diff(offsets) >= 0).all()
    assert 0 <= offsets[0] <= offsets[-1] <= duration_s
    middle = np.searchsorted(offsets, duration_s / 2)
    assert middle == pytest.approx(count * (3 * start + end) / (4 * (start + end)), abs=4 * (count / 4) ** 0.5)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_cannot_be_walked_is_refused(rate: float) -> None:
    with pytest.raises(UsageError):
        by_count(Arrival.POISSON, rate, 3, seed=(0,))


def test_a_burstiness_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError):
        by_count(Arrival.GAMMA, 1, 3, seed=(0,), burstiness=0)
