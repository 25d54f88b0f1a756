"""The recommendation: a table of rules over what was found, read from the top; the first that fits decides.

`quality` and `primary` are the candidate's: better, same, worse or unknown. `gain` and `loss` say whether any of the other facts
(latency and its tail, time to first token, time per token, throughput, KV capacity, cost, energy) is better or worse beyond the smallest effect
worth having; better answers are a gain too. What is not settled is neither, and is named.
"""

from __future__ import annotations

from dataclasses import dataclass

from client.core.findings import Action, Comparison, Effect, Recommendation, Word
from client.core.names import NAMES, Better

BETTER, SAME, WORSE, UNKNOWN = "better", "same", "worse", "unknown"
ANY = (BETTER, SAME, WORSE, UNKNOWN)
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


RULES: tuple[Rule, ...] = (
    Rule((WORSE,), ANY, EITHER, EITHER, Action.KEEP, "its answers are worse by more than the margin"),
    Rule(ANY, (UNKNOWN,), NO, NO, Action.NONE, "the primary metric is not settled"),
    Rule(ANY, (WORSE,), NO, EITHER, Action.KEEP, "it is worse on the metric that decides, and nothing else is gained"),
    Rule(ANY, (SAME,), NO, EITHER, Action.KEEP, "nothing worth having is gained"),
    Rule(ANY, (UNKNOWN,), NO, YES, Action.KEEP, "no gain is shown, and a loss is"),
    Rule((UNKNOWN,), (BETTER,), EITHER, EITHER, Action.DEPENDS, "it is better on the metric that decides, but its accuracy was not shown to hold"),
    Rule((UNKNOWN,), ANY, EITHER, EITHER, Action.DEPENDS, "something is gained, but its accuracy was not shown to hold"),
    Rule(NOT_WORSE, (BETTER,), EITHER, NO, Action.USE, "it is better on the metric that decides, and its answers hold"),
    Rule(NOT_WORSE, (SAME,), YES, NO, Action.USE, "no loss is shown on the metric that decides, its answers hold, and something is gained"),
    Rule(NOT_WORSE, (UNKNOWN,), YES, NO, Action.DEPENDS, "something is gained, but the primary metric is not settled"),
    Rule(NOT_WORSE, ANY, EITHER, EITHER, Action.DEPENDS, "it wins on some counts and loses on others"),
)  # fmt: skip

FACTS = (
    "e2e_p50",
    "response_p50",
    "e2e_p95",
    "e2e_p99",
    "response_p95",
    "response_p99",
    "ttft_p50",
    "ttft_p95",
    "tpot_p50",
    "requests_per_s",
    "output_tokens_per_s",
    "goodput_per_s",
    "kv_cache_tokens",
    "usd_per_1000_images",
    "joules_per_request",
)
"""The other facts, in the order in which reasons are told."""
PARTS = ("ttft_p50", "ttft_p95", "tpot_p50")
"""What end-to-end latency is made of. Where the whole is the primary metric and is better, a part that is worse is told, not decided by:
its loss is in the whole already."""
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
    return WORSE if word in (Word.WORSE, Word.LOWER) else UNKNOWN


def recommend(
    comparison: Comparison, primary: str, load: str, spoiled: str | None, not_measured: tuple[str, ...]
) -> Recommendation:
    """`spoiled` says why the run or its primary metric is INVALID; None when it is not."""
    new, old = comparison.candidate, comparison.baseline
    if spoiled is not None:
        sentence = f"No recommendation between {new} and {old}: {spoiled}"
        return Recommendation(action=Action.NONE, sentence=sentence, load=load, not_measured=not_measured)
    quality, main = quality_of(comparison), side_of(comparison.effects.get(primary))
    facts = {name: comparison.effects[name] for name in FACTS if name in comparison.effects and name != primary}
    sides = {name: side_of(effect) for name, effect in facts.items()}
    inside = PARTS if main == BETTER and primary.startswith(("e2e", "response")) else ()
    gain = BETTER in (quality, *sides.values())
    loss = any(side == WORSE for name, side in sides.items() if name not in inside)
    everything = {primary: main, "mean_iou": quality} | sides
    rule = next(r for r in RULES if quality in r.quality and main in r.primary and gain in r.gain and loss in r.loss)
    return Recommendation(
        action=rule.action,
        sentence=_sentence(rule, new, old, everything, ", ".join(NAMES[name].words for name in _unsettled(facts))),
        load=load,
        reasons=_reasons(comparison, primary, facts, sides),
        would_change=tuple(_would_change(rule, comparison, primary, quality, main, everything)),
        not_measured=not_measured,
    )


def _listed(sides: dict[str, str], side: str) -> str:
    """Names of one side; a tail only where the median of the same metric is not among them already. `sides` begins with the primary
    metric and with accuracy, which has a margin of its own: all others are told to be secondary."""
    names = [name for name, found in sides.items() if found == side]
    shown = [name for name in names if not _is_tail(name) or f"{name.rpartition('_')[0]}_p50" not in names]
    decide = [NAMES[name].words for name in shown if name in list(sides)[:2]]
    others = [NAMES[name].words for name in shown if name not in list(sides)[:2]]
    return ", ".join(decide + ([f"{', '.join(others)} (secondary)"] if others else []))


def _is_tail(name: str) -> bool:
    return name.endswith(("_p95", "_p99"))


def _sentence(rule: Rule, new: str, old: str, sides: dict[str, str], open_: str) -> str:
    gains, losses = (_listed(sides, side) for side in (BETTER, WORSE))
    if rule.action is Action.USE:
        rest = (
            f"; worse is only {losses}, which that latency contains already"
            if losses
            else "; nothing else is shown to be worse"
        )
        gained = f" (better: {gains})" if SAME in rule.primary else ""
        return f"Use {new}: {rule.because}{gained}{rest}{f'; not settled: {open_}' if open_ else ''}."
    if rule.action is Action.KEEP:
        return f"Keep {old}: {new} is not worth it, {rule.because}."
    if rule.action is Action.NONE:
        return f"No recommendation: {rule.because}."
    told = "; ".join(
        part for part in (f"better: {gains}" if gains else "", f"worse: {losses}" if losses else "") if part
    )
    return f"It depends: {new} against {old}, {rule.because}{f' ({told})' if told else ''}."


def _unsettled(facts: dict[str, Effect]) -> dict[str, Effect]:
    """Measured, but without an answer: inconclusive, or spoiled."""
    return {name: e for name, e in facts.items() if e.word in (Word.INCONCLUSIVE, Word.INVALID)}


def _reasons(comparison: Comparison, primary: str, facts: dict[str, Effect], sides: dict[str, str]) -> tuple[str, ...]:
    """Accuracy, the primary metric, then gains and losses, then what made no difference, then what is not settled."""
    found = [comparison.parity.sentence or "Accuracy: not measured."]
    if primary in comparison.effects:
        found.append(comparison.effects[primary].sentence)
    for side in (BETTER, WORSE, SAME):
        found += [facts[name].sentence for name in facts if sides[name] == side]
    found += [effect.sentence for effect in _unsettled(facts).values()]
    return tuple(found)


def _would_change(
    rule: Rule, comparison: Comparison, primary: str, quality: str, main: str, sides: dict[str, str]
) -> list[str]:
    found = []
    effect = comparison.effects.get(primary)
    if rule.action is Action.USE:
        found += [
            f"If {NAMES[name].words} is what you are judged by: {comparison.effects[name].sentence}"
            for name in PARTS
            if sides.get(name) == WORSE
        ]
    if quality == UNKNOWN:
        found.append("Images with known boxes, enough of them to show that accuracy holds within the margin.")
    if quality == WORSE:
        found.append(
            "A quantisation that keeps accuracy within the margin (leave the vision tower out, per-channel scales)."
        )
    if main == UNKNOWN and effect is not None:
        found.append(f"An answer on {NAMES[primary].words}: {_what_answers(effect)}.")
    if rule.action is Action.DEPENDS and WORSE in sides.values():
        found.append(
            f"What matters more to you: {_listed(sides, BETTER) or 'the rest'} (better), or {_listed(sides, WORSE)} (worse)."
        )
    if rule.action in (Action.KEEP, Action.DEPENDS) and main != BETTER:
        found.append(
            "Another load: longer answers favour smaller weights, as each token reads all of them; what more requests at once and longer prompts do differs by GPU and checkpoint."
        )
    if rule.action is Action.USE:
        found.append("Another load, GPU or server version: this holds for the load stated.")
    return found


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
