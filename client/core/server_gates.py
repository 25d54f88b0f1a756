"""Validity gates over what the servers and the GPU say of themselves: restarts, versions, models, workers; and the table of all of these.

Caches and queues: `client.core.counter_gates`; engine arguments: `client.core.argument_gates`; clocks and neighbours: `client.core.gpu_gates`.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from client.core import limits, runpod
from client.core.argument_gates import engine_arguments
from client.core.counter_gates import cache_hits, preempted, queueing, unread_counters
from client.core.evidence import restarts_expected
from client.core.findings import Gate
from client.core.gates import Look, Seen, flag, invalid
from client.core.gpu_gates import slowed_gpu, strangers, unequal_clocks
from client.core.records import Outcome
from client.core.table import OUTCOMES


def restarted(seen: Seen) -> Iterator[Gate]:
    for target, counted in seen.counters.items():
        if counted.restarted:
            yield invalid(
                "server_restarted",
                f"{target} was restarted while it was measured (its start time changed or a counter fell).",
                "Look for a crash or an out-of-memory kill in its log, then run again.",
                (target,),
            )


def counted_requests(seen: Seen) -> Iterator[Gate]:
    """What the server finished between both pages, against what we asked of it meanwhile: counters that began anew need not have fallen, and
    another client shows nowhere else."""
    if seen.evidence.separate_runs:
        return  # stamps of the second run are moved, its pages are not
    for target, counted in seen.counters.items():
        server, found = seen.evidence.servers.get(target), counted.counters.get("requests")
        if server is None or server.before is None or server.after is None or found is None or counted.restarted:
            continue
        if target in restarts_expected(seen.evidence):
            continue
        sent, answered = _asked_between(seen, target, server.before.mono_ns, server.after.mono_ns)
        if found < answered:
            yield invalid(
                "server_restarted",
                f"{target} counted {found:.0f} finished requests while {answered} were answered: it was restarted, or several servers share its address.",
                "Look for a crash in its log, and measure one server behind one address.",
                (target,),
            )
        elif sent and found > sent * (1 + limits.OTHERS_SHARE) + 1:
            yield invalid(
                "other_client",
                f"{target} finished {found:.0f} requests while {sent} were sent to it: somebody else uses the server.",
                "Measure it while nobody else does.",
                (target,),
            )


def _asked_between(seen: Seen, target: str, start_ns: int, end_ns: int) -> tuple[int, int]:
    """Requests of any phase sent within that time, and how many of them were answered whole."""
    table = seen.evidence.records
    rows = table.where(target)
    inside = rows[(table["sent_ns"][rows] >= start_ns) & (table["sent_ns"][rows] <= end_ns)]
    return len(inside), int((table.outcome[inside] == OUTCOMES.index(Outcome.OK)).sum())


def versions(seen: Seen) -> Iterator[Gate]:
    known = {t: s.version for t, s in seen.evidence.servers.items() if t in seen.arms and s.version}
    if len(set(known.values())) > 1:
        told = ", ".join(f"{target} {version}" for target, version in known.items())
        yield invalid(
            "version_mismatch",
            f"The servers run different versions ({told}): a change of scheduler or kernels would be booked as precision.",
            "Serve both precisions from the same image.",
            tuple(known),
        )


def unknown_versions(seen: Seen) -> Iterator[Gate]:
    """Of arms that are compared: what is not known may differ."""
    silent = [t for t in seen.arms if (server := seen.evidence.servers.get(t)) is None or not server.version]
    if silent and len(seen.arms) > 1:
        yield flag(
            "version_unknown",
            f"The server version of {', '.join(silent)} is unknown: whether all run the same build cannot be told.",
            "Let the client reach /version of each server, or see in their logs that they are one image.",
            tuple(silent),
        )


def models(seen: Seen) -> Iterator[Gate]:
    """An FP8 checkpoint has a name of its own, so that another name alone spoils nothing; a person has to know."""
    known: dict[str, str] = {}
    for target in seen.plan.targets:
        server = seen.evidence.servers.get(target.name)
        served = server.served_models[0] if server is not None and len(server.served_models) == 1 else None
        name = target.model or served
        if name:
            known[target.name] = name
    if len(set(known.values())) > 1:
        told = ", ".join(f"{target} {name}" for target, name in known.items())
        yield flag(
            "other_model",
            f"The servers name different models ({told}): if they are not one model in two precisions, that is what was compared.",
            "Make sure that one is the other's checkpoint, or give both the same --served-model-name.",
            tuple(known),
        )


def workers_changed(seen: Seen) -> Iterator[Gate]:
    for target in seen.arms:
        server = seen.evidence.servers.get(target)
        counts = [w.warm for w in server.workers if w.warm is not None] if server is not None else []
        starting = any(w.initializing for w in server.workers[1:]) if server is not None else False
        if len(set(counts)) > 1 or starting:
            told = f"from {min(counts)} to {max(counts)}" if len(set(counts)) > 1 else "with one still starting"
            yield flag(
                "workers_changed",
                f"The ready workers of {target} changed while it was measured, {told}: some requests met a fresh worker, and throughput is that of a changing machine.",
                "Set the endpoint's active workers to its maximum, then run again.",
                (target,),
            )


def endpoint_limits(seen: Seen) -> Iterator[Gate]:
    largest = max((image.sent_bytes for image in seen.evidence.images.values()), default=None)
    body = None if largest is None else ceil(largest / 3) * 4  # base64
    for target in seen.plan.targets:
        if found := runpod.warnings(target, seen.plan, body):
            next_step = "Read the latencies as those of the server with everything before it."
            yield flag("endpoint_limits", " ".join(found), next_step, (target.name,))


SERVER_LOOKS: tuple[Look, ...] = (
    restarted, counted_requests, versions, unknown_versions, models, engine_arguments, cache_hits, slowed_gpu, unequal_clocks, strangers, preempted, queueing, unread_counters,
    workers_changed, endpoint_limits,
)  # fmt: skip
