"""The walk of a schedule, by a fake clock and through a fake door."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fakes import FakeBodies, FakeClock, FakeDoor
from hypothesis import given, settings
from hypothesis import strategies as st

from client.core.arrivals import by_count
from client.core.blocks import block_plan
from client.core.plan import Arrival, Design, LoadProfile, Target
from client.core.records import Outcome, Phase, RequestRecord
from client.core.schedule import Schedule, Slot, closed_loop, closed_loop_for, open_loop
from client.errors import RunDirError
from client.generator import HEAD_START_NS, BlockResult, LocalFleet

START = 1_000 + HEAD_START_NS


class Bench:
    """A fleet on fakes, and what came out of it."""

    def __init__(self, takes: int = 10, grace_s: float = 0.05) -> None:
        self.clock = FakeClock()
        self.door = FakeDoor(self.clock, lambda slot: takes)
        self.bodies = FakeBodies()
        self.records: list[RequestRecord] = []
        self.fleet = LocalFleet(
            {"t": self.door}, {"t": self.bodies}, self.records.append, clock=self.clock, grace_s=grace_s
        )

    async def run(self, schedule: Schedule, block: int | None = 2, level: int = 1) -> BlockResult:
        return await self.clock.play(self.fleet.run("t", schedule, phase=Phase.MEASURE, block=block, level=level))


def arrivals(*offsets: int, cap: int | None = None) -> Schedule:
    return open_loop(np.array(offsets, dtype=np.int64), max_in_flight=cap)


async def test_a_closed_loop_keeps_its_lanes_busy_and_no_more() -> None:
    bench = Bench(takes=10)
    told: list[int] = []
    bench.door.takes = lambda slot: told.append(bench.fleet.in_flight) or 10  # type: ignore[func-returns-value]  # notes, then answers
    result = await bench.run(closed_loop(7, 3))
    assert (max(told), bench.fleet.in_flight) == (3, 0)
    assert bench.door.most_in_flight == 3
    assert [slot.image for slot in bench.door.sent] == list(range(13))
    assert result.window.end_ns - result.window.start_ns == 50, "13 requests of 10 ns in 3 lanes take 5 rounds"
    assert result.health[0].requests == len(bench.records) == 13


@pytest.mark.parametrize("schedule", [closed_loop(3, 1), arrivals(0, 10, 20)])
async def test_a_start_that_is_given_is_the_start(schedule: Schedule) -> None:
    bench = Bench(takes=10)
    result = await bench.clock.play(bench.fleet.run("t", schedule, phase=Phase.MEASURE, start_ns=70_000))
    assert [record.intended_ns for record in bench.records] == [70_000, 70_010, 70_020]
    assert [record.sent_ns for record in bench.records] == [70_000, 70_010, 70_020]
    assert result.window.start_ns == result.health[0].start_ns == 70_000


async def test_a_closed_loop_slot_is_intended_for_the_end_of_the_answer_before_it() -> None:
    bench = Bench(takes=10)
    await bench.run(closed_loop(3, 1))
    assert [record.intended_ns - START for record in bench.records] == [0, 10, 20]


async def test_a_lane_is_free_from_the_stamp_of_its_answer_not_from_when_this_process_saw_it() -> None:
    """The answer came at 10, and a late loop hands it over at 17: the next request is 7 late, and that is said."""
    bench = Bench(takes=10)
    real = bench.door.send

    async def late(*args: Any, **named: Any) -> RequestRecord:
        record = await real(*args, **named)
        await bench.clock.sleep_until(bench.clock.now + 7)
        return record

    bench.door.send = late  # type: ignore[method-assign]  # a door whose answers are seen late
    result = await bench.run(closed_loop(3, 1))
    assert [record.intended_ns - START for record in bench.records] == [0, 10, 27]
    assert result.health[0].send_lag_max_ns == 7


async def test_a_stamp_from_after_now_frees_no_lane_in_the_future() -> None:
    bench = Bench(takes=10)
    real = bench.door.send

    async def ahead(*args: Any, **named: Any) -> RequestRecord:
        record = await real(*args, **named)
        return msgspec.structs.replace(record, done_ns=(record.done_ns or 0) + 5)

    bench.door.send = ahead  # type: ignore[method-assign]  # a door whose clock is ahead
    await bench.run(closed_loop(3, 1))
    assert [record.intended_ns - START for record in bench.records] == [0, 10, 20]


async def test_records_carry_their_place() -> None:
    bench = Bench()
    result = await bench.run(closed_loop(1, 2))
    assert [record.phase for record in bench.records] == [Phase.EDGE] * 2 + [Phase.MEASURE] + [Phase.EDGE] * 2
    assert {(record.block, record.level, record.worker) for record in bench.records} == {(2, 1, 0)}
    assert (result.window.block, result.window.level, result.window.phase) == (2, 1, Phase.MEASURE)


async def test_a_duration_ends_a_closed_loop_and_the_lead_out_follows() -> None:
    bench = Bench(takes=10)
    await bench.run(closed_loop_for(35, 2, bound=10**12))  # what is left is not walked through
    phases = [slot.phase for slot in bench.door.sent]
    assert phases == [Phase.EDGE] * 2 + [Phase.MEASURE] * 6 + [Phase.EDGE] * 2
    assert max(record.intended_ns for record in bench.records) - START == 40


async def test_a_block_by_duration_lasts_so_long_also_on_a_server_that_answers_at_once() -> None:
    load = LoadProfile(requests=None, duration_s=0.2, blocks_per_arm=2, concurrency=2, warmup=0)
    block = block_plan([Target(name="t", base_url="http://t")], Design.SINGLE, load)[0]
    bench = Bench(takes=150_000)
    await bench.run(block.slots)
    measured = [record for record in bench.records if record.phase is Phase.MEASURE]
    assert len(measured) == pytest.approx(2 * 100_000_000 / 150_000, abs=6)


async def test_an_open_loop_sends_at_its_times_whatever_is_in_flight() -> None:
    bench = Bench(takes=1_000)
    await bench.run(arrivals(0, 5, 5, 90))
    assert [record.sent_ns - START for record in bench.records if record.sent_ns] == [0, 5, 5, 90]
    assert bench.door.most_in_flight == 4


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), count=st.integers(1, 60), takes=st.integers(1, 10**9))
def test_every_arrival_is_sent_once_and_on_time(seed: int, count: int, takes: int) -> None:
    bench = Bench(takes=takes)
    offsets = by_count(Arrival.POISSON, 50, count, seed=(seed,))
    asyncio.run(bench.run(open_loop(offsets)))
    assert sorted(record.intended_ns - START for record in bench.records) == offsets.tolist()
    assert all(record.sent_ns == record.intended_ns for record in bench.records)


async def test_a_cap_delays_sending_and_never_the_intended_time() -> None:
    bench = Bench(takes=100)
    result = await bench.run(arrivals(0, 10, 20, 250, cap=1))
    records = sorted(bench.records, key=lambda record: record.intended_ns)
    assert [record.intended_ns - START for record in records] == [0, 10, 20, 250]
    assert [(record.sent_ns or 0) - START for record in records] == [0, 100, 200, 300]
    assert bench.door.most_in_flight == 1
    assert result.health[0].held_back == 3
    assert (result.health[0].held_p99_ns, result.health[0].send_lag_max_ns) == (180, 0), "it waited, it was not late"


async def test_an_arrival_that_waits_behind_a_held_one_is_held_back_too() -> None:
    bench = Bench(takes=100)
    bench.door.takes = lambda slot: 100 if slot.index < 2 else 1
    result = await bench.run(arrivals(0, 0, 10, 20, cap=2))
    assert result.health[0].held_back == 2


async def test_late_arrivals_are_never_re_anchored() -> None:
    """A loop that could not run for a while sends everything that is due at once; the times stay those of the plan."""
    bench = Bench(takes=1)
    schedule = arrivals(0, 100, 200, 300, 400)
    original = bench.clock.sleep_until

    async def oversleeping(at_ns: int) -> None:
        await original(at_ns if at_ns != START + 100 else START + 350)

    bench.clock.sleep_until = oversleeping  # type: ignore[method-assign]  # a clock with one late wake-up
    await bench.run(schedule)
    assert [record.intended_ns - START for record in bench.records] == [0, 100, 200, 300, 400]
    assert [(record.sent_ns or 0) - START for record in bench.records] == [0, 350, 350, 350, 400]


@pytest.mark.parametrize("schedule", [closed_loop(500, 4), arrivals(*range(0, 5000, 10))])
async def test_an_abort_stops_sending_and_every_sent_request_leaves_a_record(schedule: Schedule) -> None:
    bench = Bench(takes=10**12, grace_s=0.0)
    bench.door.takes = lambda slot: 15 if slot.image < 20 else 10**12
    run = asyncio.ensure_future(bench.run(schedule))
    while len(bench.door.sent) < 24:  # noqa: ASYNC110  # the fake door has no event to wait for
        await asyncio.sleep(0)
    bench.fleet.abort()
    result = await run
    sent = len(bench.door.sent)
    assert 24 <= sent < 60
    assert sorted(record.index for record in bench.records if record.phase is Phase.MEASURE) == sorted(
        slot.index for slot in bench.door.sent if slot.phase is Phase.MEASURE
    )
    assert len(bench.records) == sent == result.health[0].requests
    outcomes = [record.outcome for record in bench.records]
    assert outcomes.count(Outcome.CANCELLED) == bench.door.most_in_flight or Outcome.CANCELLED in outcomes
    assert bench.door.in_flight == 0
    again = await bench.run(schedule)
    assert again.health[0].requests == 0, "a fleet that was told to stop sends nothing more"


@pytest.mark.parametrize("schedule", [closed_loop(50_000, 4), arrivals(*range(0, 500_000, 10))])
async def test_after_an_abort_requests_in_flight_may_end_and_none_follows(schedule: Schedule) -> None:
    bench = Bench(takes=25, grace_s=30.0)
    run = asyncio.ensure_future(bench.run(schedule))
    while len(bench.door.sent) < 50:  # noqa: ASYNC110  # the fake door has no event to wait for
        await asyncio.sleep(0)
    sent = len(bench.door.sent)
    bench.fleet.abort()
    await run
    assert len(bench.door.sent) == len(bench.records) == sent
    assert {record.outcome for record in bench.records} == {Outcome.OK}


@pytest.mark.parametrize("schedule", [closed_loop(500, 4), arrivals(*range(0, 5000, 10))])
async def test_a_cancelled_run_leaves_a_record_for_each_sent_request(schedule: Schedule) -> None:
    bench = Bench(takes=10**12)
    run = asyncio.ensure_future(bench.fleet.run("t", schedule, phase=Phase.MEASURE))
    play = asyncio.ensure_future(bench.clock.play(asyncio.sleep(0.05)))
    await play
    assert bench.door.in_flight > 0
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert len(bench.records) == len(bench.door.sent) > 0
    assert {record.outcome for record in bench.records} == {Outcome.CANCELLED}


@pytest.mark.parametrize("schedule", [closed_loop(50, 4), arrivals(*range(0, 500, 10))])
async def test_a_sink_that_cannot_write_ends_the_walk(schedule: Schedule) -> None:
    bench = Bench(takes=10)
    written: list[RequestRecord] = []

    def full_disk(record: RequestRecord) -> None:
        if len(written) == 5:
            raise RunDirError("cannot write requests.jsonl: No space left on device.")
        written.append(record)

    fleet = LocalFleet({"t": bench.door}, {"t": bench.bodies}, full_disk, clock=bench.clock)
    with pytest.raises(RunDirError):
        await bench.clock.play(fleet.run("t", schedule, phase=Phase.MEASURE))
    assert len(bench.door.sent) < 20
    assert bench.door.in_flight == 0


@pytest.mark.parametrize("schedule", [closed_loop(50, 4), arrivals(*range(0, 500, 10))])
async def test_one_failure_that_is_over_ends_the_walk_too(schedule: Schedule) -> None:
    bench = Bench(takes=10)
    failed: list[int] = []

    def once(record: RequestRecord) -> None:
        if record.index == 5 and record.phase is Phase.MEASURE and not failed:
            failed.append(record.index)
            raise RunDirError("cannot write requests.jsonl: Input/output error.")

    fleet = LocalFleet({"t": bench.door}, {"t": bench.bodies}, once, clock=bench.clock)
    with pytest.raises(RunDirError):
        await bench.clock.play(fleet.run("t", schedule, phase=Phase.MEASURE))
    assert bench.door.in_flight == 0


async def test_a_cancellation_while_arrivals_are_to_come_ends_those_in_flight() -> None:
    bench = Bench(takes=10**12)
    schedule = arrivals(0, 0, 10**15)
    run = asyncio.ensure_future(bench.fleet.run("t", schedule, phase=Phase.MEASURE, start_ns=0))
    while bench.door.in_flight < 2:  # noqa: ASYNC110  # the fake door has no event to wait for
        await asyncio.sleep(0)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert bench.door.in_flight == 0
    assert [record.outcome for record in bench.records] == [Outcome.CANCELLED] * 2


async def test_each_process_signs_its_records_and_its_health() -> None:
    bench = Bench()
    fleet = LocalFleet({"t": bench.door}, {"t": bench.bodies}, bench.records.append, clock=bench.clock, worker=3)
    result = await bench.clock.play(fleet.run("t", closed_loop(2, 1), phase=Phase.MEASURE))
    assert [record.worker for record in bench.records] == [3, 3]
    assert [health.worker for health in result.health] == [3]


async def test_bodies_are_asked_for_before_their_time() -> None:
    bench = Bench(takes=1)
    seen: list[tuple[int, int]] = []
    get = bench.bodies.get

    async def noting(number: int, /) -> object:
        seen.append((number, bench.clock.now - START))
        return await get(number)

    bench.bodies.get = noting  # type: ignore[method-assign,assignment]  # looks at the time of asking
    await bench.run(arrivals(100, 200))
    assert seen == [(0, -HEAD_START_NS), (1, 100)]


def test_a_slot_compares_by_value() -> None:
    assert Slot(1, 2, Phase.EDGE, 3) == Slot(1, 2, Phase.EDGE, 3)


async def test_a_fleet_of_one_process_gives_its_timer_back() -> None:
    clock = FakeClock()
    fleet = LocalFleet({"t": FakeDoor(clock, lambda slot: 0)}, {"t": FakeBodies()}, lambda record: None)
    before = len(list(Path("/proc/self/fd").iterdir()))
    await fleet.run("t", arrivals(0, 1_000_000), phase=Phase.MEASURE)
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 1
    await fleet.stop()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
