from __future__ import annotations

import math

import made
import msgspec
import pytest

from client.core import counters
from client.core.across import joined
from client.core.analysis import Measured, analyse
from client.core.bootstrap import Contrast
from client.core.findings import Estimate, Findings, Memory, Word
from client.core.names import NAMES, estimate_of
from client.core.phrases import percent
from client.core.plan import Design, LoadProfile, Workload
from client.core.stats import Interval
from client.core.verdict import requests_needed, word_of
from client.errors import UsageError
from client.reports import terminal

E2E, RATE = NAMES["e2e_p50"], NAMES["requests_per_s"]


def log(value: float, low: float, high: float) -> Interval:
    """From percent."""
    return Interval(*(math.log1p(v / 100) for v in (value, low, high)))


@pytest.mark.parametrize(
    ("interval", "floor", "word"),
    [
        ((-20, -25, -15), 0.01, Word.FASTER),
        ((+20, +15, +25), None, Word.SLOWER),
        ((+1, -1, +2.5), 0.01, Word.EQUIVALENT),
        ((+1, +0.5, +2.5), 0.0, Word.EQUIVALENT),
        ((-6, -9, -3), 0.08, Word.NO_DIFFERENCE),
        ((-6, -14, -0.5), 0.08, Word.NO_DIFFERENCE),
        ((-1, -6, +4), 0.001, Word.NO_DIFFERENCE),
        ((-2.5, -5, -0.3), 0.001, Word.NO_DIFFERENCE),
        ((-1, -16, +14), 0.02, Word.INCONCLUSIVE),
        ((-10, -22, +2), 0.01, Word.INCONCLUSIVE),
        ((-10, -22, +2), None, Word.INCONCLUSIVE),
    ],
)
def test_the_words_for_a_time(interval: tuple[float, float, float], floor: float | None, word: Word) -> None:
    assert word_of(log(*interval), E2E, 0.03, floor) is word


def test_a_throughput_is_higher_or_lower() -> None:
    assert word_of(log(20, 15, 25), RATE, 0.03, None) is Word.HIGHER
    assert word_of(log(-20, -25, -15), RATE, 0.03, None) is Word.LOWER


def test_the_number_of_requests_that_would_settle_it() -> None:
    wide = log(-8, -20, 5)
    needed = requests_needed(wide, 0.03, 30)
    assert needed is not None
    assert 100 < needed < 300
    narrower = requests_needed(log(-8, -14, -1.5), 0.03, 30)
    assert narrower is not None
    assert narrower < needed
    assert requests_needed(log(0, -90, 900), 0.0001, 1000) is None


def test_more_requests_do_not_narrow_drift() -> None:
    """With drift inside the interval only the rest of it shrinks; where drift alone keeps it open, no number is promised."""
    wide = log(-8, -20, 5)
    assert (requests_needed(wide, 0.03, 30, 0.04) or 0) > 1.1 * (requests_needed(wide, 0.03, 30) or 0)
    assert requests_needed(wide, 0.03, 30, 0.09) is None
    assert requests_needed(log(0, -4, 4), 0.0, 30) is None, "at --min-effect 0% an exact tie is never settled"


@pytest.mark.parametrize(("scale", "rest"), [(1.0, "about"), (1.6, "drifted between its two runs")])
def test_a_serial_run_says_what_would_settle_it(scale: float, rest: str) -> None:
    order = (("bf16", 0), ("bf16", 1), ("fp8", 0), ("fp8", 1), ("fp8", 2), ("fp8", 3), ("bf16", 2), ("bf16", 3))
    drift = {0: 1.0, 1: 1.0, 2: scale, 3: scale}
    records = [
        made.record(r.target, r.index, k * 1000.0, ttft_ms=120.0 * (drift[r.block or 0] if r.target == "bf16" else 1 + (scale - 1) / 2) + 9 * (k * 7 % 5), image=r.image_id, block=r.block)
        for k, r in enumerate(made.campaign(order=order))
    ]  # fmt: skip
    findings = analyse(made.evidence(records, plan=made.plan(design=Design.SERIAL, min_effect=0.001)))
    assert findings.comparison is not None
    assert "paired by image (32 pairs)" in findings.comparison.notes[0]
    found = findings.comparison.effects["ttft_p50"]
    assert found.word is Word.INCONCLUSIVE
    assert rest in found.sentence
    assert "±0.1%" in found.sentence, "a small --min-effect must not be told as ±0%"


def test_percentages_have_signs() -> None:
    assert [percent(r) for r in (0.631, 1.0, 1.25)] == ["−36.9 %", "±0.0 %", "+25.0 %"]


def pair(**changes: float) -> Findings:
    return analyse(
        made.evidence(made.campaign(**changes)),
        Measured(memory={"bf16": Memory(kv_cache_tokens=1000), "fp8": Memory(kv_cache_tokens=1400)}),
    )  # type: ignore[arg-type]  # names of campaign


def test_the_primary_comes_first_and_the_rest_is_secondary() -> None:
    findings = pair(fp8_ttft=1.3, fp8_tpot=0.67)
    assert findings.comparison is not None
    names = list(findings.comparison.effects)
    assert names[0] == "e2e_p50"
    assert findings.comparison.effects["e2e_p50"].primary
    assert "(secondary)" in findings.comparison.effects["ttft_p50"].sentence
    assert (
        findings.comparison.effects["kv_cache_tokens"].sentence
        == "KV cache (secondary): bf16 1,000 tokens, fp8 1,400 tokens; higher: +40.0 %."
    )
    assert "needs n ≥ 59" in findings.comparison.effects["e2e_p95"].sentence


def test_names_lead_to_their_places() -> None:
    findings = pair()
    arm = findings.targets["fp8"]
    assert estimate_of(arm, NAMES["e2e_p50"]) == arm.metrics["e2e_ms_p50"]
    assert (estimate_of(arm, NAMES["kv_cache_tokens"]) or Estimate()).value == 1400
    assert estimate_of(arm, NAMES["mean_iou"]) is None
    for name in NAMES.values():
        estimate_of(arm, name)


def test_a_contrast_without_bounds_is_inconclusive() -> None:
    assert Contrast(None, None, 0, "none").log is None


def test_two_saved_runs_are_one_comparison_with_a_warning() -> None:
    a, b = made.evidence(made.campaign(1)), made.evidence(made.campaign(2, fp8_ttft=0.8, fp8_tpot=0.8), run_id="later")
    findings = analyse(joined(a, b, targets=("bf16", "fp8"), min_effect="5 %"))
    assert findings.comparison is not None
    assert (findings.comparison.baseline, findings.comparison.candidate) == ("a", "b")
    assert findings.comparison.effects["e2e_p50"].word is Word.FASTER
    assert findings.comparison.effects["e2e_p50"].ratio.value == pytest.approx(0.8, abs=0.02)
    gate = findings.gates[0]
    assert gate.code == "two_runs"
    assert "two runs, not one" in gate.fact
    assert "two runs, not one" in terminal.render(findings), "who compares saved runs in a terminal must read it there"
    assert findings.min_effect == 0.05
    assert findings.valid


def test_two_runs_with_other_questions_are_not_compared() -> None:
    a = made.evidence(made.campaign(1))
    b = made.evidence(
        made.campaign(2),
        plan=made.plan(workload=Workload(max_tokens=128), load=LoadProfile(requests=64)),
        run_id="later",
    )
    findings = analyse(joined(a, b))
    assert not findings.valid
    assert "max_tokens 64 / 128" in findings.invalid_reasons[0]
    assert "requests" not in findings.invalid_reasons[0].split("asked the same:")[1]
    with pytest.raises(UsageError, match="no target 'int4'"):
        joined(a, b, targets=("int4", None))


def test_counters_of_versions_and_pages() -> None:
    before, after = made.server("x").before, made.server("x").after
    found = counters.difference(before, after)
    assert found.prefix_hit_rate == pytest.approx(1_000 / 35_000)
    assert found.image_hit_rate == 0.0
    assert counters.difference(None, after).why == "there is no /metrics page from before the measurement"
    assert counters.difference(None, after).image_hit_rate is None
    old = counters.read_page(
        'vllm:gpu_prefix_cache_hits_total{model_name="m"} 3.0\nvllm:gpu_prefix_cache_queries_total{model_name="m"} 9.0\n'
    )
    assert old.counters == {"prefix_hits": 3.0, "prefix_queries": 9.0}
    assert counters.read_page('vllm:prefix_cache_hits_total 3.0\n<html>{"').counters == {"prefix_hits": 3.0}
    assert counters.config_differences(
        {"block_size": "16", "num_gpu_blocks": "9"}, {"block_size": "32", "num_gpu_blocks": "8"}
    ) == ["block_size: 16 / 32"]


def test_a_secondary_metric_keeps_its_direction_only_if_the_correction_lets_it() -> None:
    """Of some fifteen metrics one is beyond its interval by chance in every other run (Holm 1979)."""
    near, words = [], set()
    for seed in range(40):
        comparison = analyse(made.evidence(made.campaign(seed, fp8_ttft=0.955, sigma=0.1))).comparison
        assert comparison is not None
        found = comparison.effects["ttft_p50"]
        size = 1 - (found.ratio.value or 1)
        if (found.ratio.high or 1) < 1 and size > max(0.03, found.noise_floor or 0):
            near.append(found)
            words.add(found.word)
    assert len(near) >= 5
    assert Word.INCONCLUSIVE in words
    for found in near:
        if found.word is Word.INCONCLUSIVE:
            assert "would be faster on its own, but among" in found.sentence
            assert "secondary metrics it does not survive Holm's correction" in found.sentence
            assert "does not settle" not in found.sentence


def test_five_pairs_settle_nothing() -> None:
    """Twelve requests were answered, but the pace of five pairs is known: no interval of a median exists."""
    records = [
        msgspec.structs.replace(r, completion_tokens=r.completion_tokens if r.index < 5 else None)
        for r in made.campaign(per_block=3, fp8_tpot=0.5)
    ]
    for known, word in ((5, Word.INCONCLUSIVE), (12, Word.FASTER)):
        shown = records if known == 5 else made.campaign(per_block=3, fp8_tpot=0.5)
        comparison = analyse(made.evidence(shown)).comparison
        assert comparison is not None
        assert comparison.effects["tpot_p50"].word is word


def test_a_restart_that_was_expected_and_did_not_come_leaves_a_difference() -> None:
    """A serial run on a live pair: what the server had counted before belongs to others."""
    used = made.server("x", before=made.page(prefix_queries=10_000), after=made.page(prefix_queries=45_000))
    found = counters.difference(used.before, used.after, restart_expected=True)
    assert found.counters["prefix_queries"] == 35_000
    assert not found.restarted
