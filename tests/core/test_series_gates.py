"""A machine whose state lasts for most of a run: the intervals count it, and the run says so."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.worlds import WORLDS, World, campaign, plan
from client.core.autoregression import strongly
from client.core.findings import Severity
from client.core.gates import Seen
from client.core.pairing import Sides, latency_contrast, log_ratios
from client.core.plan import Design, LoadProfile
from client.core.series_gates import strong_dependence
from tests.core import made

LASTING = World("state that lasts", sigma=0.05, rho=0.95, machine=0.08)
CLEAN = WORLDS[0]
STEPPED = World("steep drift", drift=0.4)


def _fired(both: Sides, in_flight: int = 1) -> list[str]:
    asked = made.plan(load=LoadProfile(concurrency=in_flight))
    seen = Seen(evidence=made.evidence(made.campaign(), plan=asked), arms={}, counters={}, sides=(both,))
    found = list(strong_dependence(seen))
    assert all(gate.severity is Severity.FLAG and gate.targets == ("bf16", "fp8") for gate in found)
    return [gate.fact for gate in found]


def _share(world: World, design: Design, n: int, campaigns: int = 60) -> float:
    made_up = (campaign(world, design, n, 0.0, np.random.default_rng([n, seed])) for seed in range(campaigns))
    return sum(bool(_fired(both)) for both in made_up) / campaigns


@pytest.mark.parametrize("design", [Design.INTERLEAVED, Design.SERIAL])
def test_a_state_that_lasts_is_told_and_independent_requests_are_not_suspected(design: Design) -> None:
    assert _share(LASTING, design, 120) >= 0.7
    assert _share(CLEAN, design, 120) <= 0.02
    assert _share(CLEAN, design, 30) <= 0.04


def test_drift_between_two_looks_is_no_dependence() -> None:
    assert _share(STEPPED, Design.SERIAL, 120) <= 0.05


def test_the_sentence_says_what_the_pairs_are_worth() -> None:
    facts = [_fired(campaign(LASTING, Design.INTERLEAVED, 300, 0.0, np.random.default_rng(k))) for k in range(3)]
    (fact,) = facts[0]
    assert "300 pairs are worth some" in fact
    assert 3 < float(fact.split("worth some ")[1].split()[0]) < 60


def test_waves_are_no_state_that_lasts() -> None:
    both = campaign(LASTING, Design.INTERLEAVED, 300, 0.0, np.random.default_rng(0))
    assert _fired(both, in_flight=1)
    assert _fired(both, in_flight=8) == []  # `few_waves` speaks of these


def test_requests_that_are_not_paired_are_not_looked_at() -> None:
    both = campaign(LASTING, Design.INTERLEAVED, 120, 0.0, np.random.default_rng(1))
    apart = Sides(both.parts, both.weights, both.design, paired=False)
    assert log_ratios(apart, "e2e") is None
    assert _fired(apart) == []


@pytest.mark.parametrize("stat", ["p50", "p95", "mean"])
def test_intervals_count_a_state_that_lasts(stat: str) -> None:
    """Standard error of a mean of AR(1) with 0.95 and as much noise beside it: some four times that of independent values."""
    halves: dict[str, list[float]] = {"lasting": [], "free": []}
    free = World("as wide", sigma=math.hypot(0.05, 0.08))
    for seed in range(12):
        for name, world in (("lasting", LASTING), ("free", free)):
            both = campaign(world, Design.INTERLEAVED, 200, 0.0, np.random.default_rng([2, seed]))
            found = latency_contrast(both, "e2e", stat, plan(Design.INTERLEAVED, seed)).log
            assert found is not None
            halves[name].append(found.half)
    assert float(np.mean(halves["lasting"])) > 1.7 * float(np.mean(halves["free"]))


def test_how_likely_a_strong_dependence_is() -> None:
    rng = np.random.default_rng(3)
    state = np.zeros(300)
    for k in range(1, 300):
        state[k] = 0.95 * state[k - 1] + rng.normal()
    assert strongly(state) > 0.95
    assert strongly(rng.normal(size=300)) < 0.05
    assert strongly(np.arange(7.0)) == strongly(np.full(40, 3.0)) == 0.0
