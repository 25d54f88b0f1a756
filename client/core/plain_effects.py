"""Effects of numbers that do not come from request records: memory, energy, cost. Exact ones have no interval to judge."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from client.core.bootstrap import z_of
from client.core.findings import Effect, Estimate, Gate, TargetFindings, Word
from client.core.names import NAMES, Name, estimate_of
from client.core.phrases import number, percent
from client.core.stats import Interval, two_sided_p
from client.core.verdict import DIRECTIONS, spoils, word_of

PLACES = ("memory", "energy", "cost")
SAMPLED = ("joules_per_request", "mean_power_w")
COST = "usd_per_1000_images"
NONE = Estimate(note="not measured")
SAME_PRICE = 1e-6
"""Relative: prices that differ by no more are one price."""


def plain_effects(
    baseline: TargetFindings,
    candidate: TargetFindings,
    min_effect: float,
    throughput: Effect | None = None,
    gates: tuple[Gate, ...] = (),
    adjusted: Mapping[str, float] = {},
    alpha: float = 0.05,
    floors: Mapping[str, tuple[float | None, str | None]] = {},
) -> dict[str, Effect]:
    """Short name -> Effect for what both targets have. `throughput`: the judged effect on requests per second, from which a cost follows.

    `adjusted`: p-values of `plain_p` after Holm's correction; above `alpha` a direction is not kept. `floors`: A/A noise floors, or why not.
    What spoils a whole run spoils its cost and energy; the memory that a server reserved at its start stands where only time is spoiled.
    """
    found = {}
    for name in NAMES.values():
        if name.place not in PLACES:
            continue
        a, b = estimate_of(baseline, name), estimate_of(candidate, name)
        if a is None or b is None or not a.value or not b.value or a.value <= 0 or b.value <= 0:
            continue
        ratio, word = ratio_of(a, b), None
        floor, why = floors.get(name.short, (None, None))
        p = adjusted.get("joules_per_request" if name.short == "kj_per_1000_images" else name.short)
        if throughput is not None and name.place == "cost":
            ratio, word = _of_throughput(ratio, throughput)
            floor, why = throughput.noise_floor, throughput.noise_note
            p = throughput.adjusted_p if word is not None else p
        spoiled = next((g.code for g in gates if spoils(g, name.short)), None)
        if spoiled is not None:
            effect = _spoiled(name, (a, b), ratio, spoiled)
        else:
            own = word or _word(name, ratio, min_effect, floor)
            lost = word is None and p is not None and p > alpha and own in DIRECTIONS
            effect = _effect(
                name, (a, b), ratio, Word.INCONCLUSIVE if lost else own, (baseline.name, candidate.name), floor
            )
        found[name.short] = msgspec.structs.replace(effect, noise_floor=floor, noise_note=why, adjusted_p=p)
    return found


def plain_p(
    baseline: TargetFindings, candidate: TargetFindings, confidence: float, rate: Estimate = NONE
) -> dict[str, float]:
    """p-values of 'no effect' of what is sampled and no other metric in other units: energy per request, power, and a cost at unequal
    prices. `rate`: the ratio of throughputs, which a cost follows."""
    found = {}
    for short in (*SAMPLED, COST):
        a, b = estimate_of(baseline, NAMES[short]), estimate_of(candidate, NAMES[short])
        ratio = ratio_of(a, b) if a is not None and b is not None else NONE
        if short == COST:
            ratio, equal = _at_prices(ratio, rate)
            if equal:
                continue
        if ratio.value is not None and ratio.low is not None and ratio.high is not None and ratio.low < ratio.high:
            log = Interval(*map(math.log, (ratio.value, ratio.low, ratio.high)))
            found[short] = two_sided_p(z_of(log, confidence))
    return found


def _at_prices(ratio: Estimate, rate: Estimate) -> tuple[Estimate, bool]:
    """A ratio of costs with the interval of that of throughputs, and whether both prices are one."""
    if ratio.value is None or rate.value is None or rate.low is None or rate.high is None:
        return ratio, False
    prices = ratio.value * rate.value
    follows = Estimate(value=ratio.value, low=prices / rate.high, high=prices / rate.low, n=rate.n)
    return follows, abs(prices - 1) < SAME_PRICE


def _of_throughput(ratio: Estimate, throughput: Effect) -> tuple[Estimate, Word | None]:
    """A cost is a price over a throughput: its ratio has the interval of the paired ratio of throughputs, and at equal prices its word, turned."""
    follows, equal = _at_prices(ratio, throughput.ratio)
    turned = {Word.HIGHER: Word.LOWER, Word.LOWER: Word.HIGHER}.get(throughput.word, throughput.word)
    return follows, turned if equal else None


def _word(name: Name, ratio: Estimate, min_effect: float, floor: float | None) -> Word:
    if ratio.value is None or ratio.low is None or ratio.high is None:
        return Word.INCONCLUSIVE
    return word_of(Interval(*map(math.log, (ratio.value, ratio.low, ratio.high))), name, min_effect, floor)


def _effect(
    name: Name, arms: tuple[Estimate, Estimate], ratio: Estimate, word: Word, who: tuple[str, str], floor: float | None
) -> Effect:
    a, b = arms
    low, high, value = ratio.low, ratio.high, ratio.value or 1.0
    exact = low == high
    told = (
        percent(value)
        if exact or low is None or high is None
        else f"{percent(value)} [{percent(low)}, {percent(high)}]"
    )
    if word is Word.NO_DIFFERENCE and floor is not None and abs(value - 1) <= floor:
        told += f", which is inside what the same server differed from itself by in this run (±{floor * 100:.1f} %)"
    sentence = f"{name.words} (secondary): {who[0]} {number(a)}, {who[1]} {number(b)}; {'no difference shown' if word is Word.NO_DIFFERENCE else word}: {told}."
    gap = (b.value or 0.0) - (a.value or 0.0)
    end = gap if exact else None
    difference = Estimate(value=gap, low=end, high=end, n=min(a.n, b.n), unit=name.unit)
    return Effect(
        metric=name.short, baseline=a, candidate=b, ratio=ratio, difference=difference, word=word, sentence=sentence
    )


def _spoiled(name: Name, arms: tuple[Estimate, Estimate], ratio: Estimate, code: str) -> Effect:
    none = Estimate(note="not measured")
    sentence = f"{name.words} (secondary): INVALID (see {code})."
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
