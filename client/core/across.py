"""Two saved runs as one piece of evidence: target `a` from the first, `b` from the second.

Nothing pairs the two in time. Where both runs sent the same pictures, requests are paired by image; that takes out what pictures differ
by, and nothing else.
"""

from __future__ import annotations

import re

import msgspec
import numpy as np

from client.core.conditions import parse
from client.core.evidence import Evidence, ServerEvidence
from client.core.plan import Design, RunPlan, Target
from client.core.table import RecordTable
from client.errors import UsageError

A, B = "a", "b"
LENGTH = ("requests", "duration_s", "warmup", "blocks_per_arm", "workers")
"""Parts of a load in which two runs may differ and still be alike."""
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")


def joined(
    a: Evidence, b: Evidence, *, targets: tuple[str | None, str | None] = (None, None), min_effect: str | None = None, fail_if: tuple[str, ...] = ()
) -> Evidence:  # fmt: skip
    """Raises UsageError when a run lacks the target that was asked for, or a condition cannot be read."""
    first = _chosen(a, targets[0], None)
    second = _chosen(b, targets[1], first.name)
    for text in fail_if:
        parse(text, (A, B))
    plan = msgspec.structs.replace(
        a.plan,
        targets=(_renamed(first, A), _renamed(second, B)),
        design=Design.SERIAL,
        min_effect=_share(min_effect) if min_effect is not None else a.plan.min_effect,
        fail_if=fail_if,
        simulate=a.plan.simulate or b.plan.simulate,
    )
    return Evidence(
        run_id=f"a: {first.name} of {a.run_id}, b: {second.name} of {b.run_id}",
        started_utc=a.started_utc,
        plan=plan,
        records=_one_table(a.records, first.name, b.records, second.name),
        images=a.images | b.images,
        health=tuple(
            msgspec.structs.replace(h, target=new)
            for evidence, name, new in ((a, first.name, A), (b, second.name, B))
            for h in evidence.health
            if h.target == name
        ),
        servers={A: _server(a, first.name, A), B: _server(b, second.name, B)},
        torn_lines=a.torn_lines + b.torn_lines,
        interrupted=a.interrupted or b.interrupted,
        complete=a.complete and b.complete,
        host={f"a.{k}": v for k, v in a.host.items()} | {f"b.{k}": v for k, v in b.host.items()},
        versions={f"a.{k}": v for k, v in a.versions.items()} | {f"b.{k}": v for k, v in b.versions.items()},
        separate_runs=True,
        plan_differences=tuple(plans_differ(a.plan, b.plan)),
    )


def _chosen(evidence: Evidence, wanted: str | None, preferred: str | None) -> Target:
    names = {target.name: target for target in evidence.plan.targets}
    if wanted is not None and wanted not in names:
        raise UsageError(f"run {evidence.run_id} has no target {wanted!r}.", f"It has: {', '.join(names)}.")
    return names[wanted] if wanted is not None else names.get(preferred or "", evidence.plan.targets[0])


def _renamed(target: Target, name: str) -> Target:
    return msgspec.structs.replace(target, name=name)


def _share(text: str) -> float:
    found = _PERCENT.fullmatch(text.strip())
    if found is None or not 0 < float(found[1]) < 100:
        raise UsageError(f"--min-effect {text!r} cannot be read.", "Write a percentage, for example 3%.")
    return float(found[1]) / 100


def _server(evidence: Evidence, name: str, new: str) -> ServerEvidence:
    return msgspec.structs.replace(evidence.servers.get(name, ServerEvidence(target=name)), target=new)


def _one_table(a: RecordTable, a_name: str, b: RecordTable, b_name: str) -> RecordTable:
    """The rows of one target of each; clocks of different hosts need not agree, so the second is moved behind the first."""
    left, right = a.only(a.where(a_name)).renamed({a_name: A}), b.only(b.where(b_name)).renamed({b_name: B})
    ends = [int(left["intended_ns"].max()) if len(left) else 0, int(np.max(left["done_ns"])) if len(left) else 0]
    start = int(right["intended_ns"].min()) if len(right) else 0
    return left.followed_by(right.moved(max(ends) + 1_000_000_000 - start))


def plans_differ(a: RunPlan, b: RunPlan) -> list[str]:
    """What was asked differently in the two runs, in words."""
    told = []
    for name in ("workload", "load"):
        left, right = getattr(a, name), getattr(b, name)
        told += [
            f"{field} {getattr(left, field)} / {getattr(right, field)}"
            for field in left.__struct_fields__
            if field not in LENGTH and getattr(left, field) != getattr(right, field)
        ]
    return told
