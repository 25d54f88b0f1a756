"""What a few dozen values are spread by: independent ones hardly, those that depend as far as they may."""

from __future__ import annotations

import numpy as np
import pytest

from client.core.dependence import LEAST, SHORT, dependence
from client.core.observed import Series


def _spreads(rho: float, n: int, series: int = 60) -> list[float]:
    found = []
    for seed in range(series):
        rng = np.random.default_rng([n, seed])
        logs = rng.normal(size=n)
        for k in range(1, n):
            logs[k] = rho * logs[k - 1] + np.sqrt(1 - rho * rho) * logs[k]
        found.append(dependence(Series(np.exp(0.1 * logs), 0.5), 0.95).spread)
    return found


@pytest.mark.parametrize("n", [20, 30, 60, 100])
def test_short_medians_of_independent_values_pay_little(n: int) -> None:
    assert 0.95 < float(np.median(_spreads(0.0, n))) < 1.22


def test_the_longer_a_dependent_series_the_more_of_it_is_counted() -> None:
    """The mean of an AR(1) with 0.9 needs some four times the spread of its own variance, and more where few values do not even show that."""
    medians = [float(np.median(_spreads(0.9, n))) for n in (20, 30, 60)]
    assert medians == sorted(medians)
    assert 3.0 < medians[0] < medians[-1] < 7.0


def test_a_series_that_swings_is_not_trusted_for_it() -> None:
    assert min(_spreads(-0.8, 40)) == max(_spreads(-0.8, 40)) == LEAST == 0.85


def test_fewer_than_eight_values_tell_nothing_of_their_dependence() -> None:
    assert _spreads(0.9, 7) == [1.0] * 60


def test_a_longer_series_is_resampled_in_blocks() -> None:
    rng = np.random.default_rng(1)
    logs = rng.normal(size=SHORT + 1)
    for k in range(1, len(logs)):
        logs[k] += 0.5 * logs[k - 1]
    assert dependence(Series(np.exp(0.1 * logs), 0.5), 0.95).length > 1
    assert dependence(Series(np.exp(0.1 * logs[:-1]), 0.5), 0.95).length == 1
