"""Validity gates over what the load generator says of itself: late, saturated, paused, died, held back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from client.core import limits
from client.core.blocks import levels_of
from client.core.findings import Gate
from client.core.gates import STAMPED, Look, Seen, flag, invalid
from client.core.names import COMPARED
from client.core.plan import Arrival
from client.core.records import Outcome, Phase
from client.core.table import NEVER


def _worst(values: list[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) / 1e6 if known else None


PACED = tuple(name for name in COMPARED if name.startswith(("response", "requests_per_s", "output_tokens", "goodput")))
"""What a late send changes in a closed loop. TTFT, TPOT and E2E count from the send itself, whenever it came."""


SPREAD = tuple(name for name in COMPARED if not name.startswith(("error", "tpot", "itl")))
"""What the requests of one wave share: they queue behind one another."""


def unknown_lateness(seen: Seen) -> Iterator[Gate]:
    """Without its own records the generator vouches for nothing: what it did late would be booked on the server."""
    found = {target: _unwatched(seen, target) for target in seen.arms}
    blind = [target for target, told in found.items() if told]
    if blind:
        yield flag(
            "generator_unknown",
            f"How late the load generator itself was is unknown for {' and '.join(filter(None, found.values()))}: the run directory holds no word"
            " of it (health.jsonl), and its lateness would pass for the server's.",
            "Run again, or bring health.jsonl back whole.",
            tuple(blind),
        )


def _unwatched(seen: Seen, target: str) -> str:
    """Which measured requests of this target the generator wrote nothing about; '' where it did. Some records name no block."""
    arm, health = seen.arms[target], seen.health(target)
    if not arm.ok.any():
        return ""  # who got nothing answered has no latency to doubt
    if all(h.send_lag_p99_ns is None for h in health):
        return f"all requests to {target}"
    blocks, watched = set(arm.block.tolist()), {h.block for h in health}
    silent = 0 if None in watched else len(blocks - watched)
    return f"{silent} of {len(blocks)} blocks of {target}" if silent else ""


def late_sends(seen: Seen) -> Iterator[Gate]:
    """Open loop: any late send is another load than the one asked for. Closed loop: each lane waits a little longer between requests."""
    closed = seen.plan.load.arrival is Arrival.CLOSED
    for target in seen.arms:
        health, e2e = seen.health(target), seen.median_ms(target, "e2e")
        usual, tail = _worst([h.send_lag_p50_ns for h in health]), _worst([h.send_lag_p99_ns for h in health])
        if tail is None or e2e is None:
            continue
        limit = max(limits.LAG_SHARE * e2e, limits.LAG_IGNORED_MS)
        step = "Use more --workers, a lower --rate or --concurrency, or a quieter machine."
        told = f"more than {limits.LAG_SHARE:.0%} of the {e2e:.0f} ms measured."
        if not closed and tail > limit:
            fact = f"The load generator sent to {target} up to {tail:.1f} ms late (p99), {told}"
            yield invalid("generator_late", fact, step, (target,))
        elif closed and usual is not None and usual > limit:
            fact = f"The load generator left its lanes to {target} idle for {usual:.1f} ms between requests (median), {told}"
            yield invalid("generator_late", fact, step, (target,), PACED)
        elif closed and tail > limit:
            fact = f"Some requests to {target} were sent up to {tail:.1f} ms after their turn (p99). Latencies count from the send and are not spoiled by this."
            yield flag("generator_late_at_times", fact, step, (target,), PACED)


def late_stamps(seen: Seen) -> Iterator[Gate]:
    """Loop stamps wait for our event loop. Kernel stamps do not, but what is read late is sent late and merged: see `merged_stamps`."""
    for target, arm in seen.arms.items():
        if not len(arm):
            continue
        records = seen.evidence.records
        answered = arm.rows[records["headers_ns"][arm.rows] != NEVER]  # whoever got no answer had nothing to stamp
        by_loop = bool(records.loop_stamped[answered].any())
        lag, ttft = _lag(seen, target, by_loop), seen.median_ms(target, "ttft")
        if by_loop:
            told = "" if lag is None else f", which ran up to {lag:.1f} ms late (p99)"
            yield flag(
                "stamps_by_loop",
                f"Answers of {target} were stamped by the event loop{told}: over TLS, or without Linux, the kernel gives no stamps.",
                "Where it matters, measure over plain http on Linux; latencies then do not hold this lag.",
                (target,),
                STAMPED,
            )
        if lag is None or ttft is None or lag <= max(limits.LAG_SHARE * ttft, limits.LAG_IGNORED_MS):
            continue
        if by_loop:
            yield invalid(
                "stamps_late",
                f"Arrivals from {target} were stamped by an event loop that ran up to {lag:.1f} ms late (p99), more than {limits.LAG_SHARE:.0%} of its TTFT.",
                "Use more --workers, or plain http on Linux, where the kernel stamps arrivals.",
                (target,),
                STAMPED,
            )
            continue
        fact = f"What came from {target} was read up to {lag:.1f} ms late (p99), {lag / ttft:.0%} of its TTFT. The kernel's stamps do not wait for that"
        step = "Use more --workers, a lower --rate or --concurrency, or a quieter machine."
        if lag > limits.LAG_HOPELESS * ttft:
            yield invalid("loop_late", f"{fact}, but tokens that wait are read together.", step, (target,), STAMPED)
        else:
            yield flag("loop_late", f"{fact}.", step, (target,), STAMPED)


def _lag(seen: Seen, target: str, by_loop: bool) -> float | None:
    """In ms, p99 of the worst process. The lag of what was read; the loop's own where no reads tell it, or where it is the larger."""
    health = seen.health(target)
    read, loop = _worst([h.recv_lag_p99_ns for h in health]), _worst([h.loop_lag_p99_ns for h in health])
    if by_loop and read is not None:
        return read
    return max((lag for lag in (read, loop) if lag is not None), default=None)


def merged_stamps(seen: Seen) -> Iterator[Gate]:
    """The kernel's stamps do not wait for a late reader, but two tokens that wait for it become one read, with the stamp of the later one.

    A server may send two tokens at once as well: it takes a late event loop to make them suspect. A quantile of TTFT is spoiled by as
    many merged first tokens as lie beyond it.
    """
    for target, arm in seen.arms.items():
        lag, ttft = _lag(seen, target, False), seen.median_ms(target, "ttft")
        owners, first = np.unique(arm.gap_owner, return_index=True)
        if not len(owners) or lag is None or ttft is None or lag <= max(limits.LAG_SHARE * ttft, limits.LAG_IGNORED_MS):
            continue
        share = float((arm.gaps[first] <= 0).mean())
        if share <= limits.MERGED_SHARE:
            continue
        spoiled = STAMPED if share > limits.MERGED_ALL else tuple(n for n in STAMPED if n.endswith("p99") or (share > 0.05 and n.endswith("p95")))  # fmt: skip
        yield invalid(
            "stamps_merged",
            f"In {share:.0%} of the answers of {target} the first token was read together with the next, by an event loop that ran up to"
            f" {lag:.1f} ms late (p99): such a read has the stamp of its last token, so their TTFT may be a token or more too long.",
            "Use more --workers, a lower --rate or --concurrency, or a quieter machine.",
            (target,),
            spoiled,
        )


def merged_gaps(seen: Seen) -> Iterator[Gate]:
    """The same of the gaps between chunks, which are shorter than a TTFT: a gap that was merged away has made its neighbour longer."""
    for target, arm in seen.arms.items():
        lag = _lag(seen, target, False)
        if not len(arm.gaps) or lag is None:
            continue
        share, usual = float((arm.gaps <= 0).mean()), float(np.median(arm.gaps))
        if share > limits.MERGED_SHARE and lag > max(limits.LAG_SHARE * usual, limits.LAG_IGNORED_MS):
            yield invalid(
                "gaps_merged",
                f"{share:.1%} of the chunks of {target} were read together with the one before, by an event loop that ran up to {lag:.1f} ms late"
                f" (p99), and the gap is {usual:.1f} ms (median): the longest gaps may be ours.",
                "Use more --workers, a lower --rate or --concurrency, or a quieter machine.",
                (target,),
                ("itl_p99",),
            )


def few_waves(seen: Seen) -> Iterator[Gate]:
    """Closed loop: lanes that start together stay together. Intervals count waves (`client.core.waves`), but a handful of waves tell little."""
    load = levels_of(seen.plan.load)[0]  # a level of a sweep is looked at with its own load
    if load.arrival is not Arrival.CLOSED or load.concurrency < limits.FEW_REQUESTS:
        return
    for target, arm in seen.arms.items():
        blocks = len(np.unique(arm.block))
        waves = len(arm) / max(blocks, 1) / load.concurrency
        if 0 < waves < limits.FEW_WAVES:
            yield flag(
                "few_waves",
                f"A block of {target} holds {len(arm) / blocks:.0f} measured requests at {load.concurrency} in flight: {waves:.1f} for each lane, which start"
                " together and share their fate. Intervals reckon with what waves share, but so few waves tell it badly: they are wide, and a"
                " little too narrow all the same.",
                f"Ask for at least --requests {limits.FEW_WAVES * blocks * load.concurrency}.",
                (target,),
                SPREAD,
            )


def busy_generator(seen: Seen) -> Iterator[Gate]:
    for target in seen.arms:
        shares = [
            h.cpu_ns / (h.end_ns - h.start_ns)
            for h in seen.health(target)
            if h.cpu_ns is not None and h.end_ns > h.start_ns
        ]
        share = max(shares, default=0.0)
        fact = f"A load generator process was busy {share:.0%} of its time while it measured {target}."
        step = "Use more --workers, or a lower --rate or --concurrency."
        if share > limits.CPU_SATURATED:
            yield invalid("generator_saturated", fact, step, (target,))
        elif share > limits.CPU_SHARE:
            yield flag("generator_busy", fact, step, (target,))


def collector_pauses(seen: Seen) -> Iterator[Gate]:
    for target in seen.arms:
        health = [h for h in seen.health(target) if h.gc_pause_ns is not None and h.end_ns > h.start_ns]
        share = max(((h.gc_pause_ns or 0) / (h.end_ns - h.start_ns) for h in health), default=0.0)
        if share > limits.GC_SHARE:
            fact = f"Garbage collection took {share:.1%} of the time in which {target} was measured."
            step = "Use more --workers, or fewer --requests for each block."
            raised = invalid if share > limits.LAG_SHARE else flag
            yield raised("gc_pauses", fact, step, (target,))


def lost_workers(seen: Seen) -> Iterator[Gate]:
    dead = sorted({h.worker for h in seen.evidence.health if h.lost})
    lost = len(seen.evidence.records.where(outcome=Outcome.LOST))
    if dead or lost:
        names = ", ".join(map(str, dead)) or "?"
        yield invalid(
            "worker_lost",
            f"Load generator process {names} died: {lost} requests of the schedule are missing, so the load was not the one asked for.",
            "Run again; if it dies again, look for the out-of-memory killer in the kernel log.",
        )


def held_back(seen: Seen) -> Iterator[Gate]:
    health = [h for h in seen.evidence.health if h.phase is Phase.MEASURE]
    held = sum(h.held_back for h in health)
    if held:
        longest = _worst([h.held_p99_ns for h in health])
        waited = "" if longest is None else f", up to {longest:.1f} ms (p99)"
        yield flag(
            "held_back",
            f"{held} arrivals of {sum(h.requests for h in health)} waited for the client-side cap of {seen.plan.load.max_in_flight}{waited}: "
            "the offered load was lower than asked.",
            "Raise the cap, or read response times (they count from the intended start).",
        )


GENERATOR_LOOKS: tuple[Look, ...] = (
    lost_workers,
    unknown_lateness,
    late_sends,
    late_stamps,
    merged_stamps,
    merged_gaps,
    few_waves,
    busy_generator,
    collector_pauses,
    held_back,
)
