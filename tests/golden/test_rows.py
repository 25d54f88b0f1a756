"""Rows of the main table that need a rule of their own."""

from __future__ import annotations

import msgspec
import pytest
import report_runs

from client.core.analysis import analyse
from client.core.findings import Estimate, Memory
from client.core.measured import measured_in
from client.reports.accuracy import accuracy_rows
from client.reports.tables import main_rows, unsupported


@pytest.mark.parametrize(
    ("memory", "cell"),
    [
        (Memory(requests_at_once=282.9), "282"),
        (Memory(requests_at_once=1365.3, max_num_seqs=128), "128 (--max-num-seqs)"),
        (Memory(requests_at_once=90.5, max_num_seqs=128), "90"),
    ],
)
def test_requests_at_once_are_whole_and_never_more_than_the_scheduler_runs(memory: Memory, cell: str) -> None:
    evidence = report_runs.simulated()
    findings = analyse(evidence, measured_in(evidence))
    targets = {name: msgspec.structs.replace(target, memory=memory) for name, target in findings.targets.items()}
    rows = main_rows(msgspec.structs.replace(findings, targets=targets))
    (row,) = (row for row in rows if row[0] == "Requests that fit at once")
    assert row[1:3] == [cell, cell]
    assert row[3] == "0.0 %"


def test_what_no_log_told_has_no_row() -> None:
    evidence = report_runs.simulated()
    findings = analyse(evidence, measured_in(evidence))
    targets = {name: msgspec.structs.replace(target, memory=Memory()) for name, target in findings.targets.items()}
    rows = main_rows(msgspec.structs.replace(findings, targets=targets))
    assert "Requests that fit at once" not in {row[0] for row in rows}


@pytest.mark.parametrize("order", [(26, 41), (41, 26)])
def test_what_a_quantile_lacks_is_told_of_the_arm_that_lacks_most(order: tuple[int, int]) -> None:
    evidence = report_runs.simulated()
    findings = analyse(evidence, measured_in(evidence))
    targets = {
        name: msgspec.structs.replace(
            target,
            metrics=target.metrics
            | {
                "e2e_ms_p95": Estimate(n=100, note=f"needs n ≥ 59; the 100 here are worth {worth} independent ones"),
                "e2e_ms_p99": Estimate(value=1.0),
            },
        )
        for (name, target), worth in zip(findings.targets.items(), order, strict=True)
    }
    worst = list(targets)[order.index(26)]
    told = unsupported(msgspec.structs.replace(findings, targets=targets))
    assert told == f"p95 needs n ≥ 59; the 100 of {worst} are worth 26 independent ones"


def test_scores_that_nobody_can_give_are_one_row() -> None:
    evidence = report_runs.simulated()
    findings = analyse(evidence, measured_in(evidence))
    nothing = Estimate(note="needs 10 different images or more")
    targets = {}
    for name, target in findings.targets.items():
        assert target.quality is not None
        quality = msgspec.structs.replace(target.quality, scores=dict.fromkeys(target.quality.scores, nothing))
        targets[name] = msgspec.structs.replace(target, quality=quality)
    rows = accuracy_rows(msgspec.structs.replace(findings, targets=targets))
    assert [row[0] for row in rows] == ["answers scored", "true boxes", "every score"]
    assert rows[-1][1:] == ["needs 10 different images or more"] * 2
    assert len(accuracy_rows(findings)) > 10
