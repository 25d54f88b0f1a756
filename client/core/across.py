"""Two saved runs as one piece of evidence: target `a` from the first, `b` from the second.

Nothing pairs the two in time. Where both runs sent the same pictures, requests are paired by image; that takes out what pictures differ
by, and nothing else.
"""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import msgspec
import numpy as np

from client.core.common_loads import OF_A_SWEEP, at_common_loads, sweeps_differ
from client.core.conditions import parse
from client.core.effect_size import read_min_effect
from client.core.evidence import Evidence, GpuEvidence, ServerEvidence, restarts_expected
from client.core.gpu import by_target
from client.core.plan import Design, RunPlan, Target
from client.core.records import Outcome, PhaseWindow, WorkerHealth
from client.core.table import RecordTable
from client.errors import UsageError

A, B = "a", "b"
NOT_OF_ONE = (
    "used_v1", "used_v2", "reserved", "total", "gpu_util", "mem_util", "power_mw", "power_instant_mw", "energy_mj", "processes",
)  # fmt: skip
"""Of a GPU sample: what counts every server on the GPU."""
LENGTH = ("requests", "duration_s", "warmup", "blocks_per_arm", "workers")
"""Parts of a load in which two runs may differ and still be alike."""


def joined(
    a: Evidence, b: Evidence, *, targets: tuple[str | None, str | None] = (None, None), min_effect: str | None = None, fail_if: tuple[str, ...] = ()
) -> Evidence:  # fmt: skip
    """Raises UsageError when a run lacks the target that was asked for, or a condition cannot be read."""
    first = _chosen(a, targets[0], None)
    second = _chosen(b, targets[1], first.name)
    for text in fail_if:
        parse(text, (A, B))
    _refuse_the_same(a, first, b, second)
    whole = (a, b)
    a, b = at_common_loads(*whole)
    shift = _behind(a.records.only(a.records.where(first.name)), b.records.only(b.records.where(second.name)))
    theirs = _with_own_pictures(a, b)
    plan = msgspec.structs.replace(
        a.plan,
        targets=(_renamed(first, A), _renamed(second, B)),
        design=Design.SERIAL,
        min_effect=read_min_effect(min_effect) if min_effect is not None else a.plan.min_effect,
        fail_if=fail_if,
        simulate=a.plan.simulate or b.plan.simulate,
    )
    arms = ((a, first.name, A, 0), (theirs, second.name, B, shift))
    return Evidence(
        run_id=f"a: {first.name} of {a.run_id}, b: {second.name} of {b.run_id}",
        started_utc=a.started_utc,
        plan=plan,
        records=_one_table(a.records, first.name, theirs.records, second.name, shift),
        images=a.images | theirs.images,
        windows=tuple(_moved(w, new, by) for run, name, new, by in arms for w in run.windows if w.target == name),
        health=tuple(_moved(h, new, by) for run, name, new, by in arms for h in run.health if h.target == name),
        servers={A: _server(a, first.name, A), B: _server(b, second.name, B)},
        gpu=tuple(_gpu(run, name, new, by) for run, name, new, by in arms),
        torn_lines=a.torn_lines + b.torn_lines,
        interrupted=a.interrupted or b.interrupted,
        complete=a.complete and b.complete,
        host={f"a.{k}": v for k, v in a.host.items()} | {f"b.{k}": v for k, v in b.host.items()},
        versions={f"a.{k}": v for k, v in a.versions.items()} | {f"b.{k}": v for k, v in b.versions.items()},
        separate_runs=True,
        runs_cut=tuple(new for run, _, new, _ in arms if run.interrupted or not run.complete),
        loads={new: run.plan.load for run, _, new, _ in arms},
        restarts_expected=tuple(new for run, name, new, _ in arms if name in restarts_expected(run)),
        plan_differences=tuple(runs_differ(*whole)),
        common_loads=sweeps_differ(*(run.plan.load for run in whole)),
    )


def _refuse_the_same(a: Evidence, first: Target, b: Evidence, second: Target) -> None:
    if a.run_id != b.run_id:
        return
    if first.name == second.name:
        raise UsageError(
            f"RUN_A and RUN_B are one run ({a.run_id}), and {first.name} would be compared with itself.",
            "Name another run, or another target with --target-b.",
        )
    raise UsageError(
        f"RUN_A and RUN_B are one run ({a.run_id}), which paired {first.name} and {second.name} in time.",
        "python -m client.report RUN_A has that comparison; as two runs it would be a weaker one.",
    )


Timed = TypeVar("Timed", PhaseWindow, WorkerHealth)


def _moved(item: Timed, target: str, by_ns: int) -> Timed:
    return msgspec.structs.replace(item, target=target, start_ns=item.start_ns + by_ns, end_ns=item.end_ns + by_ns)


def _gpu(run: Evidence, name: str, new: str, by_ns: int) -> GpuEvidence:
    """Of a GPU that served other targets too, clocks and slowdowns only: its memory, power and processes are not of this target alone."""
    found = by_target(run.gpu, name)
    alone = found.target is not None or found.shared_by == (name,) or len(run.plan.targets) == 1
    rest: dict[str, None] = {} if alone else dict.fromkeys(NOT_OF_ONE)
    samples = tuple(msgspec.structs.replace(s, mono_ns=s.mono_ns + by_ns, **rest) for s in found.samples)
    return msgspec.structs.replace(found, target=new, shared_by=(), samples=samples)


def _with_own_pictures(a: Evidence, b: Evidence) -> Evidence:
    """`b` with other names for pictures that only share a name with one of `a`: another seed, a folder that changed."""
    if not _other_pictures(a, b):
        return b
    names = {name: f"{name} (b)" for name in b.records.image_ids}
    images = {names.get(name, name): msgspec.structs.replace(fact, image_id=names.get(name, name)) for name, fact in b.images.items()}  # fmt: skip
    records = dataclasses.replace(b.records, image_ids=tuple(names.values()))
    return msgspec.structs.replace(b, images=images, records=records)


def _other_pictures(a: Evidence, b: Evidence) -> bool:
    common = a.images.keys() & b.images.keys()
    if not common:  # runs of which nothing is known of the pictures: drawn and varied by the seed
        return a.plan.seed != b.plan.seed
    return any(a.images[name].sha256 != b.images[name].sha256 for name in common)


def _chosen(evidence: Evidence, wanted: str | None, preferred: str | None) -> Target:
    names = {target.name: target for target in evidence.plan.targets}
    if wanted is not None and wanted not in names:
        raise UsageError(f"run {evidence.run_id} has no target {wanted!r}.", f"It has: {', '.join(names)}.")
    return names[wanted] if wanted is not None else names.get(preferred or "", evidence.plan.targets[0])


def _renamed(target: Target, name: str) -> Target:
    return msgspec.structs.replace(target, name=name)


def _server(evidence: Evidence, name: str, new: str) -> ServerEvidence:
    return msgspec.structs.replace(evidence.servers.get(name, ServerEvidence(target=name)), target=new)


def _behind(left: RecordTable, right: RecordTable) -> int:
    """Clocks of different hosts need not agree: by how much the second run's are moved, so that it lies behind the first."""
    ends = [int(left["intended_ns"].max()) if len(left) else 0, int(np.max(left["done_ns"])) if len(left) else 0]
    start = int(right["intended_ns"].min()) if len(right) else 0
    return max(ends) + 1_000_000_000 - start


def _one_table(a: RecordTable, a_name: str, b: RecordTable, b_name: str, shift: int) -> RecordTable:
    """The rows of one target of each."""
    left, right = a.only(a.where(a_name)).renamed({a_name: A}), b.only(b.where(b_name)).renamed({b_name: B})
    return left.followed_by(right.moved(shift))


def runs_differ(a: Evidence, b: Evidence) -> list[str]:
    """What was asked differently in the two runs, in words; time-outs where one was reached."""
    told = plans_differ(a.plan, b.plan)
    if a.plan.simulated != b.plan.simulated:
        told.insert(0, " / ".join("a simulated server" if run.plan.simulated else "a real one" for run in (a, b)))
    censored = any(o.censored for run in (a, b) for o in Outcome if len(run.records.where(outcome=o)))
    if censored:
        told += _fields_differ(a.plan.timeouts, b.plan.timeouts, "time-out ")
    return told


def plans_differ(a: RunPlan, b: RunPlan) -> list[str]:
    """What was asked differently in the two runs, in words."""
    but = () if sweeps_differ(a.load, b.load) is None else OF_A_SWEEP
    return _fields_differ(a.workload, b.workload) + _fields_differ(a.load, b.load, but=but)


def _fields_differ(
    left: msgspec.Struct, right: msgspec.Struct, prefix: str = "", but: tuple[str, ...] = ()
) -> list[str]:
    return [
        f"{prefix}{field} {_value(getattr(left, field))} / {_value(getattr(right, field))}"
        for field in left.__struct_fields__
        if field not in LENGTH + but and getattr(left, field) != getattr(right, field)
    ]


def _value(value: object) -> str:
    """As a person writes it."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else f"{value}"
