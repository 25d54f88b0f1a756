"""How far a run came that ended before its plan did: what each target was to measure at each load, and what it did."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from client.core.blocks import levels_of
from client.core.evidence import Evidence
from client.core.findings import Level
from client.core.plan import LoadProfile
from client.core.records import Outcome, Phase

OURS = (Outcome.CANCELLED, Outcome.LOST)
"""Ends that a request owes to the end of the run itself."""


@dataclass(frozen=True, slots=True)
class Reached:
    """At one load: requests that came to an end of their own, how many were planned (None: a load by time), and whether that was all."""

    done: int
    planned: int | None
    whole: bool


def was_cut(evidence: Evidence, target: str) -> bool:
    """Of two saved runs each has an end of its own."""
    if evidence.runs_cut is not None:
        return target in evidence.runs_cut
    return evidence.interrupted or not evidence.complete


def reached(evidence: Evidence, target: str, level: int) -> Reached:
    table = evidence.records
    rows = table.where(target, Phase.MEASURE, level=level)
    done = len(rows) - sum(len(table.where(target, Phase.MEASURE, outcome, level)) for outcome in OURS)
    load = _load(evidence, target, level)
    planned = None if load is None else load.requests
    if not was_cut(evidence, target):
        return Reached(done, planned, True)
    if planned is not None:
        return Reached(done, planned, done >= planned)
    blocks = len(np.unique(table["block"][rows]))
    wanted = 1 if load is None else max(1, load.blocks_per_arm)
    return Reached(done, None, blocks >= wanted and not _ended_in(evidence, target, level))


def reached_by_all(evidence: Evidence, level: int) -> dict[str, Reached]:
    return {target.name: reached(evidence, target.name, level) for target in evidence.plan.targets}


def label_of(level: Level) -> str:
    """With what became of the level, where the run ended in it or before it."""
    if not level.cut_short:
        return level.label
    return f"{level.label} ({'cut short' if any(level.cut_short.values()) else 'not reached'})"


def where_cut(evidence: Evidence) -> str:
    """'at 8 in flight (measured: 4 of 16 requests for bf16, 0 of 16 for fp8)'; '' where the load has one level that was not measured whole."""
    sweep = evidence.plan.load.sweep
    values = (None,) if sweep is None else sweep.values
    for number, value in enumerate(values):
        found = reached_by_all(evidence, number)
        if all(one.whole for one in found.values()):
            continue
        if sweep is None or value is None:
            return ""
        each = ", ".join(_counted(one, name, k == 0) for k, (name, one) in enumerate(found.items()))
        return f"at {level_label(sweep.knob, value)} (measured: {each})"
    return "after its load, which was measured as planned"


def level_label(knob: str, value: float) -> str:
    return f"{value:g} in flight" if knob == "concurrency" else f"{value:g} requests/s"


def _counted(one: Reached, name: str, first: bool) -> str:
    many = f"{one.done:,}" if one.planned is None else f"{one.done:,} of {one.planned:,}"
    return f"{many}{' requests' if first else ''} for {name}"


def _load(evidence: Evidence, target: str, level: int) -> LoadProfile | None:
    loads = levels_of(evidence.loads.get(target, evidence.plan.load))
    return loads[level] if level < len(loads) else None


def _ended_in(evidence: Evidence, target: str, level: int) -> bool:
    """The last measured request was of this load, and nothing came after the load."""
    table = evidence.records
    of = target if evidence.separate_runs else None
    rows = table.where(of, Phase.MEASURE)
    if len(table.where(of, Phase.QUALITY)) or not len(rows):
        return False
    return int(rows[np.argmax(table["intended_ns"][rows])]) in table.where(target, Phase.MEASURE, level=level)
