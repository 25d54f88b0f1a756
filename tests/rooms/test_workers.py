"""Several processes, one schedule: nothing lost, nothing twice, one start, and an end when it is asked for."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest
from fleets import all_of, fleet_of, keys, until, written
from tiny_kit import TinyKit

from client.core.arrivals import by_count
from client.core.plan import Arrival
from client.core.records import Outcome, Phase, RequestRecord
from client.core.schedule import Schedule, closed_loop, closed_loop_for, open_loop
from client.errors import MeasurementInvalid, UsageError
from client.workers import Fleet
from client.workers.fleet import START_LEAD_NS


@pytest.mark.parametrize(
    "schedule", [closed_loop(40, 5), open_loop(by_count(Arrival.POISSON, 200, 60, seed=(1,))), closed_loop(1, 1)]
)
async def test_the_shares_are_the_whole_schedule(schedule: Schedule, tmp_path: Path) -> None:
    seen: list[RequestRecord] = []
    async with fleet_of(3, tmp_path, see=seen.append) as fleet:
        result = await fleet.run("t", schedule, phase=Phase.MEASURE, block=4, level=2)
        facts = fleet.drain()
        assert fleet.drain() == []
    records = written(tmp_path)
    assert keys(records) == all_of(schedule) == keys(seen)
    assert sorted(fact.image_id for fact in facts) == sorted(f"image-{slot.image}" for slot in schedule)
    busy = min(3, schedule.concurrency or 3)
    assert [health.worker for health in result.health] == list(range(busy))
    assert sum(health.requests for health in result.health) == len(records)
    assert len({record.text for record in records}) == busy, "each share in a process of its own"
    assert {(record.block, record.level) for record in records} == {(4, 2)}
    assert {(health.target, health.block, health.level) for health in result.health} == {("t", 4, 2)}
    assert (result.window.target, result.window.phase) == ("t", Phase.MEASURE)
    assert (result.window.block, result.window.level) == (4, 2)
    assert result.window.start_ns <= min(record.intended_ns for record in records)
    assert result.window.end_ns >= max(record.done_ns or 0 for record in records)


async def test_answers_of_quality_passes_come_back_with_their_words_and_tokens(tmp_path: Path) -> None:
    seen: list[RequestRecord] = []
    async with fleet_of(2, tmp_path, see=seen.append) as fleet:
        await fleet.run("t", closed_loop(6, 2, phase=Phase.QUALITY, edges=False), phase=Phase.QUALITY)
        await fleet.run("t", closed_loop(6, 2, edges=False), phase=Phase.MEASURE)
    told = {phase: [record for record in seen if record.phase is phase] for phase in (Phase.QUALITY, Phase.MEASURE)}
    assert [len(records) for records in told.values()] == [6, 6]
    assert all(record.text and record.tokens for record in told[Phase.QUALITY])
    assert all(record.text is None for record in told[Phase.MEASURE]), "the eye needs no words"
    assert all(record.text and not record.tokens for record in written(tmp_path)), "tokens stay out of requests.jsonl"


async def test_all_workers_start_at_one_instant(tmp_path: Path) -> None:
    async with fleet_of(2, tmp_path) as fleet:
        asked_ns = time.monotonic_ns()
        result = await fleet.run("t", closed_loop(2, 2), phase=Phase.MEASURE)
    assert result.window.start_ns >= asked_ns + START_LEAD_NS, "far enough ahead for the word to reach all of them"
    first = [record for record in written(tmp_path) if record.intended_ns == result.window.start_ns]
    assert {record.worker for record in first} == {0, 1}
    assert {health.start_ns for health in result.health} == {result.window.start_ns}
    assert max((record.sent_ns or 0) - record.intended_ns for record in first) < 2_000_000_000


async def test_the_start_waits_for_the_pictures_of_the_slowest_worker(tmp_path: Path) -> None:
    slow = TinyKit(trouble="slow pictures", pictures_s=0.6, at=1)  # picture 1 is in the share of worker 1
    async with fleet_of(2, tmp_path, slow) as fleet:
        asked_ns = time.monotonic_ns()
        result = await fleet.run("t", closed_loop(2, 2), phase=Phase.MEASURE)
    assert result.window.start_ns - asked_ns > 600_000_000
    first = [record for record in written(tmp_path) if record.intended_ns == result.window.start_ns]
    assert {record.worker for record in first} == {0, 1}
    assert min((record.sent_ns or 0) - record.intended_ns for record in first) >= 0


async def test_each_worker_prepares_its_own_share_and_as_much_of_it_as_is_likely(tmp_path: Path) -> None:
    async with fleet_of(2, tmp_path) as fleet:
        await fleet.run("t", closed_loop(7, 3), phase=Phase.MEASURE)
        all_at_once = {(fact.width, fact.height) for fact in fleet.drain()}
        await fleet.prepare(range(1_000), likely=5)
        await fleet.run("t", closed_loop_for(1_000_000, 3, bound=1_000), phase=Phase.MEASURE)
        few = {(fact.width, fact.height) for fact in fleet.drain()}
        await fleet.prepare(range(100_000), likely=100_000)
        await fleet.run("t", closed_loop(2, 3), phase=Phase.MEASURE)
        many = {fact.width for fact in fleet.drain()}
    assert all_at_once == {(4_096, 9), (4_096, 4)}, "two lanes of three, and one"
    assert {width for width, _ in few} == {3}, "the half of 5"
    assert sum(height for _, height in few) == 1_000 + 2 * 3
    assert many == {4_096}


async def test_tries_are_repeated_by_the_workers_too(tmp_path: Path) -> None:
    async with fleet_of(2, tmp_path, TinyKit(trouble="busy"), retries=1) as fleet:
        await fleet.run("t", closed_loop(4, 2, edges=False), phase=Phase.MEASURE)
    tries = sorted((record.index, record.attempt, record.outcome) for record in written(tmp_path))
    assert tries == [(n, a, (Outcome.HTTP_ERROR, Outcome.OK)[a]) for n in range(4) for a in (0, 1)]


async def test_the_eye_gets_no_stamps_of_tokens(tmp_path: Path) -> None:
    seen: list[RequestRecord] = []
    async with fleet_of(2, tmp_path, see=seen.append) as fleet:
        await fleet.run("t", closed_loop(4, 2), phase=Phase.MEASURE)
    assert {record.chunk_ns for record in seen} == {()}
    assert {record.chunk_ns for record in written(tmp_path)} == {(1, 2)}


async def test_requests_in_flight_are_told_over_processes(tmp_path: Path) -> None:
    async with fleet_of(2, tmp_path, TinyKit(takes_s=0.5)) as fleet:
        running = asyncio.create_task(fleet.run("t", closed_loop(4, 4), phase=Phase.MEASURE))
        await until(lambda: fleet.in_flight == 4)
        await running
        assert fleet.in_flight == 0


async def test_arrivals_keep_their_times_over_processes(tmp_path: Path) -> None:
    offsets = by_count(Arrival.CONSTANT, 100, 30, seed=(0,))
    async with fleet_of(2, tmp_path) as fleet:
        result = await fleet.run("t", open_loop(offsets), phase=Phase.MEASURE)
    intended = sorted(record.intended_ns - result.window.start_ns for record in written(tmp_path))
    assert intended == offsets.tolist()


@pytest.mark.parametrize("seed", range(3))
async def test_an_abort_at_any_moment_leaves_a_record_for_each_sent_request(seed: int, tmp_path: Path) -> None:
    moment = random.Random(seed).uniform(0, 0.5)
    seen: list[RequestRecord] = []
    async with fleet_of(2, tmp_path, TinyKit(takes_s=0.3), see=seen.append) as fleet:
        asyncio.get_running_loop().call_later(moment, fleet.abort)
        began = time.monotonic()
        result = await fleet.run("t", closed_loop(1000, 6), phase=Phase.MEASURE)
        assert time.monotonic() - began < moment + 1.5
    records = written(tmp_path)
    assert len(records) == len(set(keys(records))) == sum(health.requests for health in result.health) == len(seen)
    assert {record.outcome for record in records} <= {Outcome.OK, Outcome.CANCELLED}


async def test_what_is_in_flight_at_an_abort_gets_its_grace_and_no_more(tmp_path: Path) -> None:
    seen: list[RequestRecord] = []
    async with fleet_of(2, tmp_path, TinyKit(takes_s=1.5), see=seen.append) as fleet:
        run = asyncio.create_task(fleet.run("t", closed_loop(100, 4), phase=Phase.MEASURE))
        await until(lambda: fleet.in_flight == 4)
        fleet.abort()
        await run
    assert [record.outcome for record in written(tmp_path)] == [Outcome.CANCELLED] * 4


async def test_an_abort_does_not_wait_for_pictures(tmp_path: Path) -> None:
    async with fleet_of(2, tmp_path, TinyKit(trouble="slow pictures")) as fleet:
        run = asyncio.create_task(fleet.run("t", closed_loop(20, 4), phase=Phase.MEASURE))
        await asyncio.sleep(0.3)
        fleet.abort()
        await asyncio.wait_for(run, 5)
    assert not written(tmp_path)


async def test_a_cancelled_run_stops_the_workers(tmp_path: Path) -> None:
    seen: list[RequestRecord] = []
    async with fleet_of(2, tmp_path, see=seen.append) as fleet:
        run = asyncio.create_task(fleet.run("t", closed_loop(100_000, 6), phase=Phase.MEASURE))
        await until(lambda: len(seen) > 20)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        ended = len(written(tmp_path))
        await asyncio.sleep(0.3)
        assert len(written(tmp_path)) == ended, "what was in flight has left its record by then"
    assert 20 < ended < 10_000


@pytest.mark.parametrize("trouble", ["picture", "recipe"])
async def test_an_error_that_a_person_can_mend_comes_out_as_it_is(trouble: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        async with fleet_of(2, tmp_path, TinyKit(trouble=trouble)) as fleet:
            await fleet.run("t", closed_loop(10, 2), phase=Phase.MEASURE)
    assert caught.value.hint


async def test_an_error_of_one_worker_comes_out_before_the_aborts_that_it_caused_and_nothing_was_sent(
    tmp_path: Path,
) -> None:
    async with fleet_of(2, tmp_path, TinyKit(trouble="picture", at=1)) as fleet:
        with pytest.raises(UsageError, match=r"img\.jpg is no picture"):
            await fleet.run("t", closed_loop(10, 2), phase=Phase.MEASURE)
        assert fleet.in_flight == 0
    assert not written(tmp_path)


@pytest.mark.parametrize(
    ("trouble", "end", "hint"), [("exit", "exit code 3", "stands above"), ("killed", "signal 9", "out-of-memory")]
)
async def test_a_worker_that_ends_while_it_starts_is_named_and_the_others_are_ended(
    trouble: str, end: str, hint: str, tmp_path: Path
) -> None:
    fleet = Fleet(2, TinyKit(trouble=trouble, marker=tmp_path / "first"), tmp_path)
    with pytest.raises(MeasurementInvalid, match=rf"load worker \d did not start: {end}") as caught:
        await fleet.start()
    assert hint in caught.value.hint
    assert fleet.processes == [None, None]


async def test_a_fleet_gives_back_its_descriptors(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    async with fleet_of(2, tmp_path) as fleet:
        await fleet.run("t", closed_loop(4, 2), phase=Phase.MEASURE)
    await asyncio.sleep(0)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_a_bug_in_a_worker_comes_out_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)load worker \d: Traceback.*a bug of ours"):
        async with fleet_of(2, tmp_path, TinyKit(trouble="bug")) as fleet:
            await fleet.run("t", closed_loop(10_000, 2), phase=Phase.MEASURE)
