"""A worker that dies is named and its share accounted for; and none lives on when it should not."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fleets import alive, all_of, fleet_of, keys, until, written
from tiny_kit import TinyKit

from client.core.arrivals import by_count
from client.core.plan import Arrival
from client.core.records import Outcome, Phase, RequestRecord
from client.core.schedule import closed_loop, closed_loop_for, open_loop
from client.errors import MeasurementInvalid


async def test_a_killed_worker_is_named_and_its_share_marked(tmp_path: Path) -> None:
    schedule = closed_loop(400, 4)
    seen: list[RequestRecord] = []
    async with fleet_of(2, tmp_path, see=seen.append, silence_limit_s=120.0) as fleet:
        victim = fleet.processes[1]
        assert victim is not None
        run = asyncio.create_task(fleet.run("t", schedule, phase=Phase.MEASURE, block=0, level=3))
        await until(lambda: sum(record.worker == 1 for record in seen) >= 10)
        killed_ns = time.monotonic_ns()
        os.kill(victim, signal.SIGKILL)
        result = await run
        assert time.monotonic_ns() - killed_ns < 15_000_000_000, "its end is noticed, not its silence"
        after = await fleet.run("t", closed_loop(8, 4, index=400), phase=Phase.MEASURE, block=1)
    records = [record for record in written(tmp_path) if record.block == 0]
    assert keys(records) == all_of(schedule), "every slot has exactly one record"
    lost = [record for record in records if record.outcome is Outcome.LOST]
    assert 50 < len(lost) < 204
    assert {(record.worker, record.target, record.level) for record in lost} == {(1, "t", 3)}
    pictures = {(slot.phase, slot.index): f"#{slot.image}" for slot in schedule}
    assert all(record.image_id == pictures[record.phase, record.index] for record in lost)
    assert all(killed_ns < record.intended_ns <= result.window.end_ns for record in lost), "not before its time"
    well, dead = result.health
    assert (dead.target, dead.phase, dead.block, dead.level) == ("t", Phase.MEASURE, 0, 3)
    assert dead.start_ns == result.window.start_ns < killed_ns < dead.end_ns
    assert (well.lost, dead.lost) == (False, True)
    assert dead.note is not None
    assert f"load worker 1 (process {victim}) died: signal 9; {len(lost)} requests" in dead.note
    assert dead.requests == 204 - len(lost)
    assert fleet.processes[1] is None
    assert sum(record.outcome is Outcome.LOST for record in seen) == len(lost), "the eye sees them too"
    assert [health.worker for health in after.health] == [0], "the living take the whole of the next block"
    assert after.health[0].requests == 16


async def test_a_worker_killed_in_a_block_by_duration_loses_what_was_in_flight(tmp_path: Path) -> None:
    seen: list[RequestRecord] = []
    async with fleet_of(2, tmp_path, TinyKit(takes_s=0.02), see=seen.append) as fleet:
        run = asyncio.create_task(fleet.run("t", closed_loop_for(600_000_000, 4, bound=10_000), phase=Phase.MEASURE))
        await until(lambda: len(seen) >= 8)
        os.kill(fleet.processes[0] or 0, signal.SIGKILL)
        result = await run
    records = written(tmp_path)
    assert sum(record.outcome is Outcome.LOST for record in records) == 2
    (dead,) = [health for health in result.health if health.lost]
    assert dead.requests == sum(record.worker == 0 and record.outcome is not Outcome.LOST for record in records)


async def test_arrivals_that_a_dead_worker_leaves_keep_their_times(tmp_path: Path) -> None:
    offsets = by_count(Arrival.CONSTANT, 100, 60, seed=(0,))
    seen: list[RequestRecord] = []
    async with fleet_of(2, tmp_path, see=seen.append) as fleet:
        run = asyncio.create_task(fleet.run("t", open_loop(offsets), phase=Phase.MEASURE))
        await until(lambda: len(seen) >= 8)
        os.kill(fleet.processes[0] or 0, signal.SIGKILL)
        result = await run
    records = written(tmp_path)
    assert 0 < sum(record.outcome is Outcome.LOST for record in records) < 30
    assert sorted(record.intended_ns - result.window.start_ns for record in records) == offsets.tolist()


async def test_what_was_answered_by_another_target_is_lost_all_the_same(tmp_path: Path) -> None:
    seen: list[RequestRecord] = []
    async with fleet_of(2, tmp_path, TinyKit(takes_s=0.02), see=seen.append) as fleet:
        await fleet.run("t", closed_loop(20, 2), phase=Phase.MEASURE)
        run = asyncio.create_task(fleet.run("u", closed_loop(20, 2), phase=Phase.MEASURE))
        await until(lambda: any(record.target == "u" for record in seen))
        os.kill(fleet.processes[1] or 0, signal.SIGKILL)
        await run
    assert keys([record for record in written(tmp_path) if record.target == "u"]) == all_of(closed_loop(20, 2))


async def test_a_worker_that_dies_after_an_abort_loses_no_more_than_was_in_flight(tmp_path: Path) -> None:
    async with fleet_of(2, tmp_path, TinyKit(takes_s=30.0)) as fleet:
        run = asyncio.create_task(fleet.run("t", closed_loop(500, 6), phase=Phase.MEASURE))
        await until(lambda: fleet.in_flight == 6)
        os.kill(fleet.processes[0] or 0, signal.SIGKILL)
        fleet.abort()
        await run
        assert fleet.in_flight == 0, "of the dead nothing is in flight"
    outcomes = sorted(record.outcome for record in written(tmp_path))
    assert outcomes == [Outcome.CANCELLED] * 3 + [Outcome.LOST] * 3


async def test_a_worker_that_is_long_at_work_is_not_taken_for_a_frozen_one(tmp_path: Path) -> None:
    async with fleet_of(2, tmp_path, TinyKit(takes_s=1.6), silence_limit_s=0.8) as fleet:
        result = await fleet.run("t", closed_loop(1, 1), phase=Phase.MEASURE)
    assert not any(health.lost for health in result.health)


async def test_a_worker_that_does_not_leave_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.workers.process.LEAVE_LIMIT_S", 0.5)
    async with fleet_of(2, tmp_path) as fleet:
        os.kill(fleet.processes[0] or 0, signal.SIGSTOP)
    assert fleet.processes == [None, None]


async def test_a_worker_that_hangs_while_it_closes_ends_by_itself(tmp_path: Path) -> None:
    async with fleet_of(1, tmp_path, TinyKit(trouble="slow close")) as fleet:
        os.kill(fleet.processes[0] or 0, signal.SIGTERM)
        await until(lambda: fleet.processes == [None], limit_s=8)


def test_a_worker_whose_fleet_is_gone_before_it_could_ask_for_its_end_does_not_begin() -> None:
    nobody = os.getppid()  # any process but the one that starts it
    ours, theirs = socket.socketpair()
    with ours, theirs:
        code = f"from client.workers.child import main; main({theirs.fileno()}, {nobody})"
        done = subprocess.run([sys.executable, "-c", code], pass_fds=[theirs.fileno()], timeout=20, check=False)
    assert done.returncode == 1


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


PARENT = """
import asyncio, signal, sys
from pathlib import Path
sys.path[:0] = [{here!r}]
from tiny_kit import TinyKit
from client.core.arrivals import by_count
from client.core.plan import Arrival
from client.core.records import Phase
from client.core.schedule import closed_loop
from client.workers import Fleet

async def main():
    fleet = Fleet(2, {kit}, Path(sys.argv[1]), grace_s=0.1)
    await fleet.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, fleet.abort)
    print(*fleet.processes, flush=True)
    result = await fleet.run("t", closed_loop(100_000, 4), phase=Phase.MEASURE)
    await fleet.stop()
    print(*[health.lost for health in result.health], flush=True)

asyncio.run(main())
"""


async def parent_of(folder: Path, kit: TinyKit) -> asyncio.subprocess.Process:
    """A process group of its own."""
    here = Path(__file__).parent
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", PARENT.format(here=str(here), kit=repr(kit)), str(folder)),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(here.parent.parent)},
        start_new_session=True,
    )


@asynccontextmanager
async def running_parent(folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[int]]]:
    """A fleet in the middle of a long block, and the ids of its workers."""
    parent = await parent_of(folder, TinyKit(takes_s=0.05))
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


async def test_no_worker_outlives_a_parent_that_is_killed_while_they_start(tmp_path: Path) -> None:
    parent = await parent_of(tmp_path, TinyKit(trouble="slow recipe"))
    try:
        assert parent.stdout is not None
        workers = [int(await parent.stdout.readline()) for _ in range(2)]
        assert all(map(alive, workers))
    finally:
        parent.kill()
        await parent.wait()
    await until(lambda: not any(map(alive, workers)), limit_s=8)


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
