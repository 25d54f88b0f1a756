"""Flags over the measured series themselves: what their order in time says of how much they tell."""

from __future__ import annotations

from collections.abc import Iterator

from client.core.autoregression import strongly, widening
from client.core.bootstrap import MANY
from client.core.dependence import STRONG
from client.core.findings import Gate
from client.core.gates import Look, Seen, flag, settled
from client.core.generator_gates import SPREAD
from client.core.pairing import in_waves, log_ratios

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


SERIES_LOOKS: tuple[Look, ...] = (strong_dependence,)
