"""Requests that start together share what the server does to their wave: intervals count waves where waves matter."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from benchmarks.worlds import WORLDS, World, campaign, made_arm, plan
from client.core.bootstrap import MANY, contrast
from client.core.estimates import arm_metrics
from client.core.names import LATENCIES
from client.core.observed import Series
from client.core.pairing import latency_contrast
from client.core.plan import Arrival, Design
from client.core.stats import Floats, t_point
from client.core.verdict import judge
from client.core.waves import told_wave_inflation, wave_of, wave_widening

FEW = World("few waves", sigma=0.02, wave=0.02, in_flight=30)


def _shared(rng: np.random.Generator, waves: int, size: int, share: float) -> Floats:
    common = np.repeat(rng.normal(size=waves), size)
    return np.asarray(math.sqrt(share) * common + math.sqrt(1 - share) * rng.normal(size=waves * size))


def test_a_wave_is_as_many_of_a_block_as_are_in_flight() -> None:
    block = np.array([4, 4, 4, 4, 4, 9, 9, 9])
    assert wave_of(block, 2).tolist() == [0, 0, 1, 1, 2, 3, 3, 4]
    assert wave_of(block, 64).tolist() == [0, 0, 0, 0, 0, 1, 1, 1]


def test_blocks_that_lie_in_one_another_keep_their_own_waves() -> None:
    assert wave_of(np.array([0, 1, 0, 1, 0]), 2).tolist() == [0, 2, 0, 2, 1]


@pytest.mark.parametrize(("waves", "size"), [(4, 16), (16, 8), (60, 4)])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_the_interval_of_a_mean_over_waves_covers_as_promised(waves: int, size: int, share: float) -> None:
    rng = np.random.default_rng([waves, int(100 * share)])
    n, wave, held, campaigns = waves * size, np.repeat(np.arange(waves), size), 0, 400
    for _ in range(campaigns):
        values = _shared(rng, waves, size, share)
        half = t_point(0.95, n - 1) * float(values.std(ddof=1)) / math.sqrt(n) * wave_widening(values, wave, 0.95)
        held += abs(float(values.mean())) <= half
    assert (0.87 if waves == 4 else 0.91) <= held / campaigns <= 0.99  # four waves tell little of what they share


def test_what_shares_nothing_pays_little_and_what_shares_all_counts_waves() -> None:
    rng = np.random.default_rng(3)
    wave = np.repeat(np.arange(16), 8)
    free = [wave_widening(rng.normal(size=128), wave, 0.95) for _ in range(50)]
    assert 0.95 < float(np.mean(free)) < 1.12
    found = wave_widening(_shared(rng, 16, 8, 0.999), wave, 0.95)
    waves_alone = math.sqrt(8 * 127 / 128 * 16 / 15) * t_point(0.95, 15) / t_point(0.95, 127)
    assert found == pytest.approx(waves_alone, rel=0.05)


def test_nothing_is_said_of_one_wave_or_of_waves_of_one() -> None:
    values = np.random.default_rng(4).normal(size=30)
    assert wave_widening(values, np.zeros(30, np.int64), 0.95) == 1.0
    assert wave_widening(values, np.arange(30), 0.95) == 1.0
    assert wave_widening(np.full(30, 7.0), np.repeat([0, 1, 2], 10), 0.95) == 1.0


@pytest.mark.parametrize("metric", ["e2e_p50", "e2e_p95", "e2e_mean", "requests_per_s"])
def test_a_comparison_over_few_waves_knows_it(metric: str) -> None:
    wide, blind = [], []  # waves of two hide what waves of thirty share
    for seed in range(12):
        both = campaign(FEW, Design.INTERLEAVED, 120, 0.0, np.random.default_rng([5, seed]))
        for told, in_flight in ((wide, 30), (blind, 2)):
            found = judge(both, metric, plan(Design.INTERLEAVED, seed, in_flight)).found.log
            assert found is not None
            told.append(found.half)
    assert float(np.mean(wide)) > 1.3 * float(np.mean(blind))


def test_an_open_loop_has_no_waves() -> None:
    both = campaign(FEW, Design.INTERLEAVED, 120, 0.0, np.random.default_rng(7))
    closed = plan(Design.INTERLEAVED, 1, 30)
    opened = msgspec.structs.replace(closed, load=msgspec.structs.replace(closed.load, arrival=Arrival.POISSON))
    alone = plan(Design.INTERLEAVED, 1, 1)
    assert latency_contrast(both, "e2e", "p50", opened) == latency_contrast(both, "e2e", "p50", alone)
    assert latency_contrast(both, "e2e", "p50", opened) != latency_contrast(both, "e2e", "p50", closed)


def test_batches_of_a_long_series_are_no_smaller_than_its_waves() -> None:
    rng = np.random.default_rng(7)
    wave = np.repeat(np.arange(5), MANY // 4)
    found = []
    for told in (None, [wave]):
        halves = []
        for _ in range(10):
            values = np.exp(0.05 * _shared(rng, 5, MANY // 4, 0.5))
            log = contrast([Series(values, 0.5)], [1.0], False, 0.95, (1,), told).log
            assert log is not None
            halves.append(log.half)
        found.append(float(np.mean(halves)))
    assert found[1] > 1.8 * found[0]


@pytest.mark.parametrize("design", [Design.INTERLEAVED, Design.SERIAL])
def test_campaigns_in_waves_cover_as_promised(design: Design) -> None:
    world = next(world for world in WORLDS if world.name == "waves of 15")
    held = 0
    for seed in range(120):
        both = campaign(world, design, 120, 0.0, np.random.default_rng([8, seed]))
        found = latency_contrast(both, "e2e", "p50", plan(design, seed, world.in_flight)).log
        assert found is not None
        held += found.low <= 0 <= found.high
    assert held >= 0.89 * 120


def test_the_numbers_of_one_arm_know_its_waves() -> None:
    """Four waves of thirty: neighbours alone leave the truth out in one case of six."""
    held = {1: 0, 30: 0}
    for seed in range(60):
        rng = np.random.default_rng([8, seed])
        logs = np.repeat(rng.normal(size=4) * 0.05, 30) + rng.normal(size=120) * 0.06
        n = np.arange(120)
        one = made_arm("bf16", np.log(200) + logs, n, n // 30, n, n * 10**9)
        one = replace(one, latency=dict.fromkeys(LATENCIES, one.latency["e2e"]))
        for in_flight in held:
            found = arm_metrics(one, plan(Design.INTERLEAVED, 1, in_flight))
            mean = found["e2e_ms_mean"]
            assert mean.low is not None
            assert mean.high is not None
            held[in_flight] += mean.low <= 200 * math.exp((0.05**2 + 0.06**2) / 2) <= mean.high
    assert held[1] < 53 < 55 <= held[30]


def test_waves_that_share_nothing_cost_an_arm_nothing() -> None:
    rng = np.random.default_rng(9)
    assert [told_wave_inflation(rng.normal(size=240), np.repeat(np.arange(8), 30), 0.95) for _ in range(20)].count(
        1.0
    ) >= 18
