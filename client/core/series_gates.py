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
from client.core.pairing import courses_of, log_ratios
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
            f"Find what changes (another load, heat, a power cap), or ask for at least --requests {MORE * len(logs)}.",
            (a, b),
            SPREAD,
        )


def warm_up_likely(seen: Seen) -> Iterator[Gate]:
    """Not beyond doubt, so nothing is left out for it; what it may move is in the intervals (`client.core.beginnings`)."""
    if in_waves(seen.plan) > 1:  # a wave that differs from the rest looks like it
        return
    if any(gate.code == "not_settled" for gate in settled(seen)):
        return
    for both in () if seen.steady is None else seen.steady.sides:
        for metric in LOOKED_AT:
            found = courses_of(both, metric)
            likely = 0.0 if found is None else found.reaching(math.log1p(limits.BEGINS_ELSEWHERE))
            if likely > limits.LIKELY_WARMING:
                yield flag(
                    "warm_up_likely",
                    *maybe_warming(both, likely, seen.plan.load.warmup, metric.upper()),
                    tuple(part.target for part in both.parts[:2]),
                    SPREAD,
                )
                break


SERIES_LOOKS: tuple[Look, ...] = (strong_dependence, warm_up_likely)
