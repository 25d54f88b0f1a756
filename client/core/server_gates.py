"""Validity gates over what the servers and the GPU say of themselves: caches, restarts, versions, arguments, clocks, neighbours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from math import ceil

from client.core import limits, runpod
from client.core.counters import config_differences
from client.core.evidence import restarts_expected
from client.core.findings import Gate
from client.core.gates import WITHOUT_TPOT, Look, Seen, flag, invalid
from client.core.plan import Target
from client.core.records import Outcome
from client.core.table import OUTCOMES

PRECISION_ARGS = (
    "--quantization",
    "-q",
    "--model",
    "--served-model-name",
    "--port",
    "--host",
    "--kv-cache-dtype",
    "--dtype",
    "--quantization-config",
)
"""Engine arguments in which the arms of a precision comparison may differ, with the value that follows them."""
OF_MEMORY = ("kv_cache_gib", "kv_cache_tokens", "requests_at_once", "gpu_peak_gib")
"""What follows from the memory that a server was given."""
_MEMORY_SIZE = re.compile(r"^-*(kv.cache.memory.bytes|gpu.memory.utilization|num.gpu.blocks.override)\b")


def unread_counters(seen: Seen) -> Iterator[Gate]:
    blind = [(target, counted.why) for target, counted in seen.counters.items() if not counted.readable]
    if blind:
        names = ", ".join(target for target, _ in blind)
        yield flag(
            "counters_missing",
            f"Cache hits, preemptions and restarts of {names} are unknown: {blind[0][1]}.",
            "Let the client reach /metrics of the server (and do not start it with --disable-log-stats).",
            tuple(target for target, _ in blind),
        )


def cache_hits(seen: Seen) -> Iterator[Gate]:
    kinds = (("prefix", "prompt tokens", limits.PREFIX_HITS), ("image", "images", limits.IMAGE_HITS))
    for kind, unit, limit in kinds:
        rates = {t: getattr(c, f"{kind}_hit_rate") for t, c in seen.counters.items()}
        high = {t: rate for t, rate in rates.items() if rate is not None and rate > limit}
        if high:
            told = ", ".join(f"{rate:.0%} of {unit} on {target}" for target, rate in high.items())
            yield invalid(
                f"{kind}_cache",
                f"The {kind} cache answered {told}: latency and throughput are those of remembered images, not of different ones.",
                "Send images that these servers have not seen: another --seed, no --repeat-image, or restarted servers.",
                tuple(high),
                WITHOUT_TPOT,
            )
        for (a, rate_a), (b, rate_b) in pairwise([(t, rate) for t, rate in rates.items() if rate is not None]):
            if abs(rate_a - rate_b) > limits.HITS_UNEQUAL:
                yield invalid(
                    f"{kind}_cache_unequal",
                    f"The {kind} cache answered {rate_a:.0%} of {unit} on {a} but {rate_b:.0%} on {b}: the arms did not do the same work.",
                    "Restart both servers before the run, and send each the same images.",
                    (a, b),
                    WITHOUT_TPOT,
                )


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


def preempted(seen: Seen) -> Iterator[Gate]:
    counts = {t: c.counters["preemptions"] for t, c in seen.counters.items() if c.counters.get("preemptions", 0) > 0}
    if counts:
        told = ", ".join(f"{count:.0f} on {target}" for target, count in counts.items())
        yield flag(
            "preemptions",
            f"The scheduler ran out of KV cache and recomputed requests: {told} preemptions. That is a result (KV capacity), but not the speed of the kernels.",
            "Lower --concurrency to compare kernels, or keep it to compare capacity.",
            tuple(counts),
        )


def queueing(seen: Seen) -> Iterator[Gate]:
    if seen.plan.load.sweep is not None:
        return  # the counters are over all levels, and a sweep wants to see queues
    for target, counted in seen.counters.items():
        queue, e2e = counted.mean_queue_ms, seen.median_ms(target, "e2e")
        if queue is not None and e2e is not None and queue > limits.QUEUE_SHARE * e2e:
            yield flag(
                "queueing",
                f"Requests waited {queue:.0f} ms on average in the queue of {target}, {queue / e2e:.0%} of the median latency.",
                "Latency here is that of a server at its limit; lower the load for the latency of the model alone.",
                (target,),
            )


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


def engine_arguments(seen: Seen) -> Iterator[Gate]:
    targets = [target for target in seen.plan.targets if target.name in seen.arms]
    for a, b in pairwise(targets):
        left, right = _arguments(a.engine_args), _arguments(b.engine_args)
        found = [
            f"{key} {left.get(key, 'not set')} / {right.get(key, 'not set')}"
            for key in sorted(left.keys() | right.keys())
            if left.get(key) != right.get(key)
        ]
        if not (a.engine_args and b.engine_args and found):
            configs = [seen.counters[t.name].cache_config for t in (a, b) if t.name in seen.counters]
            found = config_differences(*configs) if len(configs) == 2 else []
        if found:
            yield _arguments_differ(seen, a.name, b.name, found)
        elif silent := _without_arguments(seen, a, b):
            yield flag(
                "engine_arguments_unknown",
                f"The engine arguments of {', '.join(silent)} are unknown: whether more than the precision differs cannot be told.",
                "Name them in the targets file (engine_args), or let the client reach /metrics of both servers.",
                silent,
            )


def _without_arguments(seen: Seen, a: Target, b: Target) -> tuple[str, ...]:
    """Those of which neither arguments nor a cache configuration that could be compared is known."""
    if a.engine_args and b.engine_args:
        return ()
    configs = [t.name in seen.counters and bool(seen.counters[t.name].cache_config) for t in (a, b)]
    return () if all(configs) else tuple(t.name for t in (a, b) if not t.engine_args)


def _arguments_differ(seen: Seen, a: str, b: str, found: list[str]) -> Gate:
    """Sizes of memory alone change no kernel: they matter to speed once a server ran out of that memory, and to capacity always."""
    short = any(seen.counters[t].counters.get("preemptions", 0) > 0 for t in (a, b) if t in seen.counters)
    if all(_MEMORY_SIZE.search(difference) for difference in found) and not short and not any(queueing(seen)):
        return invalid(
            "memory_settings",
            f"{a} and {b} were given different memory: {'; '.join(found)}. KV cache and whole memory are those of the settings; no request waited for it, so latencies are not spoiled by this.",
            "Give both the same --gpu-memory-utilization and no KV size of its own to compare capacity.",
            (a, b),
            OF_MEMORY,
        )
    return invalid(
        "engine_arguments",
        f"{a} and {b} differ in more than their precision: {'; '.join(found[:4])}{' …' if len(found) > 4 else ''}.",
        "Start both with the same engine arguments, so that only the precision differs.",
        (a, b),
    )


def _arguments(args: tuple[str, ...]) -> dict[str, str]:
    """`--a 1 --b=2 --c` -> {--a: 1, --b: 2, --c: ""}, without those that precision may change."""
    found: dict[str, str] = {}
    key = ""
    for part in args:
        if part.startswith("-") and not part[1:2].isdigit():
            key, _, value = part.partition("=")
            found[key] = value
        elif key:
            found[key] = f"{found[key]} {part}".strip()
    return {key: value for key, value in found.items() if key not in PRECISION_ARGS}


def slowed_gpu(seen: Seen) -> Iterator[Gate]:
    for target, gpu in seen.gpu.items():
        if gpu.slowed_share is not None and gpu.slowed_share > limits.THROTTLED_SHARE:
            yield invalid(
                "gpu_throttled",
                f"The GPU was slowed down by heat or hardware in {gpu.slowed_share:.0%} of the samples while {target} was measured.",
                "Improve cooling or power, lock the clocks (nvidia-smi -lgc), and run again.",
                (target,),
            )


def unequal_clocks(seen: Seen) -> Iterator[Gate]:
    """At a power cap the clock follows from the work itself: then the difference is part of the answer, and only told."""
    known = [(target, gpu, gpu.sm_mhz) for target, gpu in seen.gpu.items() if gpu.sm_mhz]
    for (a, gpu_a, mhz_a), (b, gpu_b, mhz_b) in pairwise(known):
        if mhz_a is None or mhz_b is None or abs(mhz_b / mhz_a - 1) <= limits.CLOCKS_UNEQUAL:
            continue
        capped = max(gpu_a.power_capped_share or 0.0, gpu_b.power_capped_share or 0.0) > limits.THROTTLED_SHARE
        fact = f"The GPU ran at {mhz_a:.0f} MHz for {a} and {mhz_b:.0f} MHz for {b} (medians while measured)"
        if capped:
            yield flag(
                "gpu_clocks",
                f"{fact}, at its power cap: drawing less power is part of what the precision does.",
                "Lock the clocks (nvidia-smi -lgc) to compare at equal clocks.",
                (a, b),
            )
        else:
            yield invalid(
                "gpu_clocks",
                f"{fact}: the arms did not have the same machine.",
                "Lock the clocks (nvidia-smi -lgc), or use --design interleaved.",
                (a, b),
            )


def strangers(seen: Seen) -> Iterator[Gate]:
    found = sorted({name for gpu in seen.gpu.values() for name in gpu.strangers})
    if found:
        yield invalid(
            "other_process",
            f"Another process used the GPU during the run: {', '.join(found[:3])}.",
            "Stop it, or give the servers a GPU of their own.",
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
