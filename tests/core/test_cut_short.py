"""A run that ended before its plan did says what it measured, not what it was asked for."""

from __future__ import annotations

import made
import msgspec

from client.core.analysis import analyse
from client.core.measured import measured_in
from client.core.plan import LoadProfile
from client.core.records import Outcome
from client.core.sentences import load_sentence

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
