"""When a request is tried again, by a fake clock and through a door that is busy."""

from __future__ import annotations

import msgspec
from fakes import FakeBodies, FakeClock, FakeDoor

from client.core.outcomes import safe_to_retry
from client.core.records import Outcome, Phase, RequestRecord
from client.core.schedule import closed_loop
from client.generator import HEAD_START_NS, LocalFleet

START = 1_000 + HEAD_START_NS


class Busy(FakeDoor):
    """Says 429 to the first `declines` tries of every slot."""

    def __init__(self, clock: FakeClock, declines: int, retry_after_s: float | None) -> None:
        super().__init__(clock, lambda slot: 1)
        self.declines = declines
        self.retry_after_s = retry_after_s

    async def send(self, prepared, slot, *, sink, attempt=0, **place):  # type: ignore[no-untyped-def,override]
        kept: list[RequestRecord] = []
        record = await super().send(prepared, slot, sink=kept.append, attempt=attempt, **place)
        if attempt < self.declines:
            record = msgspec.structs.replace(
                record, outcome=Outcome.HTTP_ERROR, status=429, retry_after_s=self.retry_after_s
            )
        sink(record)
        return record


async def tries_of(retries: int, declines: int, retry_after_s: float | None = None) -> tuple[list[RequestRecord], int]:
    clock = FakeClock()
    records: list[RequestRecord] = []
    fleet = LocalFleet(
        {"t": Busy(clock, declines, retry_after_s)}, {"t": FakeBodies()}, records.append, clock=clock, retries=retries
    )
    await clock.play(fleet.run("t", closed_loop(1, 1), phase=Phase.MEASURE))
    return records, clock.now


async def test_nothing_is_tried_again_unless_asked_for() -> None:
    records, _ = await tries_of(retries=0, declines=5)
    assert [record.attempt for record in records] == [0]


async def test_each_try_leaves_its_record() -> None:
    records, now = await tries_of(retries=3, declines=2)
    assert [(record.attempt, record.outcome) for record in records] == [
        (0, Outcome.HTTP_ERROR),
        (1, Outcome.HTTP_ERROR),
        (2, Outcome.OK),
    ]
    assert {record.intended_ns for record in records} == {START}
    assert now - START == 3 + 1_500_000_000


async def test_after_an_abort_nothing_is_tried_again() -> None:
    clock = FakeClock()
    records: list[RequestRecord] = []

    def sink(record: RequestRecord) -> None:
        records.append(record)
        fleet.abort()

    door = Busy(clock, 5, 1e-9)
    fleet = LocalFleet({"t": door}, {"t": FakeBodies()}, sink, clock=clock, retries=3, grace_s=5.0)
    await clock.play(fleet.run("t", closed_loop(1, 1), phase=Phase.MEASURE))
    assert [record.attempt for record in records] == [0]


async def test_the_server_says_how_long_to_wait() -> None:
    records, now = await tries_of(retries=1, declines=9, retry_after_s=7)
    assert len(records) == 2
    assert now - START == 2 + 7_000_000_000


def test_a_try_that_the_server_may_have_worked_on_is_final() -> None:
    for outcome in (
        Outcome.RESET,
        Outcome.TIMEOUT_FIRST_BYTE,
        Outcome.TRUNCATED,
        Outcome.STREAM_ERROR,
        Outcome.CANCELLED,
    ):
        sent = RequestRecord(
            target="t", phase=Phase.MEASURE, index=0, image_id="i", outcome=outcome, intended_ns=0, sent_ns=1
        )
        assert not safe_to_retry(sent)
    for outcome in (Outcome.REFUSED, Outcome.DNS, Outcome.TIMEOUT_CONNECT):
        assert safe_to_retry(msgspec.structs.replace(sent, outcome=outcome, sent_ns=None))
