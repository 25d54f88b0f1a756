from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.core import stats
from client.core.bootstrap import contrast, stationary_index
from client.core.observed import Clusters, Series


@pytest.mark.parametrize(("p", "n"), [(0.5, 6), (0.95, 59), (0.99, 299)])
def test_how_many_values_a_quantile_needs(p: float, n: int) -> None:
    assert stats.least_n(p, 0.95) == n
    values = np.sort(np.random.default_rng(1).lognormal(size=n))
    assert stats.order_interval(values[1:], p, 0.95) is None
    found = stats.order_interval(values, p, 0.95)
    assert found is not None
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize(("p", "n"), [(0.5, 6), (0.5, 30), (0.95, 59), (0.95, 200), (0.99, 299), (0.99, 1000)])
def test_order_statistics_enclose_the_quantile_as_often_as_promised(p: float, n: int) -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(600):
        found = stats.order_interval(np.sort(rng.exponential(size=n)), p, 0.95)
        assert found is not None
        hits += found.low <= -math.log(1 - p) <= found.high
    assert 0.93 <= hits / 600 <= 0.985


@given(st.lists(st.floats(1, 1e4), min_size=1, max_size=60), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_lies_within_the_values_and_moves_with_their_unit(values: list[float], p: float) -> None:
    ordered = np.sort(np.array(values))
    found = stats.quantile(ordered, p)
    assert ordered[0] - 1e-9 <= found <= ordered[-1] + 1e-9
    assert stats.quantile(ordered * 7, p) == pytest.approx(found * 7)
    assert stats.quantile_rows(np.array([values]), p)[0] == pytest.approx(found)


def test_a_censored_value_makes_only_the_quantiles_that_it_reaches_unknown() -> None:
    ordered = np.array([*range(1, 20), np.inf])
    assert stats.quantile(ordered.astype(float), 0.5) == pytest.approx(10.5)
    assert math.isinf(stats.quantile(ordered.astype(float), 0.99))


@pytest.mark.parametrize("p", [0.5, 0.95])
def test_influences_foretell_what_leaving_a_value_out_does(p: float) -> None:
    values = np.random.default_rng(8).lognormal(0, 0.3, 200)
    whole = stats.quantile(np.sort(values), p)
    without = np.array([stats.quantile(np.sort(np.delete(values, k)), p) for k in range(200)])
    pulls = stats.quantile_influence(values, p)
    assert pulls.sum() == pytest.approx(0, abs=1e-9)
    assert np.corrcoef(pulls, whole - without)[0, 1] > 0.99
    assert pulls.std() == pytest.approx(199 * without.std(), rel=0.1)


def ar1(rho: float, n: int, seed: int = 0) -> stats.Floats:
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=n)
    for k in range(1, n):
        noise[k] += rho * noise[k - 1]
    return noise


def test_inflation_is_that_of_the_theory() -> None:
    """Of the mean of an AR(1) series: (1 + rho) / (1 - rho) = 3 at rho = 0.5."""
    found = [stats.inflation(ar1(0.5, 400, seed)) for seed in range(100)]
    assert np.median(found) == pytest.approx(3.0, rel=0.2)
    assert np.mean([stats.inflation(ar1(0.0, 400, seed)) == 1.0 for seed in range(100)]) > 0.85


def test_block_length_grows_with_dependence() -> None:
    lengths = [stats.block_length(ar1(rho, 500, 5)) for rho in (0.0, 0.5, 0.9)]
    assert lengths[0] == 1
    assert lengths[0] < lengths[1] < lengths[2]


def test_stationary_resamples_keep_neighbours_together() -> None:
    index = stationary_index(np.random.default_rng(1), 100, 500, 10)
    together = ((index[:, 1:] - index[:, :-1]) % 100 == 1).mean()
    assert together == pytest.approx(0.9, abs=0.02)
    assert index.min() == 0
    assert index.max() == 99


def test_warm_up_ends_where_it_ends() -> None:
    rng = np.random.default_rng(2)
    steady = rng.normal(100, 3, 200)
    warming = steady + np.concatenate([60 * np.exp(-np.arange(30) / 8), np.zeros(170)])
    found = stats.mser5(warming)
    assert found is not None
    assert 15 <= found <= 40
    assert stats.mser5(steady + np.linspace(0, 100, 200)) is None
    assert stats.mser5(steady[:12]) is None


def test_fisher_agrees_with_scipy() -> None:
    from scipy.stats import fisher_exact

    for a, n, b, m in [(0, 30, 4, 30), (5, 100, 20, 100), (1, 8, 7, 9)]:
        assert stats.fisher_p(a, n, b, m) == pytest.approx(fisher_exact([[a, n - a], [b, m - b]])[1])


def test_holm_keeps_order_and_bounds() -> None:
    assert stats.holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})


def test_t_and_wilson_by_hand() -> None:
    found = stats.t_interval(np.array([1.0, 2.0, 3.0, 4.0]), 0.95)
    assert found is not None
    assert found.half == pytest.approx(3.1824 * math.sqrt(5 / 3) / 2, rel=1e-3)
    share = stats.wilson(0, 30, 0.95)
    assert share is not None
    assert share.low == 0.0
    assert share.high == pytest.approx(0.1135, abs=1e-3)


def test_long_series_are_cut_into_batches_and_cover_alike() -> None:
    rng = np.random.default_rng(4)
    hits = 0
    for seed in range(100):
        a, b = rng.lognormal(0, 0.2, 5000), rng.lognormal(0, 0.2, 5000)
        found = contrast([Series(a, 0.95), Series(b, 0.95)], (1.0, -1.0), False, 0.95, (seed,))
        assert found.method == "batch means"
        assert found.log is not None
        hits += found.log.low <= 0 <= found.log.high
    assert 90 <= hits <= 99


def test_gaps_of_one_answer_count_as_one_observation() -> None:
    """Every answer has its own pace: twenty gaps of it are no twenty observations."""
    pace = np.random.default_rng(5).lognormal(0, 0.3, 40)
    owner = np.repeat(np.arange(40, dtype=np.int32), 20)
    clustered = contrast([Clusters(pace[owner], owner, 40, 0.5)], (1.0,), False, 0.95, (1,)).log
    flat = contrast([Series(pace[owner], 0.5)], (1.0,), False, 0.95, (1,)).log
    assert clustered is not None
    assert flat is not None
    assert (
        clustered.half
        > 1.5
        * contrast([Series(np.random.default_rng(6).permutation(pace[owner]), 0.5)], (1.0,), False, 0.95, (1,)).log.half
    )  # type: ignore[union-attr]  # finite values give an interval


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_two_values_of_a_serial_design_give_an_interval_and_no_crash(sign: float) -> None:
    parts = [Series(np.array(values), None) for values in ([1.0, 1.1, 1.2, 1.0], [0.8, 0.9], [1.0, 1.2])]
    found = contrast(parts, (sign, -sign / 2, -sign / 2), False, 0.95, (0, 1))
    assert found.log is not None
    assert math.isfinite(found.log.low)
    assert math.isfinite(found.log.high)
