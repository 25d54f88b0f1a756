"""Validity gates over what the servers counted: caches that answered, preemptions, queues, and counters that are missing."""

from __future__ import annotations

from collections.abc import Iterator

from client.core import limits
from client.core.counters import AFTER, BEFORE, BOTH, COUNTERS, IMAGE, PREFIX
from client.core.facts import read_log
from client.core.findings import Gate
from client.core.gates import WITHOUT_TPOT, Seen, flag, invalid, unlike
from client.core.serve_args import caches_off

OFF = "not looked at"
KINDS = {
    "prefix_queries": PREFIX,
    "prefix_hits": PREFIX,
    "image_queries": IMAGE,
    "image_hits": IMAGE,
    "preemptions": "preemptions",
    "requests": "requests of other clients",
    "queue_s": "time in the queue",
    "queue_n": "time in the queue",
}
"""Counters that gates look at, and what is unknown without them."""


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
    alike: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for target in seen.counters:
        off = _off(seen, target)
        for page in (BEFORE, AFTER, BOTH):
            lost = tuple(
                n
                for n, where in seen.counters[target].missing.items()
                if where == page and KINDS.get(n, OFF) not in off
            )
            if lost:
                alike.setdefault((lost, page), []).append(target)
    for (lost, page), targets in alike.items():
        yield _lost(lost, page, tuple(targets))


def _lost(lost: tuple[str, ...], page: str, targets: tuple[str, ...]) -> Gate:
    kinds = tuple(dict.fromkeys(KINDS[name] for name in lost))
    told = " and ".join(filter(None, (", ".join(kinds[:-1]), kinds[-1])))
    pages = "the /metrics pages lack" if page == BOTH else f"the /metrics page from {page} the measurement lacks"
    step = "See whether that page is whole (a proxy may have cut it), and run again."
    if page == BOTH:
        step = "Serve with a version that counts them; until then restart the servers before each run, and send no picture twice."
    return flag(
        "counters_missing",
        f"Unknown of {', '.join(targets)}, not 0: {told}; {pages} {', '.join(COUNTERS[name][0] for name in lost)}.",
        step,
        targets,
    )


def _off(seen: Seen, target: str) -> frozenset[str]:
    """What is not missed: a cache that is known to be off. Asked only where something is missing, as it reads the server's log."""
    counted, server = seen.counters[target], seen.evidence.servers.get(target)
    if not counted.missing:
        return frozenset((OFF,))
    log = None if server is None or server.log_text is None else read_log(server.log_text)
    given = next((t.engine_args for t in seen.plan.targets if t.name == target), ())
    return caches_off(given, counted.cache_config, {} if log is None else log.engine_args) | {OFF}


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
        known = [(target, rate) for target, rate in rates.items() if rate is not None]
        for (a, rate_a), (b, rate_b) in unlike(known, lambda a, b: abs(a[1] - b[1]) > limits.HITS_UNEQUAL):
            yield invalid(
                f"{kind}_cache_unequal",
                f"The {kind} cache answered {rate_a:.0%} of {unit} on {a} but {rate_b:.0%} on {b}: the arms did not do the same work.",
                "Restart both servers before the run, and send each the same images.",
                (a, b),
                WITHOUT_TPOT,
            )


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
    if seen.plan.load.sweep is not None or seen.evidence.plan_differences or seen.evidence.common_loads:
        return  # the counters are over all levels, of which two runs may have one in common; and a sweep wants to see queues
    for target, counted in seen.counters.items():
        queue, e2e = counted.mean_queue_ms, seen.median_ms(target, "e2e")
        if queue is not None and e2e is not None and queue > limits.QUEUE_SHARE * e2e:
            yield flag(
                "queueing",
                f"Requests waited {queue:.0f} ms on average in the queue of {target}, {queue / e2e:.0%} of the median latency.",
                "Latency here is that of a server at its limit; lower the load for the latency of the model alone.",
                (target,),
            )
