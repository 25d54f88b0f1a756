from __future__ import annotations

import math

import made
import pytest

from client.core import counters
from client.core.across import joined
from client.core.analysis import Measured, analyse
from client.core.bootstrap import Contrast
from client.core.findings import Action, Comparison, Effect, Estimate, Findings, Memory, Parity, Word
from client.core.names import NAMES, estimate_of
from client.core.pairing import drift_allowance
from client.core.phrases import percent
from client.core.plan import Design, LoadProfile, Workload
from client.core.recommend import RULES, recommend
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


def test_drift_widens_only_beyond_its_noise() -> None:
    assert drift_allowance(Interval(0.01, -0.03, 0.05)) == 0.0
    assert drift_allowance(Interval(0.10, 0.08, 0.12)) == pytest.approx((0.10 - 0.015) / 2)


def effect(metric: str, word: Word) -> Effect:
    number = Estimate(value=1.0, low=1.0, high=1.0, n=30)
    return Effect(
        metric=metric,
        baseline=number,
        candidate=number,
        ratio=number,
        difference=number,
        word=word,
        sentence=f"{metric}: {word}.",
        primary=metric == "e2e_p50",
    )


def case(quality: Word, primary: Word, **others: Word) -> Comparison:
    found = {"e2e_p50": effect("e2e_p50", primary)} | {name: effect(name, word) for name, word in others.items()}
    return Comparison(
        baseline="bf16",
        candidate="fp8",
        design="interleaved",
        effects=found,
        parity=Parity(word=quality, sentence="Accuracy."),
    )


@pytest.mark.parametrize(
    ("comparison", "action"),
    [
        (case(Word.NON_INFERIOR, Word.FASTER), Action.USE),
        (case(Word.NON_INFERIOR, Word.FASTER, ttft_p50=Word.SLOWER), Action.USE),
        (case(Word.NON_INFERIOR, Word.FASTER, requests_per_s=Word.LOWER), Action.DEPENDS),
        (case(Word.EQUIVALENT, Word.NO_DIFFERENCE, kv_cache_tokens=Word.HIGHER), Action.USE),
        (
            case(
                Word.NON_INFERIOR,
                Word.NO_DIFFERENCE,
                kv_cache_tokens=Word.HIGHER,
                ttft_p50=Word.SLOWER,
                tpot_p50=Word.FASTER,
            ),
            Action.DEPENDS,
        ),
        (case(Word.NON_INFERIOR, Word.EQUIVALENT), Action.KEEP),
        (case(Word.NON_INFERIOR, Word.SLOWER), Action.KEEP),
        (case(Word.NON_INFERIOR, Word.SLOWER, requests_per_s=Word.HIGHER), Action.DEPENDS),
        (case(Word.WORSE, Word.FASTER, requests_per_s=Word.HIGHER), Action.KEEP),
        (case(Word.INCONCLUSIVE, Word.FASTER), Action.DEPENDS),
        (case(Word.NOT_MEASURED, Word.FASTER), Action.DEPENDS),
        (case(Word.NON_INFERIOR, Word.INCONCLUSIVE), Action.NONE),
        (case(Word.NON_INFERIOR, Word.INCONCLUSIVE, ttft_p50=Word.SLOWER), Action.KEEP),
        (case(Word.NON_INFERIOR, Word.INCONCLUSIVE, tpot_p50=Word.FASTER), Action.DEPENDS),
        (case(Word.BETTER, Word.EQUIVALENT), Action.USE),
        (case(Word.BETTER, Word.SLOWER), Action.DEPENDS),
    ],
)
def test_the_rules(comparison: Comparison, action: Action) -> None:
    found = recommend(comparison, "e2e_p50", "one at a time", None, ())
    assert found.action is action
    assert found.load == "one at a time"
    assert found.reasons[0] == "Accuracy."
    assert "fp8" in found.sentence or action is Action.NONE


def test_a_use_never_hides_what_is_worse() -> None:
    """A table with a slower first token stood above "nothing is lost by it"."""
    clean = recommend(case(Word.NON_INFERIOR, Word.FASTER), "e2e_p50", "x", None, ()).sentence
    assert clean.endswith("nothing else is shown to be worse.")
    late = recommend(case(Word.NON_INFERIOR, Word.FASTER, ttft_p50=Word.SLOWER), "e2e_p50", "x", None, ())
    assert late.action is Action.USE
    assert "worse is only median time to first token" in late.sentence
    assert "nothing" not in late.sentence


def test_what_it_depends_on_is_named() -> None:
    """The primary metric and the accuracy too, and no loss where there is none."""
    slower = recommend(case(Word.NON_INFERIOR, Word.SLOWER, tpot_p50=Word.FASTER), "e2e_p50", "x", None, ()).sentence
    assert "better: median time per output token" in slower
    assert "worse: median end-to-end latency" in slower
    right = recommend(case(Word.BETTER, Word.SLOWER), "e2e_p50", "x", None, ()).sentence
    assert "better: mean IoU" in right
    unsettled = recommend(case(Word.NON_INFERIOR, Word.INCONCLUSIVE, tpot_p50=Word.FASTER), "e2e_p50", "x", None, ())
    assert "the primary metric is not settled" in unsettled.sentence
    assert "loses" not in unsettled.sentence


def test_every_case_has_a_rule_and_every_rule_a_case() -> None:
    used = set()
    for quality in ("better", "same", "worse", "unknown"):
        for primary in ("better", "same", "worse", "unknown"):
            for gain in (True, False):
                for loss in (True, False):
                    fits = [
                        r
                        for r in RULES
                        if quality in r.quality and primary in r.primary and gain in r.gain and loss in r.loss
                    ]
                    used.add(fits[0])
    assert used == set(RULES)


def test_a_spoiled_run_recommends_nothing() -> None:
    found = recommend(case(Word.NON_INFERIOR, Word.FASTER), "e2e_p50", "x", "The caches answered.", ())
    assert found.action is Action.NONE
    assert "The caches answered." in found.sentence


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
        == "KV cache: bf16 1,000 tokens, fp8 1,400 tokens; higher: +40.0 %."
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
        made.campaign(2), plan=made.plan(workload=Workload(max_tokens=128), load=LoadProfile(requests=64))
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
