"""Pictures that a server had seen before they were measured: in its warm-up, and within one stay only."""

from __future__ import annotations

import made
import msgspec
import pytest

from client.core.analysis import analyse
from client.core.evidence import Evidence
from client.core.findings import Gate, Severity
from client.core.plan import Design
from client.core.records import Outcome, Phase, RequestRecord


def warmed(pictures: int, *, shared: int, phase: Phase = Phase.WARMUP, before: bool = True, **fields: object) -> list[RequestRecord]:  # fmt: skip
    """`pictures` warm-up requests to each server, `shared` of them in pictures that are measured as well."""
    return [
        made.record(name, k, 10.0 * k + (0 if before else 900_000), phase=phase, image=f"synthetic-{k if k < shared else k + 900:06d}", **fields)  # type: ignore[arg-type]  # fields of a record
        for name in ("bf16", "fp8")
        for k in range(pictures)
    ]  # fmt: skip


def repeated(evidence: Evidence) -> list[Gate]:
    return [gate for gate in analyse(evidence).gates if gate.code == "repeated_images"]


def test_pictures_of_the_warm_up_are_not_new_ones() -> None:
    """Without counters nobody else can tell that a warm cache answered."""
    found = repeated(made.evidence([*warmed(20, shared=20), *made.campaign()], servers={}))
    assert [(gate.severity, gate.targets) for gate in found] == [(Severity.INVALID, ("bf16", "fp8"))]
    told = (
        "20 of 32 requests to bf16, in pictures that were sent to it before it was measured, 20 of 32 requests to fp8"
    )
    assert told in found[0].fact
    assert repeated(made.evidence([*warmed(20, shared=20), *made.campaign()])) == [], "its counters show silent caches"


@pytest.mark.parametrize(
    "records",
    [
        warmed(20, shared=0),
        warmed(20, shared=3),
        warmed(20, shared=20, phase=Phase.QUALITY, before=False),
        warmed(20, shared=20, outcome=Outcome.HTTP_ERROR, status=503),
    ],
    ids=["others", "few", "later", "not answered"],
)  # fmt: skip
def test_pictures_that_no_cache_can_hold_are_new(records: list[RequestRecord]) -> None:
    assert repeated(made.evidence([*records, *made.campaign()], servers={})) == []


def test_passes_for_accuracy_before_the_load_count() -> None:
    assert (
        len(repeated(made.evidence([*warmed(20, shared=20, phase=Phase.QUALITY), *made.campaign()], servers={}))) == 1
    )


def test_a_server_that_was_started_anew_has_forgotten() -> None:
    """Serial: the baseline's second stay begins with a warm-up of its own."""
    order = [("bf16", 0), ("bf16", 1), *(("fp8", k) for k in range(4)), ("bf16", 2), ("bf16", 3)]
    records = made.campaign(order=order, per_block=10)
    again = max(r.intended_ns for r in records if r.target == "fp8") / made.MS + 300
    plan = made.plan(design=Design.SERIAL)
    for first, found in ((0, 0), (20, 1)):
        warm = [
            made.record("bf16", k, again + k / 100, phase=Phase.WARMUP, image=f"synthetic-{first + k:06d}")
            for k in range(10)
        ]
        gates = repeated(made.evidence([*records, *warm], servers={}, plan=plan))
        assert [gate.targets for gate in gates] == [("bf16",)] * found, first


def test_one_target_alone_is_looked_at_too() -> None:
    plan = made.plan(targets=made.plan().targets[:1], design=Design.SINGLE)
    records = [r for r in (*warmed(20, shared=20), *made.campaign()) if r.target == "bf16"]
    assert len(repeated(made.evidence(records, servers={}, plan=plan))) == 1
    tries = [msgspec.structs.replace(r, attempt=0) for r in records if r.phase is Phase.MEASURE]
    assert repeated(made.evidence(tries, servers={}, plan=plan)) == []
