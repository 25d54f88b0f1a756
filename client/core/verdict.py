"""Words for effects. A percentage never stands alone: it has a word, an interval and what it was judged against.

With r = candidate / baseline, its interval, m the smallest effect worth having, f the A/A noise floor of the same run:

    interval inside 1 ± m                                        equivalent
    interval excludes 1, |r - 1| > f                             faster / slower (higher / lower)
    interval excludes 1, |r - 1| <= f                            no difference (shown)
    interval holds 1, |r - 1| <= f, not wider than ± 5 m         no difference (shown)
    else                                                         inconclusive, with the n that would probably settle it
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from client.core.bootstrap import Contrast, z_of
from client.core.findings import Effect, Estimate, Gate, Severity, Word
from client.core.names import NAMES, STATISTICS, Better, Name
from client.core.pairing import Sides, latency_contrast, noise_floor, rate_contrast
from client.core.plan import RunPlan
from client.core.stats import Interval, holm, least_n, two_sided_p

WIDE = 5
"""An interval that reaches beyond this many smallest effects is too wide to call it 'no difference', whatever the noise floor."""
ENOUGH_POWER = 2.04
"""(1 + 0.84 / 1.96)²: how many times n must grow so that 80 % of runs settle it, not half of them."""
MOST_REQUESTS = 1_000_000


@dataclass(frozen=True, slots=True)
class Judged:
    """A metric before its words: the contrast of logs, noise, and its p-value against 'no effect'."""

    name: Name
    found: Contrast
    floor: float | None
    p: float | None


def judge(both: Sides, short: str, plan: RunPlan) -> Judged:
    name = NAMES[short]
    metric, _, stat = short.rpartition("_")
    if stat in STATISTICS:
        found = latency_contrast(both, metric, stat, plan)
        floor = noise_floor(both, metric, stat)
    else:
        found, floor = rate_contrast(both, short, plan), None
    p = None if found.log is None else two_sided_p(z_of(found.log, plan.confidence))
    return Judged(name, found, floor, p)


def word_of(log: Interval, better: Better, time_like: bool, min_effect: float, floor: float | None) -> Word:
    """The table in the head of this file."""
    low, high, size = math.expm1(log.low), math.expm1(log.high), abs(math.expm1(log.value))
    if -min_effect <= low and high <= min_effect:
        return Word.EQUIVALENT
    inside_noise = floor is not None and size <= floor
    if low > 0 or high < 0:
        if inside_noise:
            return Word.NO_DIFFERENCE
        return direction(log.value, better, time_like)
    if inside_noise and max(-low, high) <= WIDE * min_effect:
        return Word.NO_DIFFERENCE
    return Word.INCONCLUSIVE


def direction(log_value: float, better: Better, time_like: bool) -> Word:
    if time_like and better is Better.LOWER:
        return Word.SLOWER if log_value > 0 else Word.FASTER
    return Word.HIGHER if log_value > 0 else Word.LOWER


def requests_needed(log: Interval, min_effect: float, n: int) -> int | None:
    """Requests for each arm after which the interval would probably leave out 1, or lie inside ± min_effect; None beyond a million."""
    size, edge = abs(log.value), math.log1p(min_effect)
    wanted = max(size if size > edge else edge - size, edge / 4)
    needed = math.ceil(n * ENOUGH_POWER * (log.half / wanted) ** 2)
    return max(needed, n + 1) if needed <= MOST_REQUESTS else None


def effects(
    both: Sides,
    baseline: dict[str, Estimate],
    candidate: dict[str, Estimate],
    gates: tuple[Gate, ...],
    plan: RunPlan,
    precision: tuple[str, str],
) -> dict[str, Effect]:
    """Short name -> Effect, the primary first. Secondary metrics get a direction only if Holm's correction lets them keep it."""
    wanted = [
        plan.primary,
        *(short for short, n in NAMES.items() if n.place == "metrics" and short not in (plan.primary, "error_rate")),
    ]
    judged = {}
    for short in wanted:
        key = NAMES[short].key
        if key in baseline and key in candidate and not (baseline[key].value is None or candidate[key].value is None):
            judged[short] = judge(both, short, plan)
    adjusted = holm({short: j.p for short, j in judged.items() if j.p is not None and short != plan.primary})
    found = {}
    for short in wanted:
        key = NAMES[short].key
        a, b = baseline.get(key), candidate.get(key)
        if a is None or b is None:
            continue
        spoiled = next(
            (g for g in gates if g.severity is Severity.INVALID and (not g.metrics or short in g.metrics)), None
        )
        found[short] = _effect(
            judged.get(short), NAMES[short], a, b, spoiled, adjusted.get(short), both, plan, precision
        )
    return found


def _effect(
    judged: Judged | None, name: Name, a: Estimate, b: Estimate, spoiled: Gate | None, adjusted: float | None, both: Sides, plan: RunPlan, who: tuple[str, str],
) -> Effect:  # fmt: skip
    primary = name.short == plan.primary
    log = judged.found.log if judged is not None else None
    ratio = difference = Estimate(unit="", note="not measured")
    n = judged.found.n if judged is not None else 0
    if judged is not None and log is not None:
        ratio = Estimate(value=math.exp(log.value), low=math.exp(log.low), high=math.exp(log.high), n=n)
        plain = judged.found.difference
        if plain is not None:
            difference = Estimate(value=plain.value, low=plain.low, high=plain.high, n=n, unit=name.unit)
    word, needs = _word(judged, name, adjusted, plan, both)
    floor = judged.floor if judged is not None else None
    sentence = _sentence(word, name, a, b, ratio, floor, needs, plan, who, judged)
    if spoiled is not None:
        word, needs = Word.INVALID, None
        sentence = f"{name.words}: INVALID. {spoiled.fact}"
    return Effect(
        metric=name.short, baseline=a, candidate=b, ratio=ratio, difference=difference, word=word, sentence=sentence,
        noise_floor=floor, needs_requests=needs, primary=primary,
    )  # fmt: skip


def _word(
    judged: Judged | None, name: Name, adjusted: float | None, plan: RunPlan, both: Sides
) -> tuple[Word, int | None]:
    if judged is None:
        return Word.NOT_MEASURED, None
    log = judged.found.log
    if log is None:
        return Word.INCONCLUSIVE, None
    time_like = name.unit == "ms"
    word = word_of(log, name.better, time_like, plan.min_effect, judged.floor)
    if judged.found.n < least_n(0.5, plan.confidence) and word is not Word.INVALID:
        word = Word.INCONCLUSIVE
    if adjusted is not None and adjusted > 1 - plan.confidence and word not in (Word.EQUIVALENT, Word.NO_DIFFERENCE):
        word = Word.INCONCLUSIVE
    needs = requests_needed(log, plan.min_effect, both.requests_per_arm) if word is Word.INCONCLUSIVE else None
    return word, needs


def percent(ratio: float) -> str:
    """Signed change: 0.631 -> `−36.9 %`."""
    value = (ratio - 1) * 100
    sign = "−" if round(value, 1) < 0 else "+" if round(value, 1) > 0 else "±"
    return f"{sign}{abs(value):.1f} %"


def number(estimate: Estimate) -> str:
    if estimate.value is None:
        return estimate.note or "not measured"
    digits = f"{estimate.value:,.1f}" if abs(estimate.value) >= 10 else f"{estimate.value:,.3g}"
    return f"{digits} {estimate.unit}".strip()


def _sentence(
    word: Word, name: Name, a: Estimate, b: Estimate, ratio: Estimate, floor: float | None, needs: int | None, plan: RunPlan, who: tuple[str, str], judged: Judged | None,
) -> str:  # fmt: skip
    role = "" if name.short == plan.primary else " (secondary)"
    head = f"{name.words}{role}: {who[0]} {number(a)}, {who[1]} {number(b)}"
    if word is Word.NOT_MEASURED:
        return f"{name.words}{role}: not measured ({a.note or b.note or 'no numbers'})."
    if ratio.value is None or ratio.low is None or ratio.high is None:
        return f"{head}: inconclusive, no bounded interval for the ratio ({_why_unbounded(a, b)})."
    interval = f"{percent(ratio.value)} [{percent(ratio.low)}, {percent(ratio.high)}]"
    if word is Word.EQUIVALENT:
        tail = f"equivalent: {interval} lies inside ±{plan.min_effect:.0%}, the smallest effect worth having"
    elif word is Word.NO_DIFFERENCE:
        tail = f"no difference shown: {interval}"
        if floor is not None:
            tail += f", inside what the same server differed from itself by in this run (±{floor * 100:.1f} %)"
    elif word is Word.INCONCLUSIVE:
        tail = f"inconclusive: {interval} could be more or less than ±{plan.min_effect:.0%}"
        tail += f"; about {needs:,} requests per arm would probably settle it" if needs else ""
    else:
        small = abs(ratio.value - 1) < plan.min_effect or min(abs(ratio.low - 1), abs(ratio.high - 1)) < plan.min_effect
        tail = f"{who[1]} is {word} than {who[0]}: {interval}"
        tail += f", perhaps by less than the {plan.min_effect:.0%} worth having" if small else ""
    return f"{head}; {tail}."


def _why_unbounded(a: Estimate, b: Estimate) -> str:
    notes = [note for note in (a.note, b.note) if note]
    return "; ".join(notes) if notes else "too few requests"
