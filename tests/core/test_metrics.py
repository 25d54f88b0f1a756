from __future__ import annotations

import made
import numpy as np
import pytest

from client.core.analysis import analyse
from client.core.estimates import arm_metrics
from client.core.metrics import arm, meets
from client.core.pairing import sides
from client.core.plan import Arrival, Design, LoadProfile, Slo, Timeouts
from client.core.records import Outcome, Phase
from client.core.table import RecordTable


def one(**fields: object) -> dict[str, float]:
    table = RecordTable.from_records([made.record("bf16", 0, 1000.0, ttft_ms=100, tpot_ms=5, tokens=11, **fields)])  # type: ignore[arg-type]  # names as in RequestRecord
    return {name: float(values[0]) for name, values in arm(table, "bf16", Timeouts()).latency.items()}


def test_each_latency_by_its_definition() -> None:
    found = one(intended_ns=int(990 * made.MS))
    assert found["ttft"] == pytest.approx(100)
    assert found["e2e"] == pytest.approx(150)
    assert found["tpot"] == pytest.approx(5)
    assert found["response"] == pytest.approx(160)


def test_tpot_uses_the_servers_count_and_is_not_defined_for_one_token() -> None:
    assert one(completion_tokens=26)["tpot"] == pytest.approx(2)
    assert np.isnan(one(completion_tokens=1)["tpot"])
    assert np.isnan(one(completion_tokens=None)["tpot"])


def test_an_answer_without_a_stream_has_an_end_but_no_first_token() -> None:
    found = one(first_token_ns=None, last_token_ns=None, chunk_ns=(), done_ns=int(1200 * made.MS))
    assert found["e2e"] == pytest.approx(200)
    assert np.isnan(found["ttft"])
    assert np.isnan(found["tpot"])


def test_gaps_are_between_chunks_of_the_same_answer() -> None:
    records = [made.record("bf16", k, 1000.0 + 500 * k, tpot_ms=4 + k, tokens=5) for k in range(3)]
    found = arm(RecordTable.from_records(records), "bf16", Timeouts())
    assert found.gaps == pytest.approx([4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6])
    assert found.gap_owner.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_throughput_is_over_measured_windows_without_edges_and_pauses() -> None:
    records = [made.record("bf16", k, 1000.0 + 250 * k, ttft_ms=100, tpot_ms=5, tokens=21, block=0) for k in range(10)]
    records += [
        made.record("bf16", 10 + k, 60_000.0 + 250 * k, ttft_ms=100, tpot_ms=5, tokens=21, block=1) for k in range(10)
    ]
    records.append(made.record("bf16", 99, 500.0, phase=Phase.EDGE))
    found = arm_metrics(arm(RecordTable.from_records(records), "bf16", Timeouts()), made.plan())
    assert found["requests_per_s"].value == pytest.approx(20 / (2 * 2.45), rel=1e-3)
    assert found["output_tokens_per_s"].value == pytest.approx(21 * 20 / (2 * 2.45), rel=1e-3)


def test_goodput_counts_what_met_every_objective() -> None:
    records = [made.record("bf16", k, 1000.0 + 500 * k, ttft_ms=100 + 10 * k, tpot_ms=5, tokens=11) for k in range(10)]
    measured = arm(RecordTable.from_records(records), "bf16", Timeouts())
    assert meets(measured, (Slo("ttft", 140),)).sum() == 5
    assert meets(measured, (Slo("ttft", 140), Slo("e2e", 180))).sum() == 4
    assert meets(measured, (Slo("itl", 4.9),)).sum() == 0
    found = arm_metrics(measured, made.plan(slos=(Slo("ttft", 140),)))
    assert found["goodput_per_s"].value == pytest.approx(found["requests_per_s"].value / 2)


def with_timeouts(count: int, n: int = 40) -> RecordTable:
    """`count` of n requests give up after 60 s."""
    records = []
    for k in range(n):
        if k % (n // count) == 0 and k // (n // count) < count:
            records.append(
                made.failed(
                    "bf16", k, 1000.0 + 500 * k, Outcome.TIMEOUT_TOTAL, done_ns=int((61_000 + 500 * k) * made.MS)
                )
            )
        else:
            records.append(made.record("bf16", k, 1000.0 + 500 * k, ttft_ms=100 + k, tokens=11))
    return RecordTable.from_records(records)


def test_time_outs_are_at_their_limit_and_never_dropped() -> None:
    few, many = (arm_metrics(arm(with_timeouts(c), "bf16", Timeouts()), made.plan()) for c in (4, 30))
    without = arm_metrics(
        arm(
            RecordTable.from_records(
                [made.record("bf16", k, 1000.0 + 500 * k, ttft_ms=100 + k, tokens=11) for k in range(40)]
            ),
            "bf16",
            Timeouts(),
        ),
        made.plan(),
    )
    assert few["e2e_ms_p50"].n == 40
    assert (few["e2e_ms_p50"].value or 0) > (without["e2e_ms_p50"].value or 0)
    assert many["e2e_ms_p50"].value == pytest.approx(60_000)
    assert many["e2e_ms_p50"].high is None
    assert (many["e2e_ms_p50"].note or "").startswith("≥ 60000 ms: 30 of 40 timed out")
    assert many["e2e_ms_mean"].value is None
    assert few["tpot_ms_p50"].n == 36


def test_five_requests_give_the_range_and_say_so() -> None:
    records = [made.record("bf16", k, 1000.0 + 500 * k, ttft_ms=100 + k) for k in range(5)]
    found = arm_metrics(arm(RecordTable.from_records(records), "bf16", Timeouts()), made.plan())
    assert found["ttft_ms_p50"].value == pytest.approx(102)
    assert (found["ttft_ms_p50"].low, found["ttft_ms_p50"].high) == pytest.approx((100, 104))
    assert "needs n ≥ 6" in (found["ttft_ms_p50"].note or "")
    assert found["ttft_ms_p99"].value is None
    assert found["ttft_ms_p99"].note == "needs n ≥ 299"


def test_a_serial_run_sets_the_candidate_between_two_baselines() -> None:
    order = [("bf16", 0), ("fp8", 0), ("bf16", 4)]
    table = RecordTable.from_records(made.campaign(order=order, per_block=12))
    both = sides(arm(table, "bf16", Timeouts()), arm(table, "fp8", Timeouts()), Design.SERIAL)
    assert both.second_a
    assert [len(part) for part in both.parts] == [12, 12, 12]
    assert both.paired


def test_pairing_survives_another_order_of_images() -> None:
    records = made.campaign(order=(("bf16", 0), ("fp8", 0)), per_block=20, sigma=0.2)
    shuffled = [r for r in records if r.target == "bf16"] + [
        made.record("fp8", 19 - r.index, r.intended_ns / made.MS, ttft_ms=2 * ttft, image=other.image_id)
        for r, other, ttft in zip(
            records[20:],
            records[19::-1],
            [((x.first_token_ns or 0) - (x.sent_ns or 0)) / made.MS for x in records[19::-1]],
            strict=True,
        )
    ]
    findings = analyse(made.evidence(shuffled))
    assert findings.comparison is not None
    ratio = findings.comparison.effects["ttft_p50"].ratio
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2.0, 2.0, 2.0), rel=1e-3)


def test_open_loop_throughput_speaks_from_blocks() -> None:
    plan = made.plan(load=LoadProfile(arrival=Arrival.POISSON, rate_per_s=4.0))
    findings = analyse(made.evidence(made.campaign(), plan=plan))
    assert findings.comparison is not None
    assert findings.comparison.effects["requests_per_s"].ratio.low is not None
    assert "response_p50" in findings.comparison.effects
