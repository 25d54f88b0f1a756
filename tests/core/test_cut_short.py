"""A run that ended before its plan did says what it measured, not what it was asked for."""

from __future__ import annotations

import made
import msgspec

from client.core.across import joined
from client.core.analysis import analyse
from client.core.evidence import Evidence
from client.core.measured import measured_in
from client.core.plan import LoadProfile, Sweep
from client.core.records import Outcome
from client.core.sentences import load_sentence
from client.core.table import RecordTable
from client.reports import markdown, tables
from client.reports.charts.sweep import sweep_chart

PLAN = made.plan(load=LoadProfile(requests=400))


def test_a_whole_run_names_its_plan() -> None:
    assert load_sentence(PLAN) == "one request at a time, 400 measured requests per arm"


def test_a_run_cut_short_names_what_each_arm_got() -> None:
    told = load_sentence(PLAN, {"bf16": 12, "fp8": 1})
    assert told == (
        "one request at a time, cut short: 12 requests measured for bf16, 1 for fp8; planned were 400 measured requests per arm"
    )
    assert "cut short: 1 request measured per arm;" in load_sentence(PLAN, {"bf16": 1, "fp8": 1})
    assert "cut short: 7 requests measured; planned" in load_sentence(PLAN, {"fp8": 7})


def test_two_runs_of_other_lengths_tell_both() -> None:
    assert load_sentence(PLAN, None, {"a": 400, "b": 40}).endswith(", measured requests: 400 for a, 40 for b")
    assert load_sentence(PLAN, None, {"a": 40, "b": 40}).endswith(", 40 measured requests per arm")


def test_a_run_by_duration_names_its_planned_time() -> None:
    plan = made.plan(load=LoadProfile(requests=None, duration_s=60.0))
    assert load_sentence(plan, {"bf16": 12, "fp8": 12}).endswith(
        "12 requests measured per arm; planned were 60 s per arm"
    )


def test_the_headline_of_an_interrupted_run_counts_what_ended() -> None:
    records = made.campaign(3, per_block=12)
    count = sum(r.target == "bf16" for r in records)
    last = records[-1]
    records.append(
        made.failed(last.target, last.index + 1, last.intended_ns / 1e6 + 1e3, Outcome.CANCELLED, block=last.block)
    )
    for cut in ({"interrupted": True}, {"complete": False}):
        evidence = msgspec.structs.replace(made.evidence(records, plan=PLAN), **cut)
        findings = analyse(evidence, measured_in(evidence))
        for text in (findings.headline, findings.load, findings.recommendation.load):
            assert f"cut short: {count} requests measured per arm; planned were 400 measured requests per arm" in text


SWEEP = LoadProfile(requests=32, sweep=Sweep(knob="concurrency", values=(1.0, 4.0, 8.0)))


def torn_sweep(load: LoadProfile = SWEEP) -> Evidence:
    """All of the first load; at the second, 32 requests of bf16 less the last, which was cancelled, and 8 of fp8; nothing of the third."""
    later = [
        msgspec.structs.replace(r, level=1, block=(r.block or 0) + 4, image_id=f"{r.image_id}-b")
        for r in made.campaign(2, fp8_ttft=0.8)
        if r.target == "bf16" or r.block == 0
    ]
    last = max((r for r in later if r.target == "bf16"), key=lambda r: r.intended_ns)
    lost = made.failed("bf16", last.index, last.intended_ns / made.MS, Outcome.CANCELLED, block=7, level=1, image_id=last.image_id)  # fmt: skip
    records = [*made.campaign(fp8_ttft=0.8), *(r for r in later if r is not last), lost]
    return msgspec.structs.replace(made.evidence(records, plan=made.plan(load=load)), interrupted=True)


def test_a_sweep_tells_in_which_load_it_was_cut_short() -> None:
    """It said that 32 requests were planned and 32 measured, and the torn load looked like the others."""
    findings = analyse(torn_sweep())
    assert findings.load == (
        "one request at a time, the first of 3 loads, 32 measured requests per arm; the run was cut short at 4 in flight"
    )
    assert [level.cut_short for level in findings.levels] == [{}, {"bf16": 31, "fp8": 8}, {"bf16": 0, "fp8": 0}]
    assert [level.planned for level in findings.levels] == [32, 32, 32]
    marks = [row[:2] for row in tables.level_rows(findings)[1]]
    assert marks == [
        ["1 in flight", "bf16"], ["", "fp8"], ["4 in flight (cut short)", "bf16, 31 of 32"], ["", "fp8, 8 of 32"],
        ["8 in flight (not reached)", "bf16, 0 of 32"], ["", "fp8, 0 of 32"],
    ]  # fmt: skip
    gate = next(gate for gate in findings.gates if gate.code == "cut_short")
    assert gate.fact.startswith(
        "The run was interrupted at 4 in flight (measured: 31 of 32 requests for bf16, 8 of 32 for fp8)"
    )
    assert all(reason.startswith("At 4 in flight (cut short): ") for reason in findings.recommendation.reasons if reason.startswith("At "))  # fmt: skip
    few = msgspec.structs.replace(
        torn_sweep(), records=RecordTable.from_records(r for r in made.campaign() if r.index < 3)
    )
    steps = {gate.next_step for gate in analyse(few).gates if gate.code == "too_few_requests"}
    assert steps == {"The run was cut short: run it again for the whole plan."}, (
        "no larger --requests would have helped"
    )
    assert "grew to the last level that was measured whole" in markdown.render(findings)
    chart = sweep_chart(findings)
    assert chart is not None
    assert "up to 1 in flight, the highest load that was measured whole" in chart.sentence
    assert "4 in flight (cut short)" in [row[0] for row in chart.rows]


def test_a_sweep_by_time_tells_where_it_ended() -> None:
    load = msgspec.structs.replace(SWEEP, requests=None, duration_s=60.0)
    findings = analyse(torn_sweep(load))
    assert findings.load.endswith("60 s per arm; the run was cut short at 4 in flight")
    rows = [row[:2] for row in tables.level_rows(findings)[1]]
    assert rows[2:4] == [["4 in flight (cut short)", "bf16"], ["", "fp8"]]
    assert rows[4][0] == "8 in flight (not reached)"
    whole = analyse(msgspec.structs.replace(torn_sweep(load), interrupted=False))
    assert [level.cut_short for level in whole.levels] == [{}, {}, {}]


def test_a_run_that_ended_after_its_load_is_not_said_to_have_measured_less_than_planned() -> None:
    """'cut short: 32 requests measured per arm; planned were 32': only the passes for accuracy were missing."""
    findings = analyse(made.evidence(made.campaign(), complete=False))
    assert findings.load == "one request at a time, 32 measured requests per arm"
    gate = next(gate for gate in findings.gates if gate.code == "cut_short")
    assert gate.fact.startswith("The run ended before its plan did, after its load, which was measured as planned: ")


def test_of_two_runs_each_has_its_own_plan_and_end() -> None:
    short = [r for r in made.campaign(2) if r.index < 20]
    cut = made.evidence(short, plan=made.plan(load=LoadProfile(requests=100)), complete=False, run_id="later")
    found = analyse(joined(made.evidence(made.campaign()), cut))
    assert found.load == (
        "one request at a time, cut short: 32 requests measured for a, 20 for b; planned were 32 for a, 100 for b"
    )
    after = made.evidence(made.campaign(2), complete=False, run_id="later")
    assert "cut short" not in analyse(joined(made.evidence(made.campaign()), after)).load
