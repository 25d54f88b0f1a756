"""Several processes, one schedule: nothing lost, nothing twice, and a dead worker is accounted for."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tiny_kit import TinyKit

from client.core.arrivals import by_count
from client.core.plan import Arrival
from client.core.records import Outcome, Phase, RequestRecord
from client.core.schedule import Schedule, closed_loop, closed_loop_for, open_loop
from client.errors import MeasurementInvalid, UsageError
from client.rundir import read_lines
from client.workers import Fleet
from client.workers.fleet import START_LEAD_NS

KEY = tuple[Phase, int]


@asynccontextmanager
async def fleet_of(
    workers: int,
    folder: Path,
    kit: TinyKit | None = None,
    see: Callable[[RequestRecord], None] = lambda record: None,
    silence_limit_s: float = 30.0,
) -> AsyncIterator[Fleet]:
    fleet = Fleet(workers, kit or TinyKit(), folder, see, grace_s=0.1, silence_limit_s=silence_limit_s)
    await fleet.start()
    try:
        yield fleet
    finally:
        await fleet.stop()
        assert all(pid is None or not alive(pid) for pid in fleet.processes)


def written(folder: Path) -> list[RequestRecord]:
    return [record for file in sorted(folder.glob("requests-*.jsonl")) for record in read_lines(file, RequestRecord)[0]]


def keys(records: list[RequestRecord]) -> list[KEY]:
    return sorted((record.phase, record.index) for record in records)


def all_of(schedule: Schedule) -> list[KEY]:
    return sorted((slot.phase, slot.index) for slot in schedule)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "zombie" not in Path(f"/proc/{pid}/status").read_text()


async def until(condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.01)


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


async def test_a_killed_worker_is_named_and_its_share_marked(tmp_path: Path) -> None:
    schedule = closed_loop(400, 4)
    seen: list[RequestRecord] = []
    async with fleet_of(2, tmp_path, see=seen.append) as fleet:
        victim = fleet.processes[1]
        assert victim is not None
        run = asyncio.create_task(fleet.run("t", schedule, phase=Phase.MEASURE, block=0))
        await until(lambda: sum(record.worker == 1 for record in seen) >= 10)
        os.kill(victim, signal.SIGKILL)
        result = await run
        after = await fleet.run("t", closed_loop(8, 4, index=400), phase=Phase.MEASURE, block=1)
    records = [record for record in written(tmp_path) if record.block == 0]
    assert keys(records) == all_of(schedule), "every slot has exactly one record"
    lost = [record for record in records if record.outcome is Outcome.LOST]
    assert 50 < len(lost) < 204
    assert {record.worker for record in lost} == {1}
    well, dead = result.health
    assert (well.lost, dead.lost) == (False, True)
    assert dead.note is not None
    assert f"load worker 1 (process {victim}) died: signal 9; {len(lost)} requests" in dead.note
    assert dead.requests == 204 - len(lost)
    assert fleet.processes[1] is None
    assert [health.worker for health in after.health] == [0], "the living take the whole of the next block"
    assert after.health[0].requests == 16


async def test_a_worker_killed_in_a_block_by_duration_loses_what_was_in_flight(tmp_path: Path) -> None:
    seen: list[RequestRecord] = []
    async with fleet_of(2, tmp_path, TinyKit(takes_s=0.02), see=seen.append) as fleet:
        run = asyncio.create_task(fleet.run("t", closed_loop_for(600_000_000, 4, bound=10_000), phase=Phase.MEASURE))
        await until(lambda: len(seen) >= 8)
        os.kill(fleet.processes[0] or 0, signal.SIGKILL)
        await run
    lost = [record for record in written(tmp_path) if record.outcome is Outcome.LOST]
    assert len(lost) == 2


async def test_a_frozen_worker_is_ended(tmp_path: Path) -> None:
    async with fleet_of(2, tmp_path, TinyKit(trouble="deaf"), silence_limit_s=1.0) as fleet:
        result = await fleet.run("t", closed_loop(20, 2), phase=Phase.MEASURE)
    assert sum(health.lost for health in result.health) >= 1
    assert keys(written(tmp_path)) == all_of(closed_loop(20, 2))


async def test_without_a_worker_left_the_run_is_invalid(tmp_path: Path) -> None:
    async with fleet_of(1, tmp_path) as fleet:
        os.kill(fleet.processes[0] or 0, signal.SIGKILL)
        await until(lambda: fleet.processes == [None])
        with pytest.raises(MeasurementInvalid, match="every load worker has died"):
            await fleet.run("t", closed_loop(4, 2), phase=Phase.MEASURE)


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
    assert 20 < len(written(tmp_path)) < 10_000


@pytest.mark.parametrize("trouble", ["picture", "recipe"])
async def test_an_error_that_a_person_can_mend_comes_out_as_it_is(trouble: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        async with fleet_of(2, tmp_path, TinyKit(trouble=trouble)) as fleet:
            await fleet.run("t", closed_loop(10, 2), phase=Phase.MEASURE)
    assert caught.value.hint


async def test_a_bug_in_a_worker_comes_out_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)load worker \d: Traceback.*a bug of ours"):
        async with fleet_of(2, tmp_path, TinyKit(trouble="bug")) as fleet:
            await fleet.run("t", closed_loop(10_000, 2), phase=Phase.MEASURE)


PARENT = """
import asyncio, signal, sys
from pathlib import Path
sys.path[:0] = [{here!r}]
from tiny_kit import TinyKit
from client.core.records import Phase
from client.core.schedule import closed_loop
from client.workers import Fleet

async def main():
    fleet = Fleet(2, TinyKit(takes_s=0.05), Path(sys.argv[1]), grace_s=0.1)
    await fleet.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, fleet.abort)
    print(*fleet.processes, flush=True)
    result = await fleet.run("t", closed_loop(100_000, 4), phase=Phase.MEASURE)
    await fleet.stop()
    print(*[health.lost for health in result.health], flush=True)

asyncio.run(main())
"""


@asynccontextmanager
async def running_parent(folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[int]]]:
    """A process group of its own: a fleet in the middle of a long block, and the ids of its workers."""
    here = Path(__file__).parent
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", PARENT.format(here=str(here)), str(folder)),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(here.parent.parent)},
        start_new_session=True,
    )
    assert parent.stdout is not None
    workers = [int(pid) for pid in (await parent.stdout.readline()).split()]
    try:
        await until(lambda: len(written(folder)) > 10)
        assert all(map(alive, workers))
        yield parent, workers
        await until(lambda: not any(map(alive, workers)), limit_s=8)
    finally:
        if parent.returncode is None:
            parent.kill()
        await parent.wait()


async def test_no_worker_outlives_a_killed_parent(tmp_path: Path) -> None:
    async with running_parent(tmp_path) as (parent, _):
        parent.kill()
        await parent.wait()
    records = written(tmp_path)
    assert len(keys(records)) == len(set(keys(records)))
    assert sum(record.outcome is Outcome.CANCELLED for record in records) <= 4


async def test_ctrl_c_reaches_the_workers_through_their_parent_only(tmp_path: Path) -> None:
    async with running_parent(tmp_path) as (parent, _):
        os.killpg(parent.pid, signal.SIGINT)
        assert parent.stdout is not None
        assert (await parent.stdout.read()).split() == [b"False", b"False"], (
            "no worker may die of the terminal's Ctrl-C"
        )
        assert await parent.wait() == 0
    records = written(tmp_path)
    assert len(keys(records)) == len(set(keys(records)))
    assert {record.outcome for record in records} <= {Outcome.OK, Outcome.CANCELLED}


async def test_a_worker_that_is_told_to_end_closes_its_books(tmp_path: Path) -> None:
    seen: list[RequestRecord] = []
    async with fleet_of(2, tmp_path, TinyKit(takes_s=0.02), see=seen.append) as fleet:
        run = asyncio.create_task(fleet.run("t", closed_loop(200, 4), phase=Phase.MEASURE))
        await until(lambda: len(seen) >= 8)
        os.kill(fleet.processes[0] or 0, signal.SIGTERM)
        result = await run
    assert [health.lost for health in result.health] == [True, False]
    assert "exit code 0" in (result.health[0].note or "")
    records = written(tmp_path)
    assert keys(records) == all_of(closed_loop(200, 4))
    assert any(record.outcome is Outcome.LOST for record in records)
