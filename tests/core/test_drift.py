"""What happened between the looks of a serial run: the interval holds it wherever in between it came."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.worlds import World, campaign, plan
from client.core.bootstrap import Contrast
from client.core.drift import drift_likely, held, with_drift
from client.core.plan import Design
from client.core.stats import Interval, normal_point
from client.core.verdict import judge

Z = normal_point(0.95)


def interval(value: float, error: float) -> Interval:
    return Interval(value, value - Z * error, value + Z * error)


def test_how_likely_a_drift_is() -> None:
    """Spike and slab: two normals of the observed difference, of standard error 1 and of √(1 + 4²), equally likely beforehand."""
    for z in (0.0, 1.0, 2.0, 3.0, 50.0):
        none, some = (math.exp(-z * z / 2 / v) / math.sqrt(v) for v in (1.0, 17.0))
        assert drift_likely(interval(0.02 * z, 0.02), 0.95) == pytest.approx(some / (none + some))
    assert drift_likely(Interval(0.1, 0.1, 0.1), 0.95) == 1.0
    assert drift_likely(Interval(0.0, 0.0, 0.0), 0.95) == pytest.approx(1 / (1 + math.sqrt(17)), abs=1e-6)


@pytest.mark.parametrize("where", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("gap", [0.0, 2.0, 6.0, 60.0])
def test_the_truth_is_held_wherever_the_drift_came(where: float, gap: float) -> None:
    """Normal errors: each look has a standard error of √2, the pooled comparison of 1, their difference of 2."""
    rng = np.random.default_rng(1)
    first = rng.normal(size=2000) * math.sqrt(2) + where * gap
    second = rng.normal(size=2000) * math.sqrt(2) - (1 - where) * gap
    found = [
        held(interval((a + b) / 2, 1.0), interval(a - b, 2.0), 0.95)[0] for a, b in zip(first, second, strict=True)
    ]
    covered = float(np.mean([one.low <= 0 <= one.high for one in found]))
    assert covered > 0.88 if gap < 60 else covered > 0.94
    if gap == 0:
        assert float(np.median([one.half for one in found])) < 2.5  # 1.96 without


def test_a_drift_does_not_shrink_with_more_requests() -> None:
    for error in (0.02, 0.002):
        found, lasting = held(interval(0.0, error), interval(0.10, 2 * error), 0.95)
        assert lasting == pytest.approx(0.05, rel=0.2)
        assert found.half == pytest.approx(0.05 + normal_point(0.90) * error * math.sqrt(2), rel=0.1)


def test_what_has_no_interval_has_none_afterwards() -> None:
    none, some = Contrast(None, None, 3, "none"), Contrast(interval(0, 1), None, 3, "t")
    assert with_drift(none, some, 0.95).log is None
    assert with_drift(some, none, 0.95).log is None
    assert held(Interval(0.1, 0.1, 0.1), interval(0.1, 0.2), 0.95) == (Interval(0.1, 0.1, 0.1), 0.0)


@pytest.mark.parametrize(
    "world", [World("step", step=0.10), World("heating", heating=0.20)], ids=lambda world: world.name
)
def test_equal_servers_are_not_told_apart_by_what_happened_to_the_machine(world: World) -> None:
    missed = 0
    for seed in range(60):
        both = campaign(world, Design.SERIAL, 120, 0.0, np.random.default_rng([7, seed]))
        found = judge(both, "e2e_p50", plan(Design.SERIAL, seed)).found.log
        assert found is not None
        missed += not found.low <= 0 <= found.high
    assert missed <= 7  # a third of them, if only what lies beyond the noise of the looks is held
