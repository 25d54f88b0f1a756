"""Validity gate over engine arguments: what two servers were started with may differ in the precision, and in nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator

from client.core.counter_gates import queueing
from client.core.counters import config_differences
from client.core.findings import Gate
from client.core.gates import Seen, flag, invalid, unlike
from client.core.plan import Target
from client.core.serve_args import beyond_precision

OF_MEMORY = ("kv_cache_gib", "kv_cache_tokens", "requests_at_once", "gpu_peak_gib")
"""What follows from the memory that a server was given."""
_MEMORY_SIZE = re.compile(r"^-*(kv.cache.memory.bytes|gpu.memory.utilization|num.gpu.blocks.override)\b")


def engine_arguments(seen: Seen) -> Iterator[Gate]:
    targets = [target for target in seen.plan.targets if target.name in seen.arms]
    for a, b in unlike(targets, lambda a, b: bool(_differences(seen, a, b))):
        yield _arguments_differ(seen, a.name, b.name, _differences(seen, a, b))
    if silent := _unknown(seen, targets):
        yield flag(
            "engine_arguments_unknown",
            f"The engine arguments of {', '.join(silent)} are unknown: whether more than the precision differs cannot be told.",
            "Name them in the targets file (engine_args), or let the client reach /metrics of both servers.",
            silent,
        )


def _differences(seen: Seen, a: Target, b: Target) -> list[str]:
    left, right = beyond_precision(a.engine_args), beyond_precision(b.engine_args)
    found = [
        f"{key} {left.get(key, 'not set')} / {right.get(key, 'not set')}"
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    ]
    if a.engine_args and b.engine_args and found:
        return found
    configs = [seen.counters[t.name].cache_config for t in (a, b) if t.name in seen.counters]
    return config_differences(*configs) if len(configs) == 2 else []


def _unknown(seen: Seen, targets: list[Target]) -> tuple[str, ...]:
    """Those that could not be held against the baseline: of one of the two neither arguments nor a cache configuration is known."""
    found: dict[str, None] = {}
    for other in targets[1:]:
        if not _differences(seen, targets[0], other):
            found |= dict.fromkeys(_without_arguments(seen, targets[0], other))
    return tuple(found)


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
