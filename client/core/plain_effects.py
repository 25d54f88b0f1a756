"""Effects of numbers that do not come from request records: memory, energy, cost. Exact ones have no interval to judge."""

from __future__ import annotations

import math

from client.core.findings import Effect, Estimate, Gate, TargetFindings, Word
from client.core.names import NAMES, Name, estimate_of
from client.core.phrases import number, percent
from client.core.stats import Interval
from client.core.verdict import spoils, word_of

PLACES = ("memory", "energy", "cost")
SAME_PRICE = 1e-6
"""Relative: prices that differ by no more are one price."""


def plain_effects(
    baseline: TargetFindings,
    candidate: TargetFindings,
    min_effect: float,
    throughput: Effect | None = None,
    gates: tuple[Gate, ...] = (),
) -> dict[str, Effect]:
    """Short name -> Effect for what both targets have. `throughput`: the judged effect on requests per second, from which a cost follows.

    What spoils a whole run spoils its cost and energy; the memory that a server reserved at its start stands.
    """
    found = {}
    for name in NAMES.values():
        if name.place not in PLACES:
            continue
        a, b = estimate_of(baseline, name), estimate_of(candidate, name)
        if a is None or b is None or not a.value or not b.value or a.value <= 0 or b.value <= 0:
            continue
        ratio, word = ratio_of(a, b), None
        if throughput is not None and name.place == "cost":
            ratio, word = _of_throughput(ratio, throughput)
        spoiled = next((g.code for g in gates if spoils(g, name.short) and (g.metrics or name.place != "memory")), None)
        if spoiled is not None:
            found[name.short] = _spoiled(name, (a, b), ratio, spoiled)
            continue
        found[name.short] = _effect(name, (a, b), ratio, word or _word(name, ratio, min_effect), (baseline.name, candidate.name))  # fmt: skip
    return found


def _of_throughput(ratio: Estimate, throughput: Effect) -> tuple[Estimate, Word | None]:
    """A cost is a price over a throughput: its ratio has the interval of the paired ratio of throughputs, and at equal prices its word, turned."""
    rate = throughput.ratio
    if ratio.value is None or rate.value is None or rate.low is None or rate.high is None:
        return ratio, None
    prices = ratio.value * rate.value
    follows = Estimate(value=ratio.value, low=prices / rate.high, high=prices / rate.low, n=rate.n)
    turned = {Word.HIGHER: Word.LOWER, Word.LOWER: Word.HIGHER}.get(throughput.word, throughput.word)
    return follows, turned if abs(prices - 1) < SAME_PRICE else None


def _word(name: Name, ratio: Estimate, min_effect: float) -> Word:
    if ratio.value is None or ratio.low is None or ratio.high is None:
        return Word.INCONCLUSIVE
    return word_of(Interval(*map(math.log, (ratio.value, ratio.low, ratio.high))), name, min_effect, None)


def _effect(name: Name, arms: tuple[Estimate, Estimate], ratio: Estimate, word: Word, who: tuple[str, str]) -> Effect:
    a, b = arms
    low, high, value = ratio.low, ratio.high, ratio.value or 1.0
    exact = low == high
    told = (
        percent(value)
        if exact or low is None or high is None
        else f"{percent(value)} [{percent(low)}, {percent(high)}]"
    )
    sentence = f"{name.words}: {who[0]} {number(a)}, {who[1]} {number(b)}; {'no difference shown' if word is Word.NO_DIFFERENCE else word}: {told}."
    gap = (b.value or 0.0) - (a.value or 0.0)
    end = gap if exact else None
    difference = Estimate(value=gap, low=end, high=end, n=min(a.n, b.n), unit=name.unit)
    return Effect(
        metric=name.short, baseline=a, candidate=b, ratio=ratio, difference=difference, word=word, sentence=sentence
    )


def _spoiled(name: Name, arms: tuple[Estimate, Estimate], ratio: Estimate, code: str) -> Effect:
    none = Estimate(note="not measured")
    sentence = f"{name.words}: INVALID (see {code})."
    return Effect(metric=name.short, baseline=arms[0], candidate=arms[1], ratio=ratio, difference=none, word=Word.INVALID, sentence=sentence)  # fmt: skip


def ratio_of(a: Estimate, b: Estimate) -> Estimate:
    """b / a of independent estimates; the ends add like standard errors of logs (Zou & Donner 2008)."""
    if a.value is None or b.value is None or a.value <= 0 or b.value <= 0:
        return Estimate(note="not measured")
    value = b.value / a.value
    ends = (a.low, a.high, b.low, b.high)
    if any(end is None or end <= 0 for end in ends):
        return Estimate(value=value, n=min(a.n, b.n), note="no interval")
    a_low, a_high, b_low, b_high = (math.log(end) for end in ends if end is not None)
    a_log, b_log = math.log(a.value), math.log(b.value)
    down = math.hypot(b_log - b_low, a_high - a_log)
    up = math.hypot(b_high - b_log, a_log - a_low)
    return Estimate(value=value, low=value * math.exp(-down), high=value * math.exp(up), n=min(a.n, b.n))
