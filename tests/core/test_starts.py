"""Starts of containers as figures and sentences."""

from __future__ import annotations

import made
import msgspec

from client.core.analysis import analyse
from client.core.container import StartMarks
from client.core.parts import Measured
from client.core.starts import server_start, start_sentences

S = 1_000_000_000


def start(at: int, **seconds: float) -> StartMarks:
    return StartMarks(started_ns=at * S, **{name: int((at + value) * S) for name, value in seconds.items()})


FIRST = start(100, weights_ns=12, engine_ns=95.5, serving_ns=99, healthy_ns=101, first_token_ns=103)


def test_each_step_counts_from_the_process() -> None:
    found = server_start([FIRST])
    assert {name: item.value for name, item in found.items()} == {
        "start_weights_loaded_s": 12, "start_engine_ready_s": 95.5, "start_serving_s": 99, "start_healthy_s": 101, "start_first_token_s": 103,
    }  # fmt: skip
    assert all((item.n, item.unit, item.low) == (1, "s", None) for item in found.values())


def test_two_starts_give_their_median_and_range() -> None:
    healthy = server_start([FIRST, start(900, healthy_ns=91)])["start_healthy_s"]
    assert (healthy.value, healthy.low, healthy.high, healthy.n) == (96, 91, 101, 2)


def test_what_was_not_seen_is_no_figure_and_a_moment_before_the_process_belongs_to_another_start() -> None:
    assert server_start(()) == {}
    assert server_start([StartMarks(weights_ns=5 * S)]) == {}
    assert server_start([start(100, weights_ns=-3, healthy_ns=7)]).keys() == {"start_healthy_s"}


def test_the_sentence_names_every_step_and_the_making_of_the_container_once() -> None:
    marks = StartMarks(created_ns=98 * S, started_ns=100 * S, healthy_ns=140 * S)
    assert start_sentences([marks]) == [
        "Its start, since the process of its container began (2.0 s after the container was made): healthy 40.0 s."
    ]
    again = start_sentences([marks, FIRST])
    assert again[1].startswith("Start 2 of 2, since the process of its container began: weights loaded 12.0 s, engine")


def test_the_findings_of_a_watched_container_hold_its_start_and_others_do_not() -> None:
    watched = msgspec.structs.replace(made.server("fp8"), starts=(FIRST,))
    evidence = made.evidence(made.campaign(), servers={"bf16": made.server("bf16"), "fp8": watched})
    targets = analyse(evidence, Measured()).targets
    assert targets["fp8"].cold_start["start_healthy_s"].value == 101
    assert any("healthy 101.0 s" in note for note in targets["fp8"].notes)
    assert "start_healthy_s" not in targets["bf16"].cold_start
