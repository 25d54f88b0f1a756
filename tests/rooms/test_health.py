"""The instrument on itself: each of its numbers must be able to be large, or it proves nothing."""

from __future__ import annotations

import asyncio
import gc
import time

import numpy as np
import pytest
from fakes import FakeBodies, FakeClock, FakeDoor

from client.core.records import Outcome, Phase, PhaseWindow, RequestRecord, WorkerHealth
from client.core.schedule import Schedule, closed_loop, open_loop
from client.generator import LocalFleet
from client.health import SelfWatch, quantile

MS = 1_000_000
BLOCKED_S = 0.3
EVERY_2_MS = open_loop(np.arange(0, 600 * MS, 2 * MS, dtype=np.int64))


class QuickDoor(FakeDoor):
    """Answers at once, by the real clock."""

    def __init__(self) -> None:
        super().__init__(FakeClock(), lambda slot: 0)

    async def send(self, prepared, slot, *, sink, intended_ns, phase, **place):  # type: ignore[no-untyped-def,override]
        now = time.monotonic_ns()
        record = RequestRecord(
            target="t",
            phase=phase,
            index=slot.index,
            image_id=prepared.image_id,
            outcome=Outcome.OK,
            intended_ns=intended_ns,
            sent_ns=now,
            done_ns=now,
            recv_lag_ns=slot.index,
        )
        sink(record)
        return record


async def health_of(schedule: Schedule, *, after_s: float = 0.1, disturb: object = None) -> WorkerHealth:
    fleet = LocalFleet({"t": QuickDoor()}, {"t": FakeBodies()}, lambda record: None)
    if callable(disturb):
        asyncio.get_running_loop().call_later(after_s, disturb)
    result = await fleet.run("t", schedule, phase=Phase.MEASURE)
    await fleet.stop()
    return result.health[0]


async def test_a_blocked_loop_shows_as_loop_lag_and_as_send_lag() -> None:
    health = await health_of(EVERY_2_MS, disturb=lambda: time.sleep(BLOCKED_S))
    assert (health.loop_lag_max_ns or 0) > (BLOCKED_S - 0.03) * 1e9
    assert (health.send_lag_max_ns or 0) > (BLOCKED_S - 0.01) * 1e9
    assert (health.send_lag_p99_ns or 0) > 0.5 * BLOCKED_S * 1e9
    assert health.requests == 300, "late arrivals are sent all the same"


async def test_an_undisturbed_loop_shows_next_to_nothing() -> None:
    """The best of five blocks: other work on this machine may spoil some of them, never all."""
    runs = [await health_of(open_loop(np.arange(0, 200 * MS, MS, dtype=np.int64))) for _ in range(5)]
    assert min(health.send_lag_p50_ns or 0 for health in runs) < MS
    assert min(health.loop_lag_p99_ns or 0 for health in runs) < 5 * MS
    assert min(health.loop_lag_p99_ns or 0 for health in runs) > 0


async def test_one_block_of_the_loop_is_one_late_sample() -> None:
    """The sampler goes on from the moment it runs again: it does not make up for what it missed."""
    clock = FakeClock()
    real, slept = clock.sleep_until, 0

    async def oversleeping(at_ns: int) -> None:
        nonlocal slept
        slept += 1
        await real(at_ns if slept != 2 else at_ns + 300 * MS)

    clock.sleep_until = oversleeping  # type: ignore[method-assign]  # a clock with one late wake-up
    watch = SelfWatch(clock)

    async def block() -> None:
        async with watch:
            await real(clock.now + 1_000 * MS)

    await clock.play(block())
    lags = sorted(watch._loop_lag)
    assert (lags[-1], lags[-2]) == (300 * MS, 0)


async def test_inside_a_block_the_collector_is_kept_quiet() -> None:
    async with SelfWatch(FakeClock()):
        assert gc.get_threshold()[0] >= 100_000
        assert gc.get_freeze_count() > 1_000


async def test_only_the_first_try_of_a_request_can_be_late() -> None:
    async with SelfWatch(FakeClock()) as watch:
        for attempt, sent_ns in enumerate((5, 900)):
            watch.note(
                RequestRecord(
                    target="t", phase=Phase.MEASURE, index=0, image_id="i", outcome=Outcome.OK, intended_ns=3,
                    sent_ns=sent_ns, attempt=attempt,
                )
            )  # fmt: skip
    window = PhaseWindow(target="t", phase=Phase.MEASURE, start_ns=0, end_ns=1)
    assert watch.health(window, worker=0).send_lag_max_ns == 2


async def test_a_collection_inside_a_block_shows() -> None:
    keep = [[object() for _ in range(10)] for _ in range(30_000)]
    calm = await health_of(EVERY_2_MS)
    shaken = await health_of(EVERY_2_MS, disturb=lambda: (gc.unfreeze(), gc.collect()))
    assert (calm.gc_pauses, calm.gc_pause_ns) == (0, 0)
    assert shaken.gc_pauses == 1
    assert (shaken.gc_pause_ns or 0) > MS
    assert len(keep) == 30_000


async def test_the_collector_is_as_before_after_a_block() -> None:
    gc.set_threshold(701, 11, 12)
    before = (gc.get_threshold(), gc.get_freeze_count(), len(gc.callbacks))
    await health_of(closed_loop(3, 1))
    assert (gc.get_threshold(), gc.get_freeze_count(), len(gc.callbacks)) == before


async def test_cpu_time_is_that_of_the_block() -> None:
    def burn() -> None:
        end = time.process_time() + 0.15
        while time.process_time() < end:
            pass

    idle = await health_of(EVERY_2_MS)
    busy = await health_of(EVERY_2_MS, disturb=burn)
    assert idle.cpu_ns is not None
    assert busy.cpu_ns is not None
    assert busy.cpu_ns - idle.cpu_ns > 100 * MS
    assert idle.cpu_ns < idle.end_ns - idle.start_ns


async def test_receive_lag_comes_from_the_records() -> None:
    health = await health_of(closed_loop(200, 1))
    assert health.recv_lag_p99_ns == 197


async def test_what_was_not_seen_is_none() -> None:
    window = PhaseWindow(target="t", phase=Phase.COLD, start_ns=0, end_ns=1)
    async with SelfWatch(FakeClock()) as watch:
        pass
    health = watch.health(window, worker=3)
    assert (health.send_lag_p99_ns, health.recv_lag_p99_ns, health.loop_lag_max_ns) == (None, None, None)
    assert (health.requests, health.worker) == (0, 3)


@pytest.mark.parametrize(
    ("values", "q", "expected"),
    [
        ([], 0.5, None),
        ([7], 0.99, 7),
        (range(1, 101), 0.99, 99),
        (range(1, 101), 0.5, 50),
        ([3, 1, 2], 0.0, 1),
        ([1, 2], 1.0, 2),
    ],
)
def test_quantiles_are_values_that_were_seen(values: list[int], q: float, expected: int | None) -> None:
    assert quantile(list(values), q) == expected
