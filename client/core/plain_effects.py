"""Effects of numbers that do not come from request records: memory, energy, cost. Exact ones have no interval to judge."""

from __future__ import annotations

import math

from client.core.findings import Effect, Estimate, TargetFindings, Word
from client.core.names import NAMES, Name, estimate_of
from client.core.phrases import number, percent
from client.core.verdict import direction

PLACES = ("memory", "energy", "cost")


def plain_effects(baseline: TargetFindings, candidate: TargetFindings, min_effect: float) -> dict[str, Effect]:
    """Short name -> Effect for what both targets have."""
    found = {}
    for name in NAMES.values():
        if name.place not in PLACES:
            continue
        a, b = estimate_of(baseline, name), estimate_of(candidate, name)
        if a is not None and b is not None and a.value and b.value and a.value > 0 and b.value > 0:
            found[name.short] = _effect(name, a, b, min_effect, (baseline.name, candidate.name))
    return found


def _effect(name: Name, a: Estimate, b: Estimate, min_effect: float, who: tuple[str, str]) -> Effect:
    ratio = ratio_of(a, b)
    low, high = ratio.low, ratio.high
    value = ratio.value or 1.0
    if low is None or high is None:
        word = Word.INCONCLUSIVE
    elif 1 - min_effect <= low and high <= 1 + min_effect:
        word = Word.EQUIVALENT
    elif low > 1 or high < 1:
        word = direction(math.log(value), name)
    else:
        word = Word.INCONCLUSIVE
    exact = low == high
    told = (
        percent(value)
        if exact or low is None or high is None
        else f"{percent(value)} [{percent(low)}, {percent(high)}]"
    )
    sentence = f"{name.words}: {who[0]} {number(a)}, {who[1]} {number(b)}; {word}: {told}."
    gap = (b.value or 0.0) - (a.value or 0.0)
    difference = Estimate(
        value=gap, low=gap if exact else None, high=gap if exact else None, n=min(a.n, b.n), unit=name.unit
    )
    return Effect(
        metric=name.short, baseline=a, candidate=b, ratio=ratio, difference=difference, word=word, sentence=sentence
    )


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
