"""Flags over the measured series themselves: what their order in time says of how much they tell."""

from __future__ import annotations

import math
from collections.abc import Iterator

from client.core import limits
from client.core.autoregression import strongly, widening
from client.core.bootstrap import MANY
from client.core.dependence import STRONG
from client.core.findings import Gate
from client.core.gates import Look, Seen, flag, settled
from client.core.generator_gates import SPREAD
from client.core.pairing import Sides, courses_of, latency_contrast, log_ratios
from client.core.plan import Arrival, RunPlan
from client.core.settling_words import maybe_warming
from client.core.warmup import LOOKED_AT
from client.core.waves import in_waves

MORE = 4
"""Times as many requests: of a strong dependence a hundred pairs are too few, three hundred are enough (docs/statistics.md)."""


def strong_dependence(seen: Seen) -> Iterator[Gate]:
    """A state of the machine that lasts for many requests: the run holds few stretches of it, whatever the number of its requests."""
    if in_waves(seen.plan) > 1:  # few long waves look like it, and have their own flag
        return
    if any(gate.code == "not_settled" for gate in settled(seen)):  # told already, with what it is
        return
    for both in seen.sides if seen.steady is None else seen.steady.sides:
        logs = log_ratios(both, "e2e")
        if logs is None or len(logs) > MANY or strongly(logs) <= STRONG:
            continue
        worth = len(logs) / widening(logs, seen.plan.confidence) ** 2
        b, a = (part.target for part in both.parts[:2])
        yield flag(
            "strong_dependence",
            f"What {b} and {a} differ by changes slowly: neighbouring requests depend on one another so much that {len(logs)} pairs are worth some"
            f" {max(worth, 1):.0f} independent ones. Intervals count this, but so few tell it badly: they are wide, and a little too narrow all the same.",
            f"{_find(seen.plan)}, or ask for at least --requests {MORE * len(logs)}.",
            (a, b),
            SPREAD,
        )


def _find(plan: RunPlan) -> str:
    if plan.load.arrival is Arrival.CLOSED:
        return "Find what changes (another load, heat, a power cap)"
    return "In an open loop it is the queue: lower --rate"


def warm_up_likely(seen: Seen) -> Iterator[Gate]:
    """Not beyond doubt, so nothing is left out for it; what it may move is in the intervals (`client.core.beginnings`)."""
    if in_waves(seen.plan) > 1:  # a wave that differs from the rest looks like it
        return
    if any(gate.code == "not_settled" for gate in settled(seen)):
        return
    for both in () if seen.steady is None else seen.steady.sides:
        found = [(metric, *_warming(both, metric, seen.plan)) for metric in LOOKED_AT]
        metric, likely, wider = max(found, key=lambda one: (one[1] > limits.LIKELY_WARMING, one[2]))
        if likely > limits.LIKELY_WARMING or wider > limits.WIDER_FOR_WARMING:
            told = maybe_warming(both, metric.upper(), likely, wider, seen.plan.load.warmup)
            yield flag("warm_up_likely", *told, tuple(part.target for part in both.parts[:2]), SPREAD)


def _warming(both: Sides, metric: str, plan: RunPlan) -> tuple[float, float]:
    """How likely the ratio begins elsewhere, and how many times as wide the interval of its median is for it."""
    likely = courses_of(both, metric)
    if likely is None:
        return 0.0, 1.0
    found = latency_contrast(both, metric, "p50", plan)
    alone = 0.0 if found.log is None else found.log.half - found.warming
    return likely.reaching(math.log1p(limits.BEGINS_ELSEWHERE)), 1.0 + found.warming / alone if alone > 0 else 1.0


SERIES_LOOKS: tuple[Look, ...] = (strong_dependence, warm_up_likely)
