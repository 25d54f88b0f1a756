"""A warm-up that may reach into the measured requests: how likely it is held to be, and what the interval does."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.worlds import WARMUP, World, campaign, made_arm, plan
from client.core.beginnings import ONE_LEVEL, Ahead, Look, averaged, courses
from client.core.bootstrap import Contrast, contrast
from client.core.metrics import Arm
from client.core.observed import Series
from client.core.pairing import courses_of, latency_contrast
from client.core.plan import Design
from client.core.stats import Floats, Interval
from client.core.verdict import judge

SMALL = World("small", cold=(0.15, 0.0))
FADING = World("fading", cold=(0.5, 0.0), fading=16)
NOTHING: tuple[Floats, np.ndarray[tuple[int], np.dtype[np.int64]]] = (np.zeros(0), np.zeros(0, np.int64))


def look(n: int, first: int = 0) -> Look:
    return Look(np.arange(n), first + np.arange(n), NOTHING)


def noise(seed: int, n: int) -> Floats:
    return np.random.default_rng(seed).normal(size=n) * 0.1


def test_weights_are_those_of_the_formula() -> None:
    """Liang et al. 2008, equation 6, for a step after each of 2, 3 and 4 requests and for fading ones, by hand."""
    logs = np.array([0.5, 0.4, 0.05, -0.03, 0.01, -0.02, 0.04, -0.05])
    found = courses(logs, [look(8)])
    assert found is not None
    place, y = np.arange(8.0), logs - logs.mean()
    shapes = [
        place < 2,
        place < 3,
        place < 4,
        *(np.exp(-place / t) for t in (2, 4)),
    ]  # slower ones were not seen to their end
    priors = [0.5 / 3] * 3 + [0.5 / 2] * 2
    weights = [ONE_LEVEL]
    for shape, prior in zip(shapes, priors, strict=True):
        x = np.asarray(shape, float) - np.mean(shape)
        r2 = float(x @ y) ** 2 / float(x @ x) / float(y @ y)
        weights.append((1 - ONE_LEVEL) * prior * 9**3 / (1 + 8 * (1 - r2)) ** 3.5)
    by_hand = np.array(weights) / sum(weights)
    likely = by_hand[by_hand > 0.003]
    assert found.weight == pytest.approx(likely / likely.sum())


def test_a_step_is_found_where_it_is() -> None:
    logs = noise(1, 60) + np.where(np.arange(60) < 12, 0.4, 0.0)
    found = courses(logs, [look(60)])
    assert found is not None
    best = found.departure[int(np.argmax(found.weight))]
    assert (best[:12] > 0.3).all()
    assert not best[12:].any()
    assert found.reaching(0.3) > 0.99
    assert found.scale[0] == pytest.approx(math.sqrt(1 / (1 - 12 / 60)), rel=0.01)  # what is left to tell the level by


def test_a_level_pair_of_servers_is_mostly_believed() -> None:
    found = [courses(noise(seed, 60), [look(60)]) for seed in range(100)]
    level = [1 - one.reaching(0.0) for one in found if one is not None]
    assert len(level) == 100
    assert float(np.median(level)) > 0.8
    assert sum(share < 0.2 for share in level) <= 2


def test_warm_up_requests_are_evidence() -> None:
    """Twenty of them that are steady rule out most of what thirty pairs alone leave open."""
    blind, told = [], []
    for seed in range(40):
        logs = noise(seed, 50)
        for found, where in (
            (courses(logs[20:], [look(30)]), blind),
            (courses(logs[20:], [Look(np.arange(30), 20 + np.arange(30), (logs[:20], np.arange(20)))]), told),
        ):
            assert found is not None
            where.append(found.reaching(0.01))
    assert float(np.mean(told)) < 0.7 * float(np.mean(blind))


def test_a_warm_up_that_ends_before_the_pairs_moves_nothing() -> None:
    logs = noise(3, 60)
    ahead = noise(4, 20) + np.where(np.arange(20) < 10, 0.5, 0.0)
    found = courses(logs, [Look(np.arange(60), 20 + np.arange(60), (ahead, np.arange(20)))])
    assert found is not None
    assert found.reaching(0.05) < 0.05


def test_what_is_not_finite_is_not_read_and_nothing_is_made_of_nothing() -> None:
    logs = noise(5, 30)
    torn = logs.copy()
    torn[[4, 9]] = np.nan, np.inf
    assert courses(torn, [look(30)]) is not None
    assert courses(np.full(30, np.nan), [look(30)]) is None
    assert courses(np.zeros(30), [look(30)]) is None
    assert courses(logs[:4], [look(4)]) is None
    assert courses(np.zeros(0), [look(0)]) is None


def test_one_slow_request_is_no_warm_up() -> None:
    logs = noise(6, 60)
    logs[1] = 3.0
    found = courses(logs, [Look(np.arange(60), 20 + np.arange(60), (noise(7, 20), np.arange(20)))])
    assert found is not None
    assert found.reaching(0.05) < 0.1


def both_stats(values: Floats, p: float | None = 0.5) -> tuple[Series, Series, Contrast]:
    base = np.exp(np.random.default_rng(7).normal(size=len(values)) * 0.02) * 100
    parts = Series(base * np.exp(values), p), Series(base, p)
    return *parts, contrast(parts, (1.0, -1.0), True, 0.95, (1,))


@pytest.mark.parametrize("p", [0.5, None])
def test_the_interval_reaches_the_level_after_the_warm_up(p: float | None) -> None:
    values = noise(8, 60) * 0.3 + np.where(np.arange(60) < 20, 0.2, 0.0)
    mine, yours, plain = both_stats(values, p)
    assert plain.log is not None
    assert plain.difference is not None
    found = averaged(plain, (mine, yours), values, [look(60)], 0.95)
    assert found.log is not None
    assert found.difference is not None
    level = float(np.log(Series(mine.values[20:], p).value() / Series(yours.values[20:], p).value()))
    assert found.log.low <= level <= found.log.high
    assert found.log.value == plain.log.value
    assert found.log.low <= found.log.value <= found.log.high
    assert found.log.low < plain.log.low - 0.01
    assert found.difference.low < plain.difference.low - 1


def test_no_interval_stays_none() -> None:
    mine, yours, _ = both_stats(noise(9, 30))
    none = Contrast(None, None, 30, "none")
    assert averaged(none, (mine, yours), noise(9, 30), [look(30)], 0.95) is none


def test_level_servers_pay_little() -> None:
    wider = []
    for seed in range(60):
        both = campaign(World("log-normal"), Design.INTERLEAVED, 120, 0.0, np.random.default_rng([5, seed]))
        known = judge(both, "e2e_p50", plan(Design.INTERLEAVED, seed)).found.log
        blind = judge(replace(both, ahead=()), "e2e_p50", plan(Design.INTERLEAVED, seed)).found.log
        assert known is not None
        assert blind is not None
        wider.append(known.half / blind.half)
    assert 1.0 <= float(np.median(wider)) < 1.02


@pytest.mark.parametrize(("design", "n"), [(Design.INTERLEAVED, 60), (Design.SERIAL, 120)])
@pytest.mark.parametrize("metric", ["e2e_p50", "e2e_mean", "requests_per_s"])
def test_a_warm_up_of_one_server_that_fades_is_no_difference_of_the_servers(
    design: Design, n: int, metric: str
) -> None:
    known, blind = 0, 0
    for seed in range(60):
        both = campaign(FADING, design, n, 0.0, np.random.default_rng([6, seed]))
        for where in ("known", "blind"):
            found = judge(both if where == "known" else replace(both, ahead=()), metric, plan(design, seed)).found.log
            assert found is not None
            missed = not found.low <= 0 <= found.high
            known, blind = known + (missed and where == "known"), blind + (missed and where == "blind")
    assert known <= 4 < 6 < blind


def test_what_was_sent_ahead_is_found_for_each_stay() -> None:
    both = campaign(SMALL, Design.SERIAL, 120, 0.0, np.random.default_rng(11))
    assert both.looks
    assert len(both.ahead) == 2
    assert [ahead.many >= WARMUP for ahead in both.ahead] == [True, True]
    logs, place = both.ahead[0].pairs("e2e")
    assert len(logs) >= WARMUP
    assert list(place[:WARMUP]) == list(range(WARMUP))
    fresh, _ = both.ahead[1].pairs("e2e")  # the second start warms up with pictures of its own
    assert len(fresh) == both.ahead[1].many - WARMUP


def test_pairs_ahead_are_by_picture_and_in_order_of_time() -> None:
    def arm(name: str, images: list[int], ms: list[float]) -> Arm:
        n = np.arange(len(images))
        return made_arm(name, np.log(ms), np.array(images), n * 0, n, n * 1000)

    mine, yours = arm("fp8", [7, 5, 9], [30.0, 10.0, 5.0]), arm("bf16", [5, 7, 8], [20.0, 10.0, 7.0])
    ahead = Ahead((mine,), (yours,))
    logs, place = ahead.pairs("e2e")
    assert logs == pytest.approx(np.log([0.5, 3.0]))
    assert list(place) == [0, 1]
    assert ahead.many == 3
    assert not len(ahead.pairs("tpot")[0])
    assert not len(Ahead().pairs("e2e")[0])


def test_unpaired_arms_have_no_courses() -> None:
    both = campaign(SMALL, Design.INTERLEAVED, 30, 0.0, np.random.default_rng(13))
    assert courses_of(both, "e2e") is not None
    assert courses_of(replace(both, paired=False), "e2e") is None
    assert courses_of(replace(both, ahead=()), "e2e") is None


def test_an_interval_of_no_width_stays() -> None:
    mine, yours, plain = both_stats(noise(14, 30))
    point = Contrast(Interval(0.1, 0.1, 0.1), None, 30, "exact")
    assert averaged(point, (mine, yours), noise(14, 30), [look(30)], 0.95).log == point.log
    assert plain.log is not None


def test_the_same_run_gives_the_same_interval() -> None:
    both = campaign(SMALL, Design.INTERLEAVED, 30, 0.0, np.random.default_rng(15))
    first, second = (latency_contrast(both, "e2e", "p50", plan(Design.INTERLEAVED, 1)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(("design", "stays"), [(Design.INTERLEAVED, 1), (Design.SERIAL, 2)])
def test_what_is_left_out_counts_as_sent_ahead(design: Design, stays: int) -> None:
    """A step that is beyond doubt is cut from both arms, by picture, and lies ahead of the pairs of each stay."""
    both = campaign(World("cold", cold=(1.0, 0.2)), design, 120, 0.0, np.random.default_rng(3))
    left = [ahead.many - WARMUP for ahead in both.ahead]
    assert len(left) == stays
    assert left[0] >= 8
    assert 120 - len(both.parts[0]) == sum(left)
    logs, place = both.ahead[0].pairs("e2e")
    assert len(logs) == WARMUP + left[0]
    assert list(place) == list(range(WARMUP + left[0]))
