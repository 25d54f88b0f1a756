"""What to do, over all candidates and all loads: the rules (`client.core.recommend`) asked for each comparison by itself."""

from __future__ import annotations

import msgspec

from client.core.findings import Action, Comparison, Gate, Level, Recommendation
from client.core.gates import about
from client.core.levels import over_levels
from client.core.recommend import quality_of, recommend
from client.core.verdict import spoils


def spoiled_by(gates: tuple[Gate, ...], primary: str) -> tuple[str, ...]:
    """Facts of the gates that spoil the run or its primary metric."""
    return tuple(gate.fact for gate in gates if spoils(gate, primary))


def advice_on(
    comparisons: tuple[Comparison, ...], gates: tuple[Gate, ...], primary: str, load: str, missing: tuple[str, ...], steps: tuple[Level, ...]
) -> Recommendation:  # fmt: skip
    """The first candidate's, with the sentences of all."""
    if not comparisons:
        return Recommendation(action=Action.NONE, sentence="Nothing was compared: one target was measured.", load=load)
    every = [_of_one(pair, gates, primary, load, missing, steps) for pair in comparisons]
    if len(every) == 1:
        return every[0]
    told = " ".join(f"{pair.candidate}: {one.sentence}" for pair, one in zip(comparisons, every, strict=True))
    return msgspec.structs.replace(every[0], sentence=told)


def _of_one(
    pair: Comparison, gates: tuple[Gate, ...], primary: str, load: str, missing: tuple[str, ...], steps: tuple[Level, ...]
) -> Recommendation:  # fmt: skip
    """What spoils another comparison is no matter of this one."""
    reasons = spoiled_by(about(gates, pair.baseline, pair.candidate), primary)
    advice = recommend(pair, primary, load, reasons[0] if reasons else None, missing)
    return over_levels(advice, steps, pair.candidate, primary, quality_of(pair))
