"""Throughput of a closed loop whose truth is known: lanes that are always busy, with lead-in and lead-out around few measured requests."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from client.core.estimates import arm_metrics
from client.core.metrics import arm
from client.core.plan import LoadProfile, RunPlan, Target
from client.core.records import Outcome, Phase, RequestRecord
from client.core.schedule import closed_loop
from client.core.table import RecordTable

S = 1_000_000_000


def records(lanes: int, measured: int, seconds: np.random.Generator | float) -> list[RequestRecord]:
    """What a perfect server gives to a closed loop of `lanes`."""
    free = [(S, lane) for lane in range(lanes)]
    found = []
    for slot in closed_loop(measured, lanes):
        start, lane = heapq.heappop(free)
        took = seconds if isinstance(seconds, float) else float(seconds.lognormal(0, 0.3))
        end = start + int(took * S)
        heapq.heappush(free, (end, lane))
        found.append(
            RequestRecord(
                target="a", phase=slot.phase, index=slot.index, image_id=str(slot.image), outcome=Outcome.OK, block=0,
                intended_ns=start, sent_ns=start, first_token_ns=start + 1000, last_token_ns=end, done_ns=end,
                completion_tokens=10, prompt_tokens=5, chunk_ns=(start + 1000, end),
            )
        )  # fmt: skip
    return found


@pytest.mark.parametrize("lanes", [1, 4, 16, 64])
def test_few_measured_requests_do_not_make_a_fast_server_slow(lanes: int) -> None:
    """A window that holds 16 measured and 128 edge requests serves 144, and the rate must say so."""
    plan = RunPlan(targets=(Target(name="a", base_url="http://a"),), load=LoadProfile(concurrency=lanes, requests=16))
    for seconds in (1.0, np.random.default_rng(lanes)):
        table = RecordTable.from_records(records(lanes, 16 if lanes > 1 else 64, seconds))
        truth = lanes / float(
            np.mean([(end - start) / S for start, end in zip(table["sent_ns"], table["done_ns"], strict=True)])
        )
        rate = arm_metrics(arm(table, "a", plan.timeouts, phase=Phase.MEASURE), plan)["requests_per_s"]
        assert rate.value == pytest.approx(truth, rel=0.2 if not isinstance(seconds, float) else 0.02)
