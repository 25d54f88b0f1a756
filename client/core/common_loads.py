"""Two saved runs of which one swept: what is left of both where they had the same load. A level's place in its sweep says nothing."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import msgspec
import numpy as np

from client.core.blocks import levels_of
from client.core.evidence import Evidence
from client.core.plan import Arrival, LoadProfile
from client.core.records import Phase, PhaseWindow, WorkerHealth
from client.core.table import PHASES
from client.errors import UsageError

OF_A_SWEEP = ("sweep", "arrival", "concurrency", "rate_per_s")
"""Fields of a load that its levels tell better."""
_LOADED = (Phase.MEASURE, Phase.EDGE)


def at_common_loads(a: Evidence, b: Evidence) -> tuple[Evidence, Evidence]:
    """Both runs with the levels that they have in common, in the order of `a`; as they are where they swept the same, or none did.
    Raises UsageError where no load is in both."""
    here, there = a.plan.load, b.plan.load
    if here.sweep == there.sweep:
        return a, b
    theirs = [_key(load) for load in levels_of(there)]
    pairs = [(n, theirs.index(key)) for n, key in enumerate(map(_key, levels_of(here))) if key in theirs]
    if not pairs:
        raise UsageError(
            f"RUN_A and RUN_B have no load in common: {loads_told(here)} against {loads_told(there)}.",
            "Name two runs that were sent the same load at least once.",
        )
    return _only(a, [n for n, _ in pairs]), _only(b, [n for _, n in pairs])


def sweeps_differ(a: LoadProfile, b: LoadProfile) -> str | None:
    """In words; None where they are one sweep, or none is."""
    if a.sweep == b.sweep:
        return None
    theirs = [_key(load) for load in levels_of(b)]
    both = [load for load in levels_of(a) if _key(load) in theirs]
    return f"One run was sent {loads_told(a)}, the other {loads_told(b)}: only what both had is shown, {_told(both)}."


def loads_told(load: LoadProfile) -> str:
    """'1 and 4 in flight', in the order in which they were sent."""
    return _told(levels_of(load))


def _told(levels: list[LoadProfile]) -> str:
    closed = [f"{one.concurrency:,}" for one in levels if one.arrival is Arrival.CLOSED]
    rates = [
        f"{one.rate_per_s:g}" for one in levels if one.rate_per_s is not None and one.arrival is not Arrival.CLOSED
    ]
    if len(closed) + len(rates) < len(levels):
        return "replayed arrivals"
    values = closed or rates
    listed = " and ".join(filter(None, (", ".join(values[:-1]), values[-1])))
    return f"{listed} {'in flight' if closed else 'requests/s'}"


def _key(load: LoadProfile) -> tuple[object, ...]:
    if load.arrival is Arrival.CLOSED:
        return (load.arrival, load.concurrency)
    return (load.arrival, load.rate_per_s, load.rate_end_per_s)


Leveled = TypeVar("Leveled", PhaseWindow, WorkerHealth)


def _only(run: Evidence, levels: list[int]) -> Evidence:
    """These levels, numbered anew."""
    load, new = run.plan.load, {old: n for n, old in enumerate(levels)}
    one = msgspec.structs.replace(levels_of(load)[levels[0]], sweep=None)
    if len(levels) > 1 and load.sweep is not None:
        values = tuple(load.sweep.values[n] for n in levels)
        one = msgspec.structs.replace(load, sweep=msgspec.structs.replace(load.sweep, values=values))
    table = run.records
    loaded = np.isin(table.phase, [PHASES.index(phase) for phase in _LOADED])
    keep = np.isin(table["level"], levels) | ~loaded
    records = table.only(np.flatnonzero(keep))
    renumbered = np.array([new.get(int(level), 0) for level in records["level"]], np.int64)
    records = dataclasses.replace(records, ints=records.ints | {"level": renumbered})

    def kept(items: tuple[Leveled, ...]) -> tuple[Leveled, ...]:
        left = (item for item in items if item.phase not in _LOADED or item.level in new)
        return tuple(msgspec.structs.replace(item, level=new.get(item.level, 0)) for item in left)

    plan = msgspec.structs.replace(run.plan, load=one)
    return msgspec.structs.replace(run, plan=plan, records=records, windows=kept(run.windows), health=kept(run.health))
