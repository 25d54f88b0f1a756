"""The interval of a mean whose values depend on one another, and how much of that a statistic feels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.worlds import WORLDS, campaign, plan
from client.core.autoregression import followed_widening, widening
from client.core.plan import Design
from client.core.stats import Floats, t_point
from client.core.verdict import judge


def at_95(values: Floats) -> float:
    return widening(values, 0.95)


def _series(rng: np.random.Generator, n: int, rho: float, share: float) -> Floats:
    state = np.empty(n)
    state[0] = rng.normal()
    for k in range(1, n):
        state[k] = rho * state[k - 1] + math.sqrt(1 - rho * rho) * rng.normal()
    return np.asarray(math.sqrt(share) * state + math.sqrt(1 - share) * rng.normal(size=n))


@pytest.mark.parametrize(("rho", "share"), [(0.0, 1.0), (0.3, 1.0), (0.6, 1.0), (0.6, 0.6), (-0.3, 1.0)])
def test_interval_of_a_dependent_mean_covers_as_promised(rho: float, share: float) -> None:
    rng = np.random.default_rng([1, int(100 * (rho + 1)), int(100 * share)])
    n, campaigns, held = 60, 500, 0
    for _ in range(campaigns):
        values = _series(rng, n, rho, share)
        half = t_point(0.95, n - 1) * float(values.std(ddof=1)) / math.sqrt(n) * widening(values, 0.95)
        held += abs(float(values.mean())) <= half
    assert 0.92 <= held / campaigns <= 0.985


def test_independent_values_cost_little_and_long_memory_costs_much() -> None:
    rng = np.random.default_rng(2)
    assert widening(rng.normal(size=400), 0.95) == pytest.approx(1.0, abs=0.15)
    assert widening(_series(rng, 400, 0.8, 1.0), 0.95) == pytest.approx(3.0, rel=0.25)  # √((1 + 0.8) / (1 - 0.8))
    assert widening(_series(rng, 400, -0.5, 1.0), 0.95) < 0.8


def test_nothing_is_said_of_few_values_or_a_constant() -> None:
    assert widening(np.arange(7.0), 0.95) == 1.0
    assert widening(np.full(30, 5.0), 0.95) == 1.0
    assert followed_widening(np.zeros(30), np.zeros(30), at_95) == 1.0


def test_values_that_differ_in_their_last_bits_are_a_constant() -> None:
    values = np.full(40, math.log(1000.0))
    values[::3] = np.nextafter(values[::3], 0)
    assert widening(values, 0.95) == 1.0


def test_scale_and_level_of_a_series_do_not_matter() -> None:
    values = _series(np.random.default_rng(3), 60, 0.5, 1.0)
    assert widening(7 * values + 1000, 0.95) == pytest.approx(widening(values, 0.95))


def test_a_statistic_feels_the_dependence_of_the_logs_as_far_as_it_follows_them() -> None:
    rng = np.random.default_rng(4)
    logs, noise = _series(rng, 200, 0.7, 1.0), rng.normal(size=200)
    alone = widening(noise, 0.95)
    half = followed_widening(logs + noise, logs, at_95)
    assert alone < half <= followed_widening(logs, logs, at_95)
    assert followed_widening(noise, logs, at_95) == pytest.approx(alone, abs=0.1)


def test_throughput_of_thirty_dependent_requests_covers_as_promised() -> None:
    """Influence values alone, doubted by a test, covered 92 % of such campaigns."""
    world, held = WORLDS[1], 0
    for number in range(300):
        both = campaign(world, Design.INTERLEAVED, 30, 0.0, np.random.default_rng([7, number]))
        log = judge(both, "requests_per_s", plan(Design.INTERLEAVED, number)).found.log
        held += log is not None and log.low <= 0 <= log.high
    assert held >= 0.935 * 300
