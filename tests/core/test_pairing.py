"""Designs against worlds with a known answer, in few campaigns; `benchmarks/coverage` does it in thousands."""

from __future__ import annotations

from dataclasses import replace

import made
import msgspec
import numpy as np
import pytest

from benchmarks.worlds import World, campaign, naive_interval, plan, slots
from client.core.analysis import analyse
from client.core.blocks import block_plan
from client.core.bootstrap import contrast
from client.core.drift import Drifted
from client.core.findings import Action, Effect, Estimate, Level, Recommendation, Word
from client.core.levels import over_levels
from client.core.metrics import arm
from client.core.noise import noise_floor, rate_floor
from client.core.observed import Series
from client.core.pairing import Sides, latency_contrast, sides
from client.core.plan import Arrival, Design, LoadProfile, Timeouts
from client.core.recommend import LESS, UNKNOWN, WORSE
from client.core.records import Outcome, RequestRecord
from client.core.stats import Interval, inflation
from client.core.table import RecordTable

CALM = World("calm", sigma=0.02)
DRIFT = World("drift", sigma=0.02, drift=0.20)
BOTH_STEPS = np.log1p(0.2) / 2
"""Serial, under DRIFT: each half of B lies a quarter of the run from its A."""


def interval(world: World, design: Design, effect: float, seed: int = 1) -> Interval:
    both = campaign(world, design, 60, effect, np.random.default_rng(seed))
    found = latency_contrast(both, "e2e", "p50", plan(design, seed)).log
    assert found is not None
    return found


@pytest.mark.parametrize("design", [Design.INTERLEAVED, Design.SERIAL])
@pytest.mark.parametrize("effect", [0.0, 0.1, -0.2])
def test_drift_does_not_move_the_answer(design: Design, effect: float) -> None:
    found = interval(DRIFT, design, effect)
    assert found.value == pytest.approx(np.log1p(effect), abs=0.02)
    assert found.low < np.log1p(effect) < found.high


def test_a_naive_order_is_moved_by_drift() -> None:
    low, _ = naive_interval(DRIFT, 400, 0.0, np.random.default_rng(1))
    assert low > 0


def test_drift_between_the_two_baselines_widens_the_interval() -> None:
    """By half of what the steps A → B and B → A add up to, and by what a look knows less than both: the truth may lie at either."""
    calm, drifting = interval(CALM, Design.SERIAL, 0.0), interval(DRIFT, Design.SERIAL, 0.0)
    assert 0 < drifting.half - calm.half - BOTH_STEPS / 2 < 0.02


@pytest.mark.parametrize("step_at", [0.25, 0.4, 0.5, 0.75])
def test_a_step_between_the_baselines_is_inside_the_interval_wherever_it_comes(step_at: float) -> None:
    """Half way through the candidate it cancels; just before or after it, it does not, and the interval has to hold it."""
    stretches = slots(Design.SERIAL, 80)
    assert [arm for arm, _, _ in stretches] == [0, 0, 1, 1, 1, 1, 0, 0]
    both = campaign(CALM, Design.SERIAL, 80, 0.1, np.random.default_rng(4))
    late = [part.rows >= step_at * 160 for part in both.parts]
    slowed = [
        replace(part, latency={"e2e": part.latency["e2e"] * np.where(mask, 1.2, 1.0)})
        for part, mask in zip(both.parts, late, strict=True)
    ]
    found = latency_contrast(sides(slowed[1], slowed[0], Design.SERIAL), "e2e", "p50", plan(Design.SERIAL, 1)).log
    assert found is not None
    assert found.low < np.log1p(0.1) < found.high


def test_a_serial_run_is_paired_by_image() -> None:
    """Each A shows half of the pictures; what pictures differ by (15 %) must not widen the interval, nor pass for drift."""
    both = campaign(CALM, Design.SERIAL, 60, 0.05, np.random.default_rng(2))
    assert both.paired
    assert both.second_a
    assert both.requests_per_arm == 60
    found = latency_contrast(both, "e2e", "p50", plan(Design.SERIAL, 1))
    assert isinstance(found, Drifted)
    assert found.log is not None
    assert found.log.half < 0.02
    assert found.allowance < 0.005
    floor = noise_floor(both, "e2e", "p50")
    assert floor is not None
    assert floor < 0.02


def test_the_product_lays_serial_blocks_as_the_worlds_do() -> None:
    """Coverage is promised for the campaigns that are run, not for others."""
    asked = block_plan(plan(Design.SERIAL, 1).targets, Design.SERIAL, LoadProfile(requests=60))
    of_run = [(("bf16", "fp8").index(b.target), [s.index for s in b.slots.slots], b.number) for b in asked]
    assert of_run == [(arm, list(images), block) for arm, images, block in slots(Design.SERIAL, 60)]


def test_the_noise_floor_leaves_out_drift_and_holds_noise() -> None:
    floors = {}
    for world in (CALM, DRIFT, World("noisy", sigma=0.2)):
        found = [
            noise_floor(campaign(world, Design.INTERLEAVED, 60, 0.3, np.random.default_rng(seed)), "e2e", "p50")
            for seed in range(12)
        ]
        floors[world.name] = float(np.median([value for value in found if value is not None]))
    assert floors["drift"] < 0.02
    assert floors["calm"] < 0.02
    assert floors["noisy"] > 0.02


def test_the_noise_floor_leaves_out_drift_where_nothing_is_paired() -> None:
    drift = World("drift", sigma=0.02, drift=0.4)
    both = [
        replace(campaign(drift, Design.INTERLEAVED, 200, 0.0, np.random.default_rng(seed)), paired=False)
        for seed in range(12)
    ]
    assert float(np.median([noise_floor(pair, "e2e", "p50") or 0.0 for pair in both])) < 0.05


def test_the_noise_floor_of_a_serial_run_is_what_the_baselines_differ_by() -> None:
    both = campaign(DRIFT, Design.SERIAL, 60, 0.0, np.random.default_rng(1))
    assert noise_floor(both, "e2e", "p50") == pytest.approx(BOTH_STEPS / 2, abs=0.012)


@pytest.mark.parametrize("arrival", [Arrival.CLOSED, Arrival.POISSON])
def test_a_throughput_has_a_noise_floor_too(arrival: Arrival) -> None:
    floors = []
    for world in (CALM, World("noisy", sigma=0.2)):
        asked = plan(Design.INTERLEAVED, 1)
        asked = msgspec.structs.replace(asked, load=msgspec.structs.replace(asked.load, arrival=arrival))
        runs = [campaign(world, Design.INTERLEAVED, 60, 0.3, np.random.default_rng(seed)) for seed in range(12)]
        found = [rate_floor(both, "requests_per_s", asked) for both in runs]
        floors.append(float(np.median([value for value in found if value is not None])))
    assert floors[0] < (0.02 if arrival is Arrival.CLOSED else 0.08)
    assert floors[1] > 1.5 * floors[0]
    serial = campaign(DRIFT, Design.SERIAL, 60, 0.0, np.random.default_rng(1))
    assert rate_floor(serial, "requests_per_s", plan(Design.SERIAL, 1)) == pytest.approx(BOTH_STEPS / 2, abs=0.012)


def test_dependent_series_get_the_interval_that_theory_asks_for() -> None:
    """Mean of an AR(1) series: standard error sigma / (1 - rho) / sqrt(n)."""
    rho, n, sigma = 0.7, 250, 0.05
    halves, methods = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        series = rng.normal(0, sigma, n)
        for k in range(1, n):
            series[k] += rho * series[k - 1]
        found = contrast([Series(np.exp(series), 0.5)], (1.0,), False, 0.95, (seed,))
        assert found.log is not None
        halves.append(found.log.half)
        methods.append(found.method)
    theory = 1.96 * sigma / (1 - rho) / np.sqrt(n)
    assert methods.count("stationary bootstrap") > 30  # the others may well have a coefficient of 0.8
    assert 0.97 < float(np.mean(halves)) / theory < 1.2  # without spreading replicates back it is 0.91


def test_thirty_dependent_pairs_are_not_taken_for_independent_ones() -> None:
    """A test at 5 % misses the dependence of neighbours in a third of such campaigns, and the interval is then wrong in one of seven."""
    world = World("autocorrelated", sigma=0.06, rho=0.6, machine=0.08)
    missed = 0
    for seed in range(600):
        both = campaign(world, Design.INTERLEAVED, 30, 0.0, np.random.default_rng([5, seed]))
        logs = np.log(both.parts[0].latency["e2e"] / both.parts[1].latency["e2e"])
        if inflation(logs) > 1:
            continue
        found = latency_contrast(both, "e2e", "p50", plan(Design.INTERLEAVED, seed)).log
        assert found is not None
        missed += not found.low <= 0 <= found.high
    assert missed <= 18  # of some 210 that show nothing; with independent draws it is 26


def test_a_tail_is_no_wider_for_a_dependence_that_does_not_reach_it() -> None:
    """Of a 95th percentile few values pull: neighbours that are alike do not make it much less certain."""
    world = World("autocorrelated", sigma=0.06, rho=0.6, machine=0.08)
    ratios = []
    for seed in range(12):
        both = campaign(world, Design.INTERLEAVED, 120, 0.0, np.random.default_rng([6, seed]))
        a, b = (Series(part.latency["e2e"], 0.95) for part in both.parts)
        as_one = contrast([a, b], (1.0, -1.0), True, 0.95, (seed,)).log
        order = np.random.default_rng(seed).permutation(120)
        mixed = [Series(part.values[order], 0.95) for part in (a, b)]
        apart = contrast(mixed, (1.0, -1.0), True, 0.95, (seed,)).log
        assert as_one is not None
        assert apart is not None
        ratios.append(as_one.half / apart.half)
    assert float(np.median(ratios)) < 1.25


def test_a_secondary_metric_needs_more_than_its_own_interval() -> None:
    """Among many campaigns there is one whose secondary metric stands alone, and does not stand after correction."""
    held_back = 0
    for seed in range(25):
        findings = analyse(made.evidence(made.campaign(seed, fp8_ttft=1.06, sigma=0.08), plan=made.plan(seed=seed)))
        assert findings.comparison is not None
        for effect in findings.comparison.effects.values():
            low, high, value = effect.ratio.low, effect.ratio.high, effect.ratio.value
            if effect.primary or low is None or high is None or value is None:
                continue
            alone = (low > 1 or high < 1) and abs(value - 1) > max(0.03, effect.noise_floor or 0.0)
            held_back += alone and effect.word is Word.INCONCLUSIVE
    assert held_back > 0


def test_the_ratio_of_throughputs_is_that_of_the_numbers_shown() -> None:
    findings = analyse(made.evidence(made.campaign(2, fp8_ttft=0.8, sigma=0.1)))
    assert findings.comparison is not None
    effect = findings.comparison.effects["requests_per_s"]
    assert effect.baseline.value is not None
    assert effect.candidate.value is not None
    assert effect.ratio.value == pytest.approx(effect.candidate.value / effect.baseline.value)


def test_a_first_token_that_came_counts_though_the_rest_timed_out() -> None:
    late = made.failed(
        "bf16", 0, 1000.0, Outcome.TIMEOUT_IDLE, first_token_ns=int(1150 * made.MS), done_ns=int(31_150 * made.MS)
    )
    found = arm(RecordTable.from_records([late]), "bf16", Timeouts())
    assert found.latency["ttft"][0] == pytest.approx(150)
    assert np.isinf(found.latency["e2e"][0])
    assert found.limit_ms == pytest.approx(30_150)


def at(word: Word) -> dict[str, dict[str, Effect]]:
    number = Estimate(value=1.0, low=1.0, high=1.0, n=30)
    return {"fp8": {"e2e_p50": Effect(metric="e2e_p50", baseline=number, candidate=number, ratio=number, difference=number, word=word, sentence=f"{word}.", primary=True)}}  # fmt: skip


def test_a_verdict_that_turns_with_the_load_depends_on_it() -> None:
    advice = Recommendation(action=Action.USE, sentence="Use fp8.", reasons=("faster.",))
    same = tuple(
        Level(number=k, knob="concurrency", value=v, label=f"{v} in flight", effects=at(Word.FASTER))
        for k, v in enumerate((1, 4))
    )
    turned = (same[0], Level(number=1, knob="concurrency", value=16, label="16 in flight", effects=at(Word.SLOWER)))
    assert over_levels(advice, same, "fp8", "e2e_p50").action is Action.USE
    assert over_levels(advice, same, "fp8", "e2e_p50").reasons == ("faster.", "At 4 in flight: faster.")
    found = over_levels(advice, turned, "fp8", "e2e_p50")
    assert found.action is Action.DEPENDS
    assert "worse at 16 in flight" in found.sentence
    flat = (
        Level(number=0, knob="concurrency", value=1, label="1 in flight", effects=at(Word.NO_DIFFERENCE)),
        turned[1],
    )
    told = over_levels(advice, flat, "fp8", "e2e_p50").sentence
    assert told.endswith(": no difference shown at 1 in flight; worse at 16 in flight."), (
        "nobody showed that it is the same"
    )


def test_loads_do_not_hide_what_is_said_of_the_answers() -> None:
    """Answers that are worse by the margin or more decide alone; "it depends on the load" took the word from them."""
    levels = tuple(
        Level(number=k, knob="concurrency", value=k + 1, label=f"{k + 1} in flight", effects=at(word))
        for k, word in enumerate((Word.FASTER, Word.SLOWER))
    )
    keep = Recommendation(action=Action.KEEP, sentence="Keep bf16.")
    assert over_levels(keep, levels, "fp8", "e2e_p50", WORSE).action is Action.KEEP
    open_ = Recommendation(action=Action.DEPENDS, sentence="It depends.")
    assert "accuracy was not shown to hold" in over_levels(open_, levels, "fp8", "e2e_p50", UNKNOWN).sentence
    assert "it is less accurate" in over_levels(open_, levels, "fp8", "e2e_p50", LESS).sentence
    assert over_levels(open_, levels, "fp8", "e2e_p50").sentence.endswith("worse at 2 in flight.")


def test_gaps_between_chunks_have_a_noise_floor_too() -> None:
    """A server whose pace differs between its own blocks cannot be called faster by less than that."""
    floors = []
    for jump in (1.0, 1.2):
        records = made.campaign(3, sigma=0.01)
        records = [_paced(record, jump if record.block in (0, 3) else 1.0) for record in records]
        both = _sides(records)
        found = [noise_floor(both, "itl", stat) for stat in ("p50", "mean")]
        assert all(value is not None for value in found)
        floors.append(min(value for value in found if value is not None))
    assert floors[0] < 0.02
    assert floors[1] == pytest.approx(1.2**0.5**0.5 - 1, abs=0.03)


def _paced(record: RequestRecord, factor: float) -> RequestRecord:
    chunks = np.asarray(record.chunk_ns)
    return msgspec.structs.replace(record, chunk_ns=tuple(int(t) for t in chunks[0] + (chunks - chunks[0]) * factor))


def _sides(records: list[RequestRecord]) -> Sides:
    table = made.evidence(records).records
    baseline, candidate = (arm(table, name, made.plan().timeouts) for name in ("bf16", "fp8"))
    return sides(baseline, candidate, Design.INTERLEAVED)


def test_a_try_that_was_refused_and_repeated_does_not_unpair_the_arms() -> None:
    """One refused connection under --retry-safe, and requests were no longer paired by image."""
    records = made.campaign(fp8_ttft=0.95)
    tried = records[20]
    records[20] = msgspec.structs.replace(tried, attempt=1)
    records.append(
        made.failed(tried.target, tried.index, tried.intended_ns / made.MS - 0.5, Outcome.REFUSED, block=tried.block, image_id=tried.image_id)
    )  # fmt: skip
    findings = analyse(made.evidence(records))
    assert findings.comparison is not None
    assert findings.comparison.notes[0] == "Requests are paired by image (32 pairs)."
    assert findings.targets["bf16"].errors | findings.targets["fp8"].errors == {"refused": 1}, "the try stays told"
    left_open = made.campaign(fp8_ttft=0.95)
    left_open[20] = made.failed(
        tried.target,
        tried.index,
        tried.intended_ns / made.MS,
        Outcome.REFUSED,
        block=tried.block,
        image_id=tried.image_id,
    )
    assert _sides(left_open).paired
    assert len(_sides(left_open).parts[0]) == len(_sides(left_open).parts[1]) == 32
