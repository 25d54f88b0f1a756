"""The end of warm-up: series that settle at once, late or never, and the rate of false alarms on steady ones."""

from __future__ import annotations

from collections.abc import Callable

import made
import numpy as np
import pytest

from client.core.analysis import analyse
from client.core.findings import Findings
from client.core.plan import Design
from client.core.records import Phase, RequestRecord
from client.core.stats import Floats
from client.core.steady import AROUND, Course, Settling, settling, settling_after

SHAPES: dict[str, tuple[Callable[[Floats], Floats], set[Course]]] = {
    "slow start": (lambda t: np.where(t < 0.2, 1.5, 1.0), {Course.LATE}),
    "fading start": (lambda t: 1 + np.exp(-8 * t), {Course.LATE}),
    "settles at 70 %": (lambda t: np.where(t < 0.7, 1.3, 1.0), {Course.STEP}),
    "settles at 90 %": (lambda t: np.where(t < 0.9, 1.3, 1.0), {Course.STEP}),
    "slows down at 85 %": (lambda t: np.where(t < 0.85, 1.0, 1.3), {Course.STEP}),
    "drifts upward": (lambda t: 1 + 0.4 * t, {Course.DRIFT, Course.LATE, Course.STEP}),
    "drifts downward": (lambda t: 1.4 - 0.4 * t, {Course.DRIFT, Course.LATE, Course.STEP}),
    "hump": (lambda t: 1.3 - 0.8 * np.abs(t - 0.5), {Course.BEND}),
}


def series(shape: Callable[[Floats], Floats], n: int, seed: int, sigma: float = 0.04) -> Floats:
    noise = np.random.default_rng([3, n, seed]).normal(0, sigma, n)
    return np.asarray(230 * shape(np.arange(n) / n) * np.exp(noise), np.float64)


@pytest.mark.parametrize("n", [60, 200, 20_000])
@pytest.mark.parametrize("name", SHAPES)
def test_what_is_not_steady_is_told(name: str, n: int) -> None:
    shape, courses = SHAPES[name]
    found = [settling(series(shape, n, seed)) for seed in range(12)]
    assert sum(s.course in courses for s in found) >= 11, [str(s.course) for s in found]
    for s in found:
        assert (s.end is None) == (s.course in (Course.STEP, Course.DRIFT, Course.BEND))


def test_where_a_slow_start_ends() -> None:
    ends = [settling(series(SHAPES["slow start"][0], 100, seed)).end for seed in range(20)]
    assert float(np.median([end for end in ends if end is not None])) == pytest.approx(20, abs=5)
    assert settling(series(SHAPES["slow start"][0], 100, 0)).size == pytest.approx(0.5, abs=0.05)


def flat(t: Floats) -> Floats:
    return np.ones_like(t)


@pytest.mark.parametrize("n", [20, 35, 60, 200])
def test_steady_series_are_steady(n: int) -> None:
    """MSER-5 alone called one series of 60 in five unsettled, and the report said 'never'."""
    runs = 200
    for sigma in (0.03, 0.15):
        assert sum(settling(series(flat, n, s, sigma)).course is not Course.STEADY for s in range(runs)) <= 0.02 * runs
    rng = np.random.default_rng(n)
    heavy = [np.exp(0.08 * rng.standard_t(2.5, n)) for _ in range(runs)]
    assert sum(settling(values).course is not Course.STEADY for values in heavy) <= 0.02 * runs


def test_neighbours_that_depend_on_one_another_are_no_drift() -> None:
    runs, n, false = 200, 60, 0
    for seed in range(runs):
        rng = np.random.default_rng([8, seed])
        state = np.zeros(n)
        for k in range(1, n):
            state[k] = 0.6 * state[k - 1] + rng.normal(0, 0.064)
        false += settling(np.exp(state + rng.normal(0, 0.06, n))).course is not Course.STEADY
    assert false <= 0.05 * runs


def test_too_short_or_constant_series() -> None:
    assert settling(np.full(19, 5.0)).course is Course.FEW
    assert settling(np.full(40, 5.0)) == settling(np.full(40, 7.0))
    assert settling(np.full(40, 5.0)).course is Course.STEADY
    assert settling(np.array([np.inf, np.nan] * 30 + [5.0] * 25)).course is Course.STEADY


def test_one_slow_request_is_no_change_of_level() -> None:
    values = series(flat, 60, 1)
    for place in (0, 30, 59):
        slow = values.copy()
        slow[place] *= 40
        assert settling(slow).course is Course.STEADY


def slow_from(records: list[RequestRecord], slow: Callable[[RequestRecord], float]) -> Findings:
    order = (("bf16", 0), ("bf16", 1), ("fp8", 0), ("fp8", 1), ("fp8", 2), ("fp8", 3), ("bf16", 2), ("bf16", 3))
    made_of = [
        made.record(r.target, r.index, k * 1000.0, ttft_ms=(120 + k * 7 % 5) * slow(r), image=r.image_id, block=r.block)
        for k, r in enumerate(made.campaign(order=order, per_block=16))
    ]
    return analyse(made.evidence(made_of + records, plan=made.plan(design=Design.SERIAL)))


def test_each_stay_of_a_serial_run_is_looked_at_by_itself() -> None:
    """What the second A differs from the first is drift, told and reckoned with as such: no warm-up would take it away."""
    shifted = slow_from([], lambda r: 1.3 if r.target == "bf16" and (r.block or 0) >= 2 else 1.0)
    assert "not_settled" not in [gate.code for gate in shifted.gates]
    cold = slow_from([], lambda r: 1.9 if r.target == "bf16" and r.block == 2 and r.index < 42 else 1.0)
    assert [gate.code for gate in cold.gates] == ["warm_up"]
    assert cold.gates[0].fact.startswith("10 measured requests of each arm belong to the warm-up and are left out")
    assert "the first 10 of bf16, its second stay are" in cold.gates[0].fact
    assert cold.gates[0].next_step.startswith("Raise --warmup")


def test_a_warm_up_that_was_needed_is_counted_and_the_cold_request_is_not_in_it() -> None:
    warm = [made.record("bf16", k, -50_000.0 + k * 1000, ttft_ms=400.0, phase=Phase.WARMUP) for k in range(10)]
    cold = [made.record("bf16", 0, -60_000.0, ttft_ms=9000.0, phase=Phase.COLD)]
    findings = slow_from(warm + cold, lambda r: 1.0)
    assert findings.targets["bf16"].warm_up_end == 10
    assert findings.targets["fp8"].warm_up_end == 0
    assert findings.gates == ()
    assert (findings.targets["bf16"].metrics["e2e_ms_p99"].note or "").startswith("needs n")
    assert (findings.targets["bf16"].cold_start["e2e_ms"].value or 0) > 9000


def test_a_run_too_short_to_tell_does_not_say_never() -> None:
    short = analyse(made.evidence(made.campaign(per_block=3)))
    assert short.targets["bf16"].warm_up_end is None
    assert short.targets["bf16"].warm_up_note == "needs n ≥ 20"


def test_a_warm_up_that_ends_among_so_few_values_that_no_half_is_left_is_not_cut() -> None:
    """Nine warm-up requests and the first of eleven are slow: together they show it, and of eleven nothing can be left out."""
    both = np.where(np.arange(9 + AROUND) < 10, 460.0, 230.0) * np.exp(
        np.random.default_rng(2).normal(0, 0.01, 9 + AROUND)
    )
    assert settling(both).course is Course.LATE
    assert settling(both).end == 10
    assert settling_after(both[:9], both[9:]) == Settling(Course.FEW)


@pytest.mark.parametrize("warm", [3, 9, 15, 40])
def test_no_more_than_half_of_the_measured_values_is_ever_cut(warm: int) -> None:
    """Wherever the slow requests end, and however much of a warm-up shows them."""
    rng = np.random.default_rng(warm)
    ends = []
    for n in (8, 11, 12, 19, 20, 31, 60):
        for slow in range(1, warm + n, 2):
            whole = np.where(np.arange(warm + n) < slow, 1.6, 1.0) * np.exp(rng.normal(0, 0.02, warm + n))
            found = settling_after(whole[:warm], whole[warm:])
            ends.append((found.end or 0) / n)
    assert 0 < max(ends) <= 0.5
