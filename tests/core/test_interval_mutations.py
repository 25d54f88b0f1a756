"""Intervals against what is known of the truth: their width, whether they hold it, and what must not move them. No internals."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from client.core.autoregression import widening
from client.core.bootstrap import contrast, z_of
from client.core.observed import AnySeries, Clusters, Series, Shares
from client.core.stats import Floats, Interval, t_point

SIGMA = 0.1
Made = Callable[[Floats], AnySeries]


def mean(values: Floats) -> Series:
    return Series(values, None)


def median(values: Floats) -> Series:
    return Series(values, 0.5)


def tail(values: Floats) -> Series:
    return Series(values, 0.95)


def rate(values: Floats) -> Shares:
    return Shares(np.ones(len(values)), values / 1e3)


def gaps(values: Floats) -> Clusters:
    """Four gaps of one answer, all of one size: an answer is worth one observation."""
    return Clusters(np.repeat(values, 4), np.repeat(np.arange(len(values), dtype=np.int32), 4), len(values), None, True)


WIDTHS: dict[str, tuple[Made, float]] = {
    "mean": (mean, 1.0), "median": (median, math.sqrt(math.pi / 2)), "95th percentile": (tail, 2.11), "rate": (rate, 1.0), "gaps": (gaps, 1.0),
}  # fmt: skip
"""Of log-normal values: the standard error of the log of the statistic, in units of sigma / sqrt(n) (large n, small sigma)."""


def independent(n: int, seed: int, sigma: float = SIGMA) -> Floats:
    return np.exp(np.random.default_rng([1, n, seed]).normal(0, sigma, n)) * 200


def chained(n: int, seed: int, rho: float, sigma: float = SIGMA) -> Floats:
    """A first-order autoregression of the logs, with `sigma` overall."""
    rng = np.random.default_rng([2, n, seed])
    state = np.empty(n)
    state[0] = rng.normal(0, sigma)
    for k in range(1, n):
        state[k] = rho * state[k - 1] + rng.normal(0, sigma * math.sqrt(1 - rho**2))
    return np.exp(state) * 200


def half(parts: list[AnySeries], weights: list[float], paired: bool = False, confidence: float = 0.95) -> float:
    found = contrast(parts, weights, paired, confidence, (7,)).log
    assert found is not None
    return found.half


@pytest.mark.parametrize(
    ("name", "n"),
    # a 95th percentile of 40 values is not told
    [(name, n) for name, (kind, _) in WIDTHS.items() for n in (40, 200, 4000) if n > 40 or kind is not tail],
)
def test_the_width_for_independent_values_is_the_one_of_theory(name: str, n: int) -> None:
    kind, factor = WIDTHS[name]
    halves = [half([kind(independent(n, seed))], [1.0]) for seed in range(12)]
    theory = t_point(0.95, n - 1) * factor * SIGMA / math.sqrt(n)
    assert (
        0.8 < float(np.median(halves)) / theory < (1.6 if n == 40 else 1.3)
    )  # few values do not tell that they are independent


@pytest.mark.parametrize("name", ["mean", "median", "rate"])
@pytest.mark.parametrize("n", [30, 300, 6000])
def test_dependent_values_get_the_width_of_theory(name: str, n: int) -> None:
    """Standard error of a mean of AR(1): sqrt((1 + rho) / (1 - rho)) times that of independent values; of a median a little less."""
    rho, (kind, factor) = 0.6, WIDTHS[name]
    halves = [half([kind(chained(n, seed, rho))], [1.0]) for seed in range(24)]
    theory = 1.96 * factor * SIGMA / math.sqrt(n) * 2.0
    low = 0.6 if n == 30 else 0.8  # thirty values tell half of their dependence
    assert low < float(np.mean(halves)) / theory < (2.4 if n == 30 else 1.5)
    free = [half([kind(independent(n, seed))], [1.0]) for seed in range(24)]
    assert float(np.mean(halves)) > 1.25 * float(np.mean(free))


def test_more_dependence_is_never_less_width() -> None:
    for kind in (mean, median, rate):
        means = [
            float(np.mean([half([kind(chained(120, s, rho))], [1.0]) for s in range(16)])) for rho in (0.0, 0.4, 0.8)
        ]
        assert means == sorted(means)
        assert means[2] > 2 * means[0]


@pytest.mark.parametrize("name", ["mean", "median", "rate"])
@pytest.mark.parametrize("n", [12, 60, 3000])
def test_pairs_leave_out_what_both_share(name: str, n: int) -> None:
    """Pictures differ by 30 %; paired, only the noise of 2 % is left, and it counts twice."""
    kind, factor = WIDTHS[name]
    rng = np.random.default_rng(n)
    image = np.exp(rng.normal(0, 0.3, n))
    a, b = (200 * image * np.exp(rng.normal(0, 0.02, n)) for _ in range(2))
    paired, apart = (half([kind(b), kind(a)], [1.0, -1.0], how) for how in (True, False))
    noise = t_point(0.95, n - 1) * factor * 0.02 * math.sqrt(2 / n)
    assert paired < (4 if kind is median else 1.6) * noise  # a ratio of medians is no median of ratios
    assert paired > 0.6 * noise
    assert apart > 3 * paired


def test_two_baselines_count_half_each() -> None:
    """Variance of B - (A1 + A2) / 2: 1 + 1/4 + 1/4."""
    for kind in (mean, median):
        ratios = []
        for seed in range(12):
            parts: list[AnySeries] = [kind(independent(150, 3 * seed + k)) for k in range(3)]
            ratios.append(half(parts, [1.0, -0.5, -0.5]) / half(parts[:1], [1.0]))
        assert float(np.mean(ratios)) == pytest.approx(math.sqrt(1.5), rel=0.12)


@pytest.mark.parametrize("n", [15, 60, 2500])
@pytest.mark.parametrize("name", ["mean", "median", "rate"])
def test_the_truth_is_inside_as_often_as_is_said(name: str, n: int) -> None:
    kind = WIDTHS[name][0]
    runs = 150 if n < 1000 else 60
    for rho in (0.0, 0.5):
        inside = 0
        for seed in range(runs):
            a, b = (chained(n, 1000 + 2 * seed + k, rho) for k in range(2))
            found = contrast([kind(b), kind(a)], [1.0, -1.0], False, 0.95, (seed,)).log
            assert found is not None
            inside += found.low <= 0 <= found.high
        assert (0.84 if rho and n < 30 else 0.88) * runs <= inside


def test_more_confidence_is_more_width() -> None:
    for kind in (mean, median, rate):
        for n in (30, 150, 3000):
            widths = [half([kind(independent(n, 5))], [1.0], confidence=c) for c in (0.8, 0.95, 0.99)]
            assert widths == sorted(widths)
            assert widths[2] > 1.2 * widths[1]


def test_the_value_is_that_of_the_data_and_the_unit_of_the_difference_is_theirs() -> None:
    a, b = independent(80, 1), independent(80, 2) * 1.3
    for kind in (mean, median):
        found = contrast([kind(b), kind(a)], [1.0, -1.0], True, 0.95, (1,))
        assert found.log is not None
        assert found.difference is not None
        assert found.log.value == pytest.approx(math.log(kind(b).value() / kind(a).value()))
        assert found.difference.value == pytest.approx(kind(b).value() - kind(a).value())
        assert 30 < found.difference.low < found.difference.value < found.difference.high < 90
        assert found.log.low < found.log.value < found.log.high


def test_the_unit_of_time_does_not_matter() -> None:
    a, b = independent(60, 1), independent(60, 2)
    for kind in (mean, median, rate):
        ms, s = (contrast([kind(b * u), kind(a * u)], [1.0, -1.0], True, 0.95, (1,)).log for u in (1.0, 1e-3))
        assert ms is not None
        assert s is not None
        assert (ms.low, ms.high) == pytest.approx((s.low, s.high), abs=1e-9)


def test_turning_the_arms_turns_the_interval() -> None:
    a, b = independent(60, 1), independent(60, 2) * 1.1
    for kind in (mean, median, rate):
        there, back = (contrast([kind(x), kind(y)], [1.0, -1.0], True, 0.95, (1,)).log for x, y in ((b, a), (a, b)))
        assert there is not None
        assert back is not None
        assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=0.004)


def test_the_seed_decides_and_hardly_matters() -> None:
    values = independent(60, 3)
    for kind in (mean, median, rate):
        same = [contrast([kind(values)], [1.0], False, 0.95, (4,)).log for _ in range(2)]
        other = contrast([kind(values)], [1.0], False, 0.95, (5,)).log
        assert same[0] == same[1]
        assert other is not None
        assert other != same[0]
        assert same[0] is not None
        assert other.half == pytest.approx(same[0].half, rel=0.15)


def test_time_outs_leave_a_median_bounded_and_a_mean_not() -> None:
    values = independent(60, 1)
    values[:6] = np.inf
    bounded = contrast([median(values)], [1.0], False, 0.95, (1,)).log
    assert bounded is not None
    assert math.isfinite(bounded.high)
    assert contrast([mean(values)], [1.0], False, 0.95, (1,)).log is None
    values[:29] = np.inf
    assert contrast([median(values)], [1.0], False, 0.95, (1,)).log is None


def test_constant_and_tiny_series() -> None:
    for kind in (mean, median, rate):
        for n in (2, 9, 40, 3000):
            found = contrast([kind(np.full(n, 7.0))], [1.0], False, 0.95, (1,)).log
            assert found is not None
            assert found.half == pytest.approx(0.0, abs=1e-9)
        assert contrast([kind(np.full(1, 7.0))], [1.0], False, 0.95, (1,)).log is None


def test_a_skewed_mean_leans_the_way_its_error_does() -> None:
    """The sample mean of a skewed variable errs downwards: the interval reaches further up."""
    values = np.exp(np.random.default_rng(3).normal(0, 1.0, 100))
    found = contrast([mean(values)], [1.0], False, 0.95, (1,)).log
    assert found is not None
    assert found.high - found.value > 1.08 * (found.value - found.low)


def test_how_much_a_mean_is_widened() -> None:
    """Nothing to speak of for independent values, about the factor of theory for dependent ones, more the fewer there are to tell."""
    free = [widening(np.random.default_rng(s).normal(size=200), 0.95) for s in range(20)]
    assert float(np.mean(free)) == pytest.approx(1.0, abs=0.12)
    bound = [widening(np.log(chained(400, s, 0.6)), 0.95) for s in range(20)]
    assert float(np.mean(bound)) == pytest.approx(2.0, rel=0.15)
    few = [widening(np.random.default_rng(s).normal(size=16), 0.95) for s in range(60)]
    assert float(np.mean(few)) > float(np.mean(free))
    turned = [widening(np.log(chained(400, s, -0.6)), 0.95) for s in range(20)]
    assert float(np.mean(turned)) < 0.8
    beside_noise = [np.log(chained(400, s, 0.9)) + np.random.default_rng(s).normal(0, 0.14, 400) for s in range(20)]
    theory = math.sqrt(1 + (0.01 / (0.01 + 0.14**2)) * (1.9 / 0.1 - 1))
    assert float(np.mean([widening(each, 0.95) for each in beside_noise])) == pytest.approx(theory, rel=0.25)


def test_standard_errors_are_read_back_from_an_interval() -> None:
    assert z_of(Interval(0.2, 0.2 - 1.96 * 0.05, 0.2 + 1.96 * 0.05), 0.95) == pytest.approx(4.0, rel=1e-3)
    assert z_of(Interval(-0.1, -0.1, -0.1), 0.95) < -90


@pytest.mark.parametrize("p", [0.5, 0.95])
def test_very_long_series_cover_as_promised(p: float) -> None:
    """Batches of a smoothed quantile would vary less than the plain quantile of the whole, and their intervals hold it in 90 %."""
    held, campaigns = 0, 400
    for seed in range(campaigns):
        rng = np.random.default_rng(seed)
        pictures = rng.normal(0, 0.15, 2400)
        a, b = (np.exp(pictures + rng.normal(0, SIGMA, 2400)) for _ in range(2))
        found = contrast([Series(a, p), Series(b, p)], [1.0, -1.0], True, 0.95, (seed,)).log
        assert found is not None
        held += found.low <= 0 <= found.high
    assert held / campaigns > 0.915
