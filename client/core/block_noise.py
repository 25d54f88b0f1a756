"""The A/A noise floor of what is measured block by block: energy per request and power of one server against itself in the same run."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

LEAST_BLOCKS = 4
"""Of an arm that is split + - - +: with fewer, drift would be taken for noise, or noise for nothing."""


class EnergyBlock(msgspec.Struct, frozen=True, kw_only=True):
    """Energy of one measured window, and what it was spent on. `number`: of the block; the same pictures for every target."""

    number: int | None
    start_ns: int
    joules: float
    requests: float
    seconds: float


def energy_floor(
    baseline: Sequence[EnergyBlock], candidate: Sequence[EnergyBlock], per: str
) -> tuple[float | None, str | None]:
    """As a ratio minus 1, and why there is none. `per` is `requests` or `seconds`.

    Serial (the baseline before and after the candidate): (B2 / A2) / (B1 / A1) over the same blocks, halved. Else each arm's blocks
    + - - + against one another, scaled from half an arm to a whole one; the larger of both arms.
    """
    if not baseline or not candidate:
        return None, "no noise floor: energy is not known block by block"
    looks = _looks(baseline, candidate)
    if looks is not None:
        (a1, b1), (a2, b2) = [[_rate(part, per) for part in look] for look in looks]
        return (
            (_gap(b1 / a1, b2 / a2, 0.5), None)
            if min(a1, a2, b1, b2) > 0
            else (None, "no noise floor: a block without energy")
        )
    few = min(len(baseline), len(candidate))
    if few < LEAST_BLOCKS:
        return None, f"no noise floor: {few} block{'' if few == 1 else 's'} of an arm, needs {LEAST_BLOCKS}"
    gaps = []
    for arm in (baseline, candidate):
        halves = [
            _rate([block for k, block in enumerate(arm) if (k % 4 in (0, 3)) is first], per) for first in (True, False)
        ]
        if min(halves) > 0:
            gaps.append(_gap(halves[0], halves[1], math.sqrt(0.5)))
    return (max(gaps), None) if gaps else (None, "no noise floor: a block without energy")


_Look = tuple[Sequence[EnergyBlock], Sequence[EnergyBlock]]


def _looks(baseline: Sequence[EnergyBlock], candidate: Sequence[EnergyBlock]) -> tuple[_Look, _Look] | None:
    """(baseline, candidate) of the first and of the second A; None where the baseline was not measured around the candidate."""
    first = [block for block in baseline if block.start_ns < min(b.start_ns for b in candidate)]
    second = [block for block in baseline if block.start_ns > max(b.start_ns for b in candidate)]
    if len(first) + len(second) < len(baseline) or not first or not second:
        return None
    parts = []
    for mine in (first, second):
        numbers = {block.number for block in mine}
        parts.append((mine, [block for block in candidate if block.number in numbers]))
    return (parts[0], parts[1]) if parts[0][1] and parts[1][1] else None


def _rate(blocks: Sequence[EnergyBlock], per: str) -> float:
    """Joules per unit; 0 where there is none to divide by."""
    below = sum(getattr(block, per) for block in blocks)
    return sum(block.joules for block in blocks) / below if below > 0 else 0.0


def _gap(first: float, second: float, scale: float) -> float:
    return math.expm1(abs(math.log(second / first)) * scale)
