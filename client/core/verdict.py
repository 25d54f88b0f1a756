"""Words for effects. A percentage never stands alone: it has a word, an interval and what it was judged against.

With r = candidate / baseline and its interval, m the smallest effect worth having, f the A/A noise floor of the same run:

    interval inside 1 ± m                               equivalent
    |r - 1| > max(f, m), interval excludes 1            faster / slower (higher / lower)
    |r - 1| > max(f, m), interval holds 1               inconclusive, with the n that would probably settle it
    |r - 1| <= max(f, m), interval within 1 ± 3 m       no difference (shown)
    |r - 1| <= f, interval excludes 1                   no difference (shown): this run differs as much from itself
    else                                                inconclusive
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec

from client.core.bootstrap import Contrast, z_of
from client.core.drift import Drifted
from client.core.findings import Effect, Estimate, Gate, Severity, Word
from client.core.names import COMPARED, NAMES, STATISTICS, Better, Name
from client.core.noise import noise_floor, rate_floor
from client.core.pairing import Sides, latency_contrast, rate_contrast
from client.core.phrases import Told, effect_sentence
from client.core.plan import Arrival, RunPlan
from client.core.stats import Interval, holm, least_n, two_sided_p

WIDE = 3
"""An interval that reaches beyond this many smallest effects is too wide to call it 'no difference', whatever its middle."""
ENOUGH_POWER = 2.04
"""(1 + 0.84 / 1.96)²: how many times n must grow so that 80 % of runs settle it, not half of them."""
MOST_REQUESTS = 1_000_000
NO_FLOOR = "no noise floor: an arm has fewer than two blocks that can be set against one another"
NOTHING: tuple[str, ...] = ()
ANSWERS, MEMORY = "quality", "memory"
STANDS: Mapping[str, tuple[str, ...]] = {
    # Of time alone: the same answers come, and the same memory is held, whatever it takes.
    "generator_late": (ANSWERS, MEMORY),
    "generator_saturated": (ANSWERS, MEMORY),
    "gc_pauses": (ANSWERS, MEMORY),
    "gpu_throttled": (ANSWERS, MEMORY),
    "gpu_clocks": (ANSWERS, MEMORY),
    "overload": (ANSWERS, MEMORY),
    "too_few_requests": (ANSWERS, MEMORY),  # for a median; accuracy and its passes have a least number of their own
    "other_process": (ANSWERS,),  # its memory is in the whole GPU's, and may be missing from the KV cache
    # Of the answers: which came is a selection, or what they were batched with is not known. Memory is reserved at the start.
    "errors": (MEMORY,),
    "errors_unequal": (MEMORY,),
    "worker_lost": (MEMORY,),
    "other_client": (MEMORY,),
    # Of what the servers are, or of what they were asked.
    "server_restarted": NOTHING,
    "version_mismatch": NOTHING,
    "engine_arguments": NOTHING,
    "other_question": NOTHING,
}
"""What a gate that spoils the whole run leaves standing. All else is spoiled, and by a gate that is not listed everything."""
BESIDES: Mapping[str, tuple[str, ...]] = {"prompt_tokens": (ANSWERS,)}
"""What a gate spoils beside its metrics: servers that see other pictures or templates answer another question."""
DIRECTIONS = (Word.FASTER, Word.SLOWER, Word.HIGHER, Word.LOWER)


@dataclass(frozen=True, slots=True)
class Judged:
    """A metric before its words: the contrast of logs, the noise floor, and the p-value against 'no effect'."""

    name: Name
    found: Contrast
    floor: float | None
    p: float | None

    @property
    def drift(self) -> float:
        """How much of each side of the interval is drift between two runs of the baseline, as a log."""
        return self.found.allowance if isinstance(self.found, Drifted) else 0.0


def judge(both: Sides, short: str, plan: RunPlan) -> Judged:
    metric, _, stat = short.rpartition("_")
    if stat in STATISTICS:
        found, floor = latency_contrast(both, metric, stat, plan), noise_floor(both, metric, stat)
    else:
        found, floor = rate_contrast(both, short, plan), rate_floor(both, short, plan)
    p = None if found.log is None else two_sided_p(z_of(found.log, plan.confidence))
    return Judged(NAMES[short], found, floor, p)


def word_of(log: Interval, name: Name, min_effect: float, floor: float | None) -> Word:
    """The table in the head of this file."""
    low, high, size = math.expm1(log.low), math.expm1(log.high), abs(math.expm1(log.value))
    if -min_effect <= low and high <= min_effect:
        return Word.EQUIVALENT
    inside_noise = floor is not None and size <= floor
    told_apart = low > 0 or high < 0
    if not inside_noise and size > min_effect:
        return direction(log.value, name) if told_apart else Word.INCONCLUSIVE
    narrow = max(-low, high) <= WIDE * min_effect
    return Word.NO_DIFFERENCE if narrow or (inside_noise and told_apart) else Word.INCONCLUSIVE


def direction(log_value: float, name: Name) -> Word:
    """Times are faster or slower, everything else is higher or lower."""
    if name.unit == "ms" and name.better is Better.LOWER:
        return Word.SLOWER if log_value > 0 else Word.FASTER
    return Word.HIGHER if log_value > 0 else Word.LOWER


def requests_needed(log: Interval, min_effect: float, n: int, drift: float = 0.0, warming: float = 0.0) -> int | None:
    """Requests for each arm after which the interval would probably leave out 1, or lie inside ± min_effect.

    None beyond a million, and where `drift` alone (that part of the half width which no number of requests narrows) keeps it open.
    `warming`: that part which stands for a warm-up. It has a fixed number of requests, so it falls as 1 / n, the rest as 1 / √n.
    """
    size, edge = abs(log.value), math.log1p(min_effect)
    wanted = (max(size if size > edge else edge - size, edge / 4) - drift) / math.sqrt(ENOUGH_POWER)
    if wanted <= 0:
        return None
    noise = max(log.half - drift - warming, 0.0)
    root = (noise + math.sqrt(noise**2 + 4 * wanted * warming)) / (2 * wanted)  # of n afterwards over n
    needed = math.ceil(n * root**2)
    return max(needed, n + 1) if needed <= MOST_REQUESTS else None


def effects(
    both: Sides, baseline: Mapping[str, Estimate], candidate: Mapping[str, Estimate], gates: tuple[Gate, ...], plan: RunPlan
) -> dict[str, Effect]:  # fmt: skip
    """Short name -> Effect, the primary first, with no other metrics beside these."""
    judged = judged_metrics(both, baseline, candidate, plan)
    return told_effects(judged, family(secondary_p(judged, plan)), both, baseline, candidate, gates, plan)


def judged_metrics(
    both: Sides, baseline: Mapping[str, Estimate], candidate: Mapping[str, Estimate], plan: RunPlan
) -> dict[str, Judged | None]:
    """The primary first; None where an arm has no number."""
    wanted = [
        plan.primary,
        *(short for short in COMPARED if short != plan.primary and not _told_elsewhere(short, plan)),
    ]
    judged: dict[str, Judged | None] = {}
    for short in wanted:
        a, b = baseline.get(NAMES[short].key), candidate.get(NAMES[short].key)
        if a is not None and b is not None:
            known = a.value is not None and b.value is not None and short != "error_rate"
            judged[short] = judge(both, short, plan) if known else None
    return judged


def secondary_p(judged: Mapping[str, Judged | None], plan: RunPlan) -> dict[str, float]:
    return {s: j.p for s, j in judged.items() if j is not None and j.p is not None and s != plan.primary}


@dataclass(frozen=True, slots=True)
class Family:
    """Holm-adjusted p-values by short name, `among` what: '17 secondary metrics'."""

    adjusted: Mapping[str, float]
    among: str
    loads: str = ""
    """Among how many loads the primary metric is, where it does not decide."""

    def lost(self, short: str, confidence: float) -> bool:
        adjusted = self.adjusted.get(short)
        return adjusted is not None and adjusted > 1 - confidence


def family(p_values: dict[str, float]) -> Family:
    return Family(holm(p_values), f"{len(p_values)} secondary metrics")


def told_effects(
    judged: Mapping[str, Judged | None], kin: Family, both: Sides, baseline: Mapping[str, Estimate], candidate: Mapping[str, Estimate],
    gates: tuple[Gate, ...], plan: RunPlan, *, first: bool = True
) -> dict[str, Effect]:  # fmt: skip
    """Secondary metrics, and at loads but the `first` the primary too, keep a direction only if Holm's correction lets them."""
    found = {}
    for short, case in judged.items():
        arms = baseline[NAMES[short].key], candidate[NAMES[short].key]
        word, needs, alone = _word(case, kin.lost(short, plan.confidence), plan, both, arms)
        told = replace(_told(short, both, plan), alone=alone, among=kin.among)
        if not first and told.primary:
            told = replace(told, primary=False, other_load=True, among=kin.loads)
        effect = msgspec.structs.replace(_effect(case, word, needs, arms, told), adjusted_p=kin.adjusted.get(short))
        spoiled = next((gate for gate in gates if spoils(gate, short)), None)
        found[short] = effect if spoiled is None else _spoiled(effect, spoiled)
    return found


def _told_elsewhere(short: str, plan: RunPlan) -> bool:
    """Errors have gates of their own; in a closed loop a request is sent when it is intended, so response time is E2E."""
    return short == "error_rate" or (short.startswith("response") and plan.load.arrival is Arrival.CLOSED)


OF_FAILURES = frozenset({"errors", "errors_unequal", "some_errors", "timeouts", "too_few_requests"})
"""Gates over how many requests failed, or were answered: the share that failed is what they are about, and its interval is exact at any n."""


def spoils(gate: Gate, short: str) -> bool:
    """Cost and energy of a request follow from how many are finished in a second."""
    if gate.severity is not Severity.INVALID or (short == "error_rate" and gate.code in OF_FAILURES):
        return False
    place = NAMES[short].place
    if not gate.metrics:
        return place not in STANDS.get(gate.code, NOTHING)
    follows = place in ("cost", "energy") and "requests_per_s" in gate.metrics
    return short in gate.metrics or follows or place in BESIDES.get(gate.code, NOTHING)


def _told(short: str, both: Sides, plan: RunPlan) -> Told:
    """The parts of the sentence that do not depend on numbers."""
    none = Estimate(note="not measured")
    who = (both.parts[1].target, both.parts[0].target)
    return Told(NAMES[short], who, none, none, none, None, None, plan.min_effect, short == plan.primary)


def apart(a: Estimate, b: Estimate) -> float | None:
    """Where no ratio is bounded (a quantile at its time-out, a rate of nothing): the log ratio that it has at least, if the intervals of
    both arms lie apart all the same; infinite over a rate of nothing. None: they do not."""
    if a.high is not None and b.low is not None and b.low > a.high:
        return math.log(b.low / a.high) if a.high > 0 else math.inf
    if b.high is not None and a.low is not None and a.low > b.high:
        return math.log(b.high / a.low) if b.high > 0 else -math.inf
    return None


def _word(
    judged: Judged | None, lost: bool, plan: RunPlan, both: Sides, arms: tuple[Estimate, Estimate]
) -> tuple[Word, int | None, Word | None]:
    """The word; for an inconclusive one the requests for each arm that would probably settle it, or the word that only Holm's correction took."""
    if judged is None:
        return Word.NOT_MEASURED, None, None
    log = judged.found.log
    if log is None:
        far = apart(*arms)
        return (Word.INCONCLUSIVE if far is None else direction(far, judged.name)), None, None
    word = word_of(log, judged.name, plan.min_effect, judged.floor)
    few = judged.found.n < least_n(0.5, plan.confidence)
    if few:
        word = Word.INCONCLUSIVE
    if lost and word in DIRECTIONS:
        return Word.INCONCLUSIVE, None, word
    if word is not Word.INCONCLUSIVE:
        return word, None, None
    return word, requests_needed(log, plan.min_effect, both.requests_per_arm, judged.drift, judged.found.warming), None


def ratio_of(judged: Judged | None) -> Estimate:
    """candidate / baseline with its interval; a note where it is not bounded."""
    if judged is None or judged.found.log is None:
        return Estimate(note="not measured")
    log = judged.found.log
    return Estimate(value=math.exp(log.value), low=math.exp(log.low), high=math.exp(log.high), n=judged.found.n)


def _effect(
    judged: Judged | None, word: Word, needs: int | None, arms: tuple[Estimate, Estimate], told: Told
) -> Effect:
    ratio, difference = ratio_of(judged), Estimate(note="not measured")
    if judged is not None and judged.found.log is not None:
        plain, n = judged.found.difference, judged.found.n
        if plain is not None:
            difference = Estimate(value=plain.value, low=plain.low, high=plain.high, n=n, unit=told.name.unit)
    floor = judged.floor if judged is not None else None
    drift = judged.drift if judged is not None else 0.0
    far = apart(*arms) if judged is not None and judged.found.log is None else None
    if far is not None and math.isfinite(far):
        end = math.exp(far)
        ratio = Estimate(
            low=end if far > 0 else None, high=end if far < 0 else None, note="not bounded on its far side"
        )
    whole = replace(told, a=arms[0], b=arms[1], ratio=ratio, floor=floor, needs=needs, drift=drift)
    unknown = floor is None and ratio.value is not None
    return Effect(
        metric=told.name.short, baseline=arms[0], candidate=arms[1], ratio=ratio, difference=difference, word=word,
        sentence=effect_sentence(word, whole), noise_floor=floor, noise_note=NO_FLOOR if unknown else None, needs_requests=needs, primary=told.primary,
    )  # fmt: skip


def _spoiled(effect: Effect, gate: Gate) -> Effect:
    """The numbers stay, so that one can see what would have been said; the word does not."""
    why = gate.fact if effect.primary else f"see {gate.code}"
    return Effect(
        metric=effect.metric, baseline=effect.baseline, candidate=effect.candidate, ratio=effect.ratio, difference=effect.difference,
        word=Word.INVALID, sentence=f"{NAMES[effect.metric].words}: INVALID ({why.rstrip('.')}).", noise_floor=effect.noise_floor,
        noise_note=effect.noise_note, primary=effect.primary, adjusted_p=effect.adjusted_p,
    )  # fmt: skip
