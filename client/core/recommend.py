"""The recommendation: a table of rules over what was found, read from the top; the first that fits decides.

`quality` and `primary` are the candidate's: better, same, worse or unknown, and of answers also less: worse, but perhaps by less than the
margin. `gain` and `loss` say whether any of the other facts (latency and its tail, time to first token, time per token, throughput, KV
capacity, cost, energy) is better or worse beyond the smallest effect worth having; better answers are a gain too, less accurate ones a
loss. What is not settled is neither, and is named.
"""

from __future__ import annotations

from dataclasses import dataclass

from client.core.findings import Action, Comparison, Effect, Recommendation, Word
from client.core.names import LATENCIES, NAMES, STATISTICS, Better
from client.core.parity_words import small_loss

BETTER, SAME, LESS, WORSE, UNKNOWN = "better", "same", "less", "worse", "unknown"
ANY = (BETTER, SAME, LESS, WORSE, UNKNOWN)
NOT_WORSE = (BETTER, SAME)
YES, NO, EITHER = (True,), (False,), (True, False)


@dataclass(frozen=True, slots=True)
class Rule:
    quality: tuple[str, ...]
    primary: tuple[str, ...]
    gain: tuple[bool, ...]
    loss: tuple[bool, ...]
    action: Action
    because: str
    """`{primary}` stands for the words of the primary metric."""


OPEN = "the metric that decides, {primary}, is not settled"
RULES: tuple[Rule, ...] = (
    Rule((WORSE,), ANY, EITHER, EITHER, Action.KEEP, "its answers are worse by the margin or more"),
    Rule(ANY, (UNKNOWN,), NO, NO, Action.NONE, OPEN),
    Rule(ANY, (UNKNOWN,), NO, YES, Action.NONE, f"{OPEN}; elsewhere no gain is shown, and a loss is"),
    Rule(ANY, (WORSE,), NO, EITHER, Action.KEEP, "it is worse on the metric that decides, and nothing else is shown to be gained"),
    Rule(ANY, (SAME,), NO, EITHER, Action.KEEP, "nothing worth having is shown to be gained"),
    Rule((LESS,), (UNKNOWN,), YES, EITHER, Action.DEPENDS, f"something is gained, but it is less accurate, a loss of the margin is not excluded, and {OPEN}"),
    Rule((LESS,), ANY, EITHER, EITHER, Action.DEPENDS, "something is gained, but it is less accurate, and a loss of the margin is not excluded"),
    Rule((UNKNOWN,), (UNKNOWN,), YES, EITHER, Action.DEPENDS, f"something is gained, but its accuracy was not shown to hold, and {OPEN}"),
    Rule((UNKNOWN,), (BETTER,), EITHER, EITHER, Action.DEPENDS, "it is better on the metric that decides, but its accuracy was not shown to hold"),
    Rule((UNKNOWN,), ANY, EITHER, EITHER, Action.DEPENDS, "something is gained, but its accuracy was not shown to hold"),
    Rule(NOT_WORSE, (BETTER,), EITHER, NO, Action.USE, "it is better on the metric that decides, and its answers hold"),
    Rule(NOT_WORSE, (SAME,), YES, NO, Action.USE, "no loss is shown on the metric that decides, its answers hold, and something is gained"),
    Rule(NOT_WORSE, (UNKNOWN,), YES, NO, Action.DEPENDS, f"something is gained, but {OPEN}"),
    Rule(NOT_WORSE, (UNKNOWN,), YES, YES, Action.DEPENDS, f"it wins on some counts and loses on others, and {OPEN}"),
    Rule(NOT_WORSE, ANY, EITHER, EITHER, Action.DEPENDS, "it wins on some counts and loses on others"),
)  # fmt: skip

FACTS = (
    "e2e_p50",
    "response_p50",
    "e2e_p95",
    "e2e_p99",
    "e2e_mean",
    "response_p95",
    "response_p99",
    "response_mean",
    "ttft_p50",
    "ttft_p95",
    "ttft_p99",
    "ttft_mean",
    "tpot_p50",
    "tpot_p95",
    "tpot_p99",
    "tpot_mean",
    "requests_per_s",
    "output_tokens_per_s",
    "goodput_per_s",
    "kv_cache_tokens",
    "usd_per_1000_images",
    "joules_per_request",
)
"""The other facts, in the order in which reasons are told. What is compared beside them decides nothing, but is named where it is worse."""
BESIDE = ("e2e_mean", "response_mean", "ttft_p99", "ttft_mean", "tpot_p95", "tpot_p99", "tpot_mean")
"""Facts that are told only where they say another thing than the median of their metric, or are worse."""
FOLLOWS = {
    "kv_cache_gib": "kv_cache_tokens",
    "requests_at_once": "kv_cache_tokens",
    "kj_per_1000_images": "joules_per_request",
}
"""The same in another unit: not told beside it."""
WHOLES, PARTS = ("e2e", "response"), ("ttft", "tpot", "itl")
"""What end-to-end latency is made of. Where the whole is the primary metric, and is better, a part that is worse is told, not decided by, if
the whole is better in the same statistic: its loss is in there already. A median does not contain a 95th percentile."""
COMPARED_ONLY = ("ttft_p50", "tpot_p50", "requests_per_s", "output_tokens_per_s")


def side_of(effect: Effect | None) -> str:
    """What an effect means for the candidate."""
    if effect is None or effect.word in (Word.NOT_MEASURED, Word.INVALID, Word.INCONCLUSIVE):
        return UNKNOWN
    if effect.word in (Word.EQUIVALENT, Word.NO_DIFFERENCE):
        return SAME
    if effect.word is Word.FASTER or effect.word is Word.SLOWER:
        return BETTER if effect.word is Word.FASTER else WORSE
    wants_more = NAMES[effect.metric].better is Better.HIGHER
    return BETTER if (effect.word is Word.HIGHER) == wants_more else WORSE


def quality_of(comparison: Comparison) -> str:
    word = comparison.parity.word
    if word in (Word.BETTER, Word.HIGHER):
        return BETTER
    if word in (Word.NON_INFERIOR, Word.EQUIVALENT, Word.NO_DIFFERENCE):
        return SAME
    if word is Word.LESS_ACCURATE:
        return LESS
    return WORSE if word in (Word.WORSE, Word.LOWER) else UNKNOWN


@dataclass(frozen=True, slots=True)
class _Case:
    """One comparison as the rules see it. `sides`: the primary metric, accuracy, the facts, then what is only told."""

    comparison: Comparison
    primary: str
    quality: str
    main: str
    facts: dict[str, Effect]
    told: dict[str, Effect]
    sides: dict[str, str]

    @property
    def inside(self) -> tuple[str, ...]:
        """Parts that are worse, of a latency that is better in the same statistic."""
        whole, _, _ = self.primary.rpartition("_")
        if self.main != BETTER or whole not in WHOLES:
            return ()
        return tuple(
            name
            for name in (*self.facts, *self.told)
            if self.sides[name] == WORSE
            and name.rpartition("_")[0] in PARTS
            and self.sides.get(f"{whole}_{name.rpartition('_')[2]}") == BETTER
        )

    @property
    def gain(self) -> bool:
        return BETTER in (self.quality, *(self.sides[name] for name in self.facts))

    @property
    def loss(self) -> bool:
        inside = self.inside
        return self.quality == LESS or any(self.sides[n] == WORSE for n in self.facts if n not in inside)

    def rule(self) -> Rule:
        return next(
            r
            for r in RULES
            if self.quality in r.quality and self.main in r.primary and self.gain in r.gain and self.loss in r.loss
        )

    def unsettled(self) -> dict[str, Effect]:
        """Measured, but without an answer: inconclusive, or spoiled."""
        open_ = (Word.INCONCLUSIVE, Word.INVALID)
        return {name: e for name, e in self.facts.items() if e.word in open_ and name not in BESIDE}


def _case(comparison: Comparison, primary: str) -> _Case:
    effects = comparison.effects
    quality, main = quality_of(comparison), side_of(effects.get(primary))
    facts = {name: effects[name] for name in FACTS if name in effects and name != primary}
    told = {n: e for n, e in effects.items() if n not in (*FACTS, primary) and side_of(e) == WORSE}
    told = {n: e for n, e in told.items() if n not in FOLLOWS or side_of(effects.get(FOLLOWS[n])) != WORSE}
    sides = {primary: main, "mean_iou": WORSE if quality == LESS else quality}
    sides |= {name: side_of(effect) for name, effect in (facts | told).items()}
    return _Case(comparison, primary, quality, main, facts, told, sides)


def recommend(
    comparison: Comparison, primary: str, load: str, spoiled: str | None, not_measured: tuple[str, ...]
) -> Recommendation:
    """`spoiled` says why the run or its primary metric is INVALID; None when it is not."""
    if spoiled is not None:
        sentence = f"No recommendation between {comparison.candidate} and {comparison.baseline}: {spoiled}"
        return Recommendation(action=Action.NONE, sentence=sentence, load=load, not_measured=not_measured)
    case = _case(comparison, primary)
    rule = case.rule()
    return Recommendation(
        action=rule.action,
        sentence=_sentence(rule, case),
        load=load,
        reasons=_reasons(case),
        would_change=tuple(_would_change(rule, case)),
        not_measured=not_measured,
    )


def _listed(case: _Case, side: str, among: tuple[str, ...] | None = None) -> str:
    """Names of one side; a tail or a mean only where the median of the same metric is not among them already. The primary metric and
    accuracy, which has a margin of its own, come first: all others are told to be secondary."""
    names = [name for name, found in case.sides.items() if found == side and (among is None or name in among)]
    shown = [name for name in names if _median(name) not in names or _median(name) == name]
    decide = [NAMES[name].words for name in shown if name in (case.primary, "mean_iou")]
    others = [NAMES[name].words for name in shown if name not in (case.primary, "mean_iou")]
    return ", ".join(decide + ([f"{', '.join(others)} (secondary)"] if others else []))


def _median(name: str) -> str | None:
    """Of the metric whose statistic this is."""
    metric, _, statistic = name.rpartition("_")
    return f"{metric}_p50" if metric in LATENCIES and statistic in STATISTICS else None


def _sentence(rule: Rule, case: _Case) -> str:
    new, old = case.comparison.candidate, case.comparison.baseline
    because = rule.because.format(primary=NAMES[case.primary].words)
    open_ = [NAMES[name].words for name in case.unsettled()]
    if rule.action is Action.USE:
        gained = f" (better: {_listed(case, BETTER)})" if SAME in rule.primary else ""
        unsettled = f"; not settled: {', '.join(open_)}" if open_ else ""
        return f"Use {new}: {because}{gained}{_rest(case)}{unsettled}."
    if rule.action is Action.KEEP:
        if case.comparison.parity.word is Word.INCONCLUSIVE:
            open_ = [NAMES["mean_iou"].words, *open_]
        if rule.gain == NO and open_:  # what is open may be the gain
            return f"Keep {old}: {new} is not shown to be worth it, {because}; not settled: {', '.join(open_)}."
        return f"Keep {old}: {new} is not worth it, {because}."
    gains, losses = (_listed(case, side) for side in (BETTER, WORSE))
    parts = (f"better: {gains}" if gains else "", f"worse: {losses}" if losses else "")
    told = "; ".join(part for part in parts if part)
    lead = "No recommendation: " if rule.action is Action.NONE else f"It depends: {new} against {old}, "
    return f"{lead}{because}{f' ({told})' if told else ''}."


def _rest(case: _Case) -> str:
    """What is worse all the same where a candidate is to be used. Nothing that is shown to be worse goes unsaid."""
    inside = case.inside
    others = tuple(name for name in case.told if name not in inside)
    found = []
    if inside:
        same = {name.rpartition("_")[2] for name in inside} == {case.primary.rpartition("_")[2]}
        whole = "that latency" if same else "end-to-end latency, better in the same statistics,"
        found.append(
            f"worse is {'' if others else 'only '}{_listed(case, WORSE, inside)}, which {whole} contains already"
        )
    if others:
        found.append(f"worse, but not decided by: {_listed(case, WORSE, others)}")
    if small_loss(case.comparison.parity):
        found.append("it is less accurate, by less than the margin")
    return "; ".join(["", *found]) if found else "; nothing else is shown to be worse"


def _reasons(case: _Case) -> tuple[str, ...]:
    """Accuracy, the primary metric, then gains and losses, then what made no difference, then what is not settled."""
    found = [case.comparison.parity.sentence or "Accuracy: not measured."]
    if case.primary in case.comparison.effects:
        found.append(case.comparison.effects[case.primary].sentence)
    named = case.facts | case.told
    for side in (BETTER, WORSE, SAME):
        found += [named[name].sentence for name in named if case.sides[name] == side and _worth_telling(name, case)]
    return (*found, *(effect.sentence for effect in case.unsettled().values()))


def _worth_telling(name: str, case: _Case) -> bool:
    side = case.sides[name]
    return name not in BESIDE or side == WORSE or side != case.sides.get(_median(name) or "", side)


def _would_change(rule: Rule, case: _Case) -> list[str]:
    found = []
    effect = case.comparison.effects.get(case.primary)
    if rule.action is Action.USE:
        found += [
            f"If {NAMES[name].words} is what you are judged by: {named.sentence}"
            for name, named in (case.facts | case.told).items()
            if case.sides[name] == WORSE
        ]
    if case.quality == UNKNOWN:
        found.append("Images with known boxes, enough of them to show that accuracy holds within the margin.")
    if case.quality == LESS:
        found.append(_more_images(case.comparison))
    if case.quality in (LESS, WORSE):
        found.append(
            "A quantisation that keeps accuracy within the margin (leave the vision tower out, per-channel scales)."
        )
    if case.main == UNKNOWN and effect is not None:
        found.append(f"An answer on {NAMES[case.primary].words}: {_what_answers(effect)}.")
    if rule.action is Action.DEPENDS and WORSE in case.sides.values():
        gains, losses = _listed(case, BETTER) or "the rest", _listed(case, WORSE)
        found.append(f"What matters more to you: {gains} (better), or {losses} (worse).")
    if rule.action in (Action.KEEP, Action.DEPENDS) and case.main != BETTER:
        found.append(
            "Another load: longer answers favour smaller weights, as each token reads all of them; what more requests at once and longer prompts do differs by GPU and checkpoint."
        )
    if rule.action is Action.USE:
        found.append("Another load, GPU or server version: this holds for the load stated.")
    return found


def _more_images(comparison: Comparison) -> str:
    need = comparison.parity.needs_images
    many = f"about {need:,} images" if need else "many more images"
    return f"An answer on how large the loss of accuracy is: {many}, or another margin (--iou-margin) if a small loss may be had."


def _what_answers(effect: Effect) -> str:
    """What it would take to settle an effect."""
    if effect.needs_requests:
        return f"about {effect.needs_requests:,} requests per arm"
    note = effect.baseline.note or effect.candidate.note
    if effect.word is Word.NOT_MEASURED and note is not None:
        return note
    return "a steadier machine or a smaller question"


def missing_facts(comparison: Comparison) -> tuple[str, ...]:
    """Facts that a decision would want and this run did not measure.

    Energy, cost, capacity and accuracy are told target by target (client.core.analysis.unknown_of).
    """
    effects = comparison.effects
    absent = [name for name in COMPARED_ONLY if name not in effects or effects[name].word is Word.NOT_MEASURED]
    return tuple(NAMES[name].words for name in absent)
