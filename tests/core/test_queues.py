"""An open loop whose queue grows without end, and one that is full now and then."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from client.core.analysis import analyse
from client.core.findings import Findings
from client.core.plan import Arrival, LoadProfile
from client.core.records import Outcome, RequestRecord
from tests.core import made

BLOCKS = made.ABBA
Serve = Callable[[list[float], float], list[float]]
"""Arrivals and the work of each, ms -> when each ends."""


def fifo(at: list[float], service_ms: float) -> list[float]:
    """When each ends that arrived at these times."""
    free, ends = 0.0, []
    for arrival in at:
        free = max(free, arrival) + service_ms
        ends.append(free)
    return ends


def shared(at: list[float], service_ms: float) -> list[float]:
    """Processor sharing, as a batching server does: all in flight get the same part of it."""
    ends, left, now, k = [0.0] * len(at), [], 0.0, 0
    done = 0.0  # of the service that each in flight has had since the beginning
    while k < len(at) or left:
        until = (left[0][0] - done) * len(left) + now if left else np.inf
        if k < len(at) and at[k] <= until:
            done += (at[k] - now) / len(left) if left else 0.0
            now = at[k]
            heapq.heappush(left, (done + service_ms, k))
            k += 1
        else:
            done, now = left[0][0], until
            ends[heapq.heappop(left)[1]] = now
    return ends


def run(load: float, serve: Serve, n: int, seed: int, failing: bool = False) -> Findings:
    """Both servers alike, 200 ms of work each, `load` of what they can do; the last request of each block may fail."""
    records: list[RequestRecord] = []
    base = 1000.0
    for target, block in BLOCKS:
        rng = np.random.default_rng([seed, block])
        at = list(base + np.cumsum(rng.exponential(200 / load, n // 4)))
        ends = serve(at, 200.0)
        for k, (begin, end) in enumerate(zip(at, ends, strict=True)):
            lost = failing and k == len(at) - 1
            found = made.record(
                target,
                block * 1000 + k,
                begin,
                ttft_ms=end - begin - 20,
                tpot_ms=1.0,
                image=f"i-{block % 4}-{k}",
                block=block,
            )
            records.append(
                msgspec.structs.replace(found, outcome=Outcome.HTTP_ERROR, sent_ns=int(ends[-1] * made.MS))
                if lost
                else found
            )
        base = max(ends) + 3000
    plan = made.plan(load=LoadProfile(arrival=Arrival.POISSON, rate_per_s=5.0 * load, requests=n))
    return analyse(made.evidence(records, plan=plan))


def overloaded(findings: Findings) -> bool:
    return any(gate.code == "overload" for gate in findings.gates)


@pytest.mark.parametrize("serve", [fifo, shared], ids=["fifo", "batching"])
def test_more_than_a_server_can_finish_is_told_however_it_works(serve: Serve) -> None:
    assert all(overloaded(run(2.0, serve, 240, seed)) for seed in range(6))
    assert sum(overloaded(run(1.6, serve, 1000, seed)) for seed in range(3)) == 3


@pytest.mark.parametrize("serve", [fifo, shared], ids=["fifo", "batching"])
def test_a_queue_that_is_full_now_and_then_is_none(serve: Serve) -> None:
    found = [run(0.75, serve, 120, seed) for seed in range(25)]
    assert sum(map(overloaded, found)) == 0
    codes = [gate.code for one in found for gate in one.gates]
    assert not {"warm_up", "not_settled", "warm_up_likely"} & set(codes)


def test_a_failure_hides_no_overload() -> None:
    """Of it only the late send may be known."""
    assert all(overloaded(run(2.0, fifo, 240, seed, failing=True)) for seed in range(4))
