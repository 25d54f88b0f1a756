"""The recommendation: each case has its rule, what decided is named first, and nothing spoiled counts."""

from __future__ import annotations

import made
import msgspec
import pytest

from client.core.analysis import Measured, analyse
from client.core.evidence import Evidence
from client.core.findings import (
    Action,
    Comparison,
    Effect,
    Estimate,
    Memory,
    Parity,
    Recommendation,
    TargetFindings,
    Word,
)
from client.core.names import NAMES, Better, Name
from client.core.plain_effects import plain_effects
from client.core.recommend import RULES, recommend


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
        (case(Word.NON_INFERIOR, Word.FASTER, e2e_p95=Word.SLOWER), Action.DEPENDS),
        (case(Word.NON_INFERIOR, Word.FASTER, e2e_p99=Word.SLOWER), Action.DEPENDS),
        (case(Word.NON_INFERIOR, Word.FASTER, ttft_p95=Word.SLOWER), Action.DEPENDS),
        (case(Word.NON_INFERIOR, Word.FASTER, ttft_p95=Word.SLOWER, e2e_p95=Word.INCONCLUSIVE), Action.DEPENDS),
        (case(Word.NON_INFERIOR, Word.FASTER, ttft_p95=Word.SLOWER, e2e_p95=Word.FASTER), Action.USE),
        (case(Word.NON_INFERIOR, Word.FASTER, ttft_mean=Word.SLOWER, e2e_mean=Word.FASTER), Action.USE),
        (case(Word.NON_INFERIOR, Word.FASTER, ttft_p99=Word.SLOWER, e2e_p99=Word.NO_DIFFERENCE), Action.DEPENDS),
        (case(Word.NON_INFERIOR, Word.FASTER, e2e_mean=Word.SLOWER), Action.DEPENDS),
        (case(Word.NON_INFERIOR, Word.FASTER, itl_p99=Word.SLOWER), Action.USE),
        (case(Word.LESS_ACCURATE, Word.FASTER), Action.DEPENDS),
        (case(Word.LESS_ACCURATE, Word.EQUIVALENT), Action.KEEP),
        (case(Word.LESS_ACCURATE, Word.INCONCLUSIVE), Action.NONE),
        (case(Word.LESS_ACCURATE, Word.INCONCLUSIVE, tpot_p50=Word.FASTER), Action.DEPENDS),
        (case(Word.NON_INFERIOR, Word.FASTER, response_p50=Word.SLOWER), Action.DEPENDS),
        (case(Word.NON_INFERIOR, Word.EQUIVALENT, ttft_p50=Word.INVALID), Action.KEEP),
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
        (case(Word.NON_INFERIOR, Word.INCONCLUSIVE, ttft_p50=Word.SLOWER), Action.NONE),
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


def advice(quality: Word, primary: Word, **others: Word) -> Recommendation:
    return recommend(case(quality, primary, **others), "e2e_p50", "x", None, ())


def test_a_median_contains_no_tail() -> None:
    """ "Worse is only 95th percentile of time to first token, which that latency contains already", said of a median; the 95th percentile
    of the whole was not settled."""
    open_ = advice(Word.NON_INFERIOR, Word.FASTER, ttft_p95=Word.SLOWER, e2e_p95=Word.INCONCLUSIVE).sentence
    assert "contains" not in open_
    assert "worse: 95th percentile of time to first token" in open_
    both = advice(Word.NON_INFERIOR, Word.FASTER, ttft_p95=Word.SLOWER, e2e_p95=Word.FASTER).sentence
    assert (
        "worse is only 95th percentile of time to first token (secondary), which end-to-end latency, better in the"
        in both
    )


COMPARED_NAMES = [n for n in NAMES.values() if n.place in ("metrics", "energy", "cost", "memory") and n.short not in ("e2e_p50", "error_rate")]  # fmt: skip


@pytest.mark.parametrize("name", COMPARED_NAMES, ids=lambda name: name.short)
@pytest.mark.parametrize("primary", [Word.FASTER, Word.EQUIVALENT])
def test_whatever_is_compared_and_shown_to_be_worse_is_named(name: Name, primary: Word) -> None:
    """TTFT p99 at x2.46 and means stood behind "nothing else is shown to be worse"."""
    worse = Word.SLOWER if name.unit == "ms" else Word.HIGHER if name.better is Better.LOWER else Word.LOWER
    gain = {} if primary is Word.FASTER else {"kv_cache_tokens" if name.place != "memory" else "requests_per_s": Word.HIGHER}  # fmt: skip
    if name.short in gain:
        return
    found = advice(Word.NON_INFERIOR, primary, **gain, **{name.short: worse})
    assert name.words in found.sentence
    assert "nothing else" not in found.sentence
    assert f"{name.short}: {worse}." in found.reasons


def test_a_small_loss_of_accuracy_is_named_where_the_candidate_is_used() -> None:
    difference = Estimate(value=-0.004, low=-0.006, high=-0.002, n=200)
    small = Parity(word=Word.NON_INFERIOR, iou_difference=difference, sentence="Accuracy.")
    for noise, told in ((Estimate(), True), (Estimate(value=0.0, low=-0.005, high=0.005, n=200), False)):
        parity = msgspec.structs.replace(small, iou_difference_noise=noise)
        found = recommend(msgspec.structs.replace(case(Word.NON_INFERIOR, Word.FASTER), parity=parity), "e2e_p50", "x", None, ())  # fmt: skip
        assert found.action is Action.USE
        assert ("it is less accurate, by less than the margin" in found.sentence) == told
        assert ("nothing else is shown to be worse" in found.sentence) != told


def test_a_loss_that_may_be_small_keeps_nothing() -> None:
    """At -0.0067 [-0.0143, -0.0006] and a margin of 0.01: "keep bf16, its answers are worse by more than the margin"."""
    less = case(Word.LESS_ACCURATE, Word.FASTER)
    less = msgspec.structs.replace(less, parity=msgspec.structs.replace(less.parity, needs_images=1234))
    found = recommend(less, "e2e_p50", "x", None, ())
    assert found.action is Action.DEPENDS
    assert "it is less accurate, and a loss of the margin is not excluded" in found.sentence
    assert "worse: mean IoU" in found.sentence
    assert any("about 1,234 images" in change for change in found.would_change)
    assert "by the margin or more" in advice(Word.WORSE, Word.FASTER).sentence


def test_what_may_be_a_gain_is_named_where_none_is_shown() -> None:
    """TPOT, KV cache and energy all inconclusive, and "fp8 is not worth it, nothing worth having is gained"."""
    open_ = advice(Word.NON_INFERIOR, Word.NO_DIFFERENCE, tpot_p50=Word.INCONCLUSIVE, joules_per_request=Word.INVALID)
    assert open_.action is Action.KEEP
    assert "is not worth it" not in open_.sentence
    assert "shown to be gained; not settled: median time per output token, energy per request." in open_.sentence
    unknown = advice(Word.INCONCLUSIVE, Word.NO_DIFFERENCE).sentence
    assert unknown.endswith("; not settled: mean IoU.")
    settled = advice(Word.NON_INFERIOR, Word.NO_DIFFERENCE, tpot_p50=Word.EQUIVALENT).sentence
    assert settled == "Keep bf16: fp8 is not worth it, nothing worth having is shown to be gained."
    wrong = advice(Word.WORSE, Word.NO_DIFFERENCE, tpot_p50=Word.INCONCLUSIVE).sentence
    assert "not settled" not in wrong, "it could change nothing"


@pytest.mark.parametrize("quality", [Word.NON_INFERIOR, Word.BETTER, Word.LESS_ACCURATE, Word.INCONCLUSIVE])
@pytest.mark.parametrize("gain", [Word.HIGHER, Word.NO_DIFFERENCE])
@pytest.mark.parametrize("loss", [Word.SLOWER, Word.NO_DIFFERENCE])
def test_a_primary_metric_that_is_open_is_said_to_be(quality: Word, gain: Word, loss: Word) -> None:
    """ "Keep bf16: fp8 is not worth it" at -7.4 to +5.8 %, and "it wins on some counts and loses on others" without a word of it."""
    found = advice(quality, Word.INCONCLUSIVE, kv_cache_tokens=gain, ttft_p50=loss)
    assert found.action in (Action.NONE, Action.DEPENDS)
    assert "the metric that decides, median end-to-end latency, is not settled" in found.sentence
    assert "worth it" not in found.sentence
    assert ("time to first token" in found.sentence) == (loss is Word.SLOWER)


def test_a_pace_that_is_better_does_not_hide_a_whole_that_is_worse() -> None:
    """With --primary tpot_p50 end-to-end latency was no fact of the table: "use fp8, nothing else is shown to be worse" at +41 %."""
    found = {"tpot_p50": effect("tpot_p50", Word.FASTER), "e2e_p50": effect("e2e_p50", Word.SLOWER)}
    paced = msgspec.structs.replace(case(Word.NON_INFERIOR, Word.FASTER), effects=found)
    advice = recommend(paced, "tpot_p50", "x", None, ())
    assert advice.action is Action.DEPENDS
    assert "worse: median end-to-end latency" in advice.sentence


def test_what_is_not_settled_is_named_and_told_last() -> None:
    open_ = case(Word.NON_INFERIOR, Word.FASTER, ttft_p50=Word.INCONCLUSIVE, tpot_p50=Word.FASTER, e2e_p95=Word.INVALID)
    advice = recommend(open_, "e2e_p50", "x", None, ())
    assert advice.action is Action.USE
    assert advice.sentence.endswith("; not settled: 95th percentile of end-to-end latency, median time to first token.")
    assert advice.reasons[-2:] == ("e2e_p95: invalid.", "ttft_p50: inconclusive.")


def test_a_tail_is_not_listed_beside_its_median() -> None:
    both = recommend(
        case(Word.INCONCLUSIVE, Word.FASTER, e2e_p95=Word.FASTER, ttft_p95=Word.SLOWER), "e2e_p50", "x", None, ()
    )
    assert "95th percentile of end-to-end" not in both.sentence
    assert "worse: 95th percentile of time to first token" in both.sentence


def test_unmeasured_accuracy_is_the_first_reason() -> None:
    found = analyse(made.evidence(made.campaign(fp8_ttft=0.7)))
    assert found.recommendation.reasons[0] == "Accuracy: not measured."


def test_what_an_unmeasured_primary_would_take_is_told() -> None:
    findings = analyse(made.evidence(made.campaign(fp8_ttft=0.7), plan=made.plan(primary="e2e_p99")))
    assert any("needs n ≥ 299" in change for change in findings.recommendation.would_change)
    old = analyse(made.evidence(made.campaign(), plan=made.plan(primary="error_rate")))
    assert old.comparison is not None, "a saved run that was asked to decide by failures can still be read"


def quality_of(word: Word) -> Measured:
    parity = {"fp8": Parity(word=word, sentence=f"Accuracy is {word}.")}
    return Measured(parity=parity, memory={"bf16": Memory(kv_cache_tokens=1000), "fp8": Memory(kv_cache_tokens=1400)})


def test_the_headline_begins_with_what_decided() -> None:
    """ "Keep bf16: fp8 is 30 % faster" leaves a reader at a loss, and so does "use fp8: equivalent"."""
    worse = analyse(made.evidence(made.campaign(fp8_ttft=0.7, fp8_tpot=0.7)), quality_of(Word.WORSE))
    assert worse.headline.startswith("Keep bf16 (one request at a time, 32 measured requests per arm): fp8 is not worth it, its answers are worse")  # fmt: skip
    same = analyse(made.evidence(made.campaign()), quality_of(Word.NON_INFERIOR))
    assert same.headline.startswith("Use fp8 (")
    assert "something is gained (better: KV cache (secondary))" in same.headline
    faster = analyse(made.evidence(made.campaign(fp8_ttft=0.7, fp8_tpot=0.7)), quality_of(Word.NON_INFERIOR))
    assert faster.headline.startswith("Use fp8 (one request at a time, 32 measured requests per arm): median end-to-end")  # fmt: skip


def priced(**changes: float) -> Evidence:
    targets = tuple(msgspec.structs.replace(t, price_usd_per_hour=2.0) for t in made.plan().targets)
    return made.evidence(made.campaign(**changes), plan=made.plan(targets=targets))  # type: ignore[arg-type]  # names of campaign


def test_a_cost_says_what_its_throughput_says() -> None:
    """Cost is price over throughput: the one cannot be settled where the other is not, nor be a gain below the smallest effect."""
    turned = {Word.HIGHER: Word.LOWER, Word.LOWER: Word.HIGHER}
    words = set()
    for ttft in (0.75, 0.94, 0.97, 1.0, 1.3):
        for sigma in (0.01, 0.2):
            comparison = analyse(priced(fp8_ttft=ttft, sigma=sigma)).comparison
            assert comparison is not None
            rate, cost = comparison.effects["requests_per_s"], comparison.effects["usd_per_1000_images"]
            assert cost.word is turned.get(rate.word, rate.word)
            assert cost.ratio.low == pytest.approx(1 / (rate.ratio.high or 1))
            words.add(cost.word)
    assert len(words) >= 4, words


def test_a_cost_of_spoiled_throughput_is_spoiled() -> None:
    """The caches answered, throughput was INVALID, and "cost: lower" still counted as a gain."""
    evidence = priced(fp8_ttft=0.7)
    again = msgspec.structs.replace(evidence, servers={
        name: made.server(name, after=made.page(prefix_queries=35_000, prefix_hits=33_000, image_queries=32)) for name in ("bf16", "fp8")
    }, plan=msgspec.structs.replace(evidence.plan, primary="tpot_p50"))  # fmt: skip
    findings = analyse(again, Measured(energy={n: {"joules_per_request": Estimate(value=v, low=v, high=v, n=30)} for n, v in (("bf16", 9.0), ("fp8", 5.0))}))  # fmt: skip
    assert findings.comparison is not None
    for name in ("usd_per_1000_images", "joules_per_request"):
        assert findings.comparison.effects[name].word is Word.INVALID
    said, _, open_ = findings.recommendation.sentence.partition("; not settled: ")
    assert "cost" not in said
    assert "cost of 1,000 images, energy per request" in open_
    assert findings.valid


@pytest.mark.parametrize(
    ("interval", "word"),
    [
        ((2.0, 1.0, 2.9), Word.EQUIVALENT),
        ((2.5, 0.5, 4.5), Word.NO_DIFFERENCE),
        ((5.0, 1.0, 9.0), Word.HIGHER),
        ((5.0, -1.0, 11.0), Word.INCONCLUSIVE),
        ((40.0, 40.0, 40.0), Word.HIGHER),
        ((2.0, 2.0, 2.0), Word.EQUIVALENT),
    ],
)
def test_the_words_for_what_is_not_of_requests(interval: tuple[float, float, float], word: Word) -> None:
    value, low, high = (1 + end / 100 for end in interval)
    one = Estimate(value=1.0, low=1.0, high=1.0, n=4)
    sides = [TargetFindings(name=n, precision=n, energy={"joules_per_request": e}) for n, e in (("a", one), ("b", Estimate(value=value, low=low, high=high, n=4)))]  # fmt: skip
    assert plain_effects(*sides, 0.03)["joules_per_request"].word is word


def test_what_it_depends_on_is_named() -> None:
    """The primary metric and the accuracy too, and no loss where there is none."""
    slower = recommend(case(Word.NON_INFERIOR, Word.SLOWER, tpot_p50=Word.FASTER), "e2e_p50", "x", None, ()).sentence
    assert "better: median time per output token" in slower
    assert "worse: median end-to-end latency" in slower
    right = recommend(case(Word.BETTER, Word.SLOWER), "e2e_p50", "x", None, ()).sentence
    assert "better: mean IoU" in right
    unsettled = recommend(case(Word.NON_INFERIOR, Word.INCONCLUSIVE, tpot_p50=Word.FASTER), "e2e_p50", "x", None, ())
    assert "the metric that decides, median end-to-end latency, is not settled" in unsettled.sentence
    assert "loses" not in unsettled.sentence


def test_no_difference_shown_is_no_proof_of_none() -> None:
    told = recommend(
        case(Word.NON_INFERIOR, Word.NO_DIFFERENCE, tpot_p50=Word.FASTER), "e2e_p50", "x", None, ()
    ).sentence
    assert "no loss is shown on the metric that decides" in told
    assert "loses nothing" not in told
    kept = recommend(case(Word.NON_INFERIOR, Word.NO_DIFFERENCE), "e2e_p50", "x", None, ())
    assert "long prompts do not" not in " ".join(kept.would_change), "on an H100 they did"


def test_every_case_has_a_rule_and_every_rule_a_case() -> None:
    used = set()
    for quality in ("better", "same", "less", "worse", "unknown"):
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
