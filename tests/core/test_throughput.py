"""Throughput of a closed loop whose truth is known: lanes that are always busy, with lead-in and lead-out around few measured requests."""

from __future__ import annotations

import heapq

import made
import msgspec
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


def test_what_the_generator_lets_a_lane_wait_is_no_throughput_of_the_server() -> None:
    """One second of service and one of idling in each lane: half the rate that the latencies alone would give."""
    plan = RunPlan(targets=(Target(name="a", base_url="http://a"),), load=LoadProfile(concurrency=4, requests=40))
    late = [
        msgspec.structs.replace(
            record,
            intended_ns=2 * record.intended_ns - S,
            **{
                name: getattr(record, name) + record.intended_ns
                for name in ("sent_ns", "first_token_ns", "last_token_ns", "done_ns")
            },
            chunk_ns=tuple(stamp + record.intended_ns for stamp in record.chunk_ns),
        )
        for record in records(4, 40, 1.0)
    ]
    rate = arm_metrics(arm(RecordTable.from_records(late), "a", plan.timeouts, phase=Phase.MEASURE), plan)
    assert rate["requests_per_s"].value == pytest.approx(2.0, rel=0.02)


def test_the_gaps_of_answers_whose_pace_lasts_are_worth_few_answers() -> None:
    rng = np.random.default_rng(3)
    pace, found = 0.0, []
    for index in range(120):
        pace = 0.9 * pace + rng.normal(0, 0.05 * np.sqrt(1 - 0.81))
        found.append(made.record("a", index, 1000.0 * index, tpot_ms=6.0 * float(np.exp(pace))))
    plan = RunPlan(targets=(Target(name="a", base_url="http://a"),), load=LoadProfile(requests=120))
    told = arm_metrics(arm(RecordTable.from_records(found), "a", plan.timeouts), plan)
    itl, tpot = told["itl_ms_p50"], told["tpot_ms_p50"]
    assert itl.low is not None
    assert itl.high is not None
    assert tpot.low is not None
    assert tpot.high is not None
    assert itl.high - itl.low > 0.8 * (tpot.high - tpot.low)
