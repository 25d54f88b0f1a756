"""The clock that schedules are walked by: never early, fine, in order, and no descriptor or processor time more than it needs."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from pathlib import Path

import pytest

from client.clock import TIMER_SLACK_NS, MonotonicClock

MS = 1_000_000
PR_SET_TIMERSLACK, PR_GET_TIMERSLACK = 29, 30


def timers() -> list[int]:
    """Descriptors of this process that are timers."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if "timerfd" in str(entry.readlink()):
                found.append(int(entry.name))
        except FileNotFoundError:  # the one that lists them
            continue
    return found


async def woken(clock: MonotonicClock, *offsets_ms: float) -> list[tuple[float, float]]:
    """(offset asked for, offset at which it woke) of sleepers that lie down in this order, in the order in which they woke."""
    start_ns = clock.now_ns()
    seen: list[tuple[float, float]] = []

    async def sleeper(offset_ms: float) -> None:
        await clock.sleep_until(start_ns + round(offset_ms * MS))
        seen.append((offset_ms, (clock.now_ns() - start_ns) / MS))

    await asyncio.gather(*map(sleeper, offsets_ms))
    return seen


async def test_the_clock_never_wakes_early_and_wakes_in_order() -> None:
    clock = MonotonicClock()
    seen = await woken(clock, 230, 210, 220, 220, 223, 221, -5, 0)
    clock.close()
    assert [at for at, _ in seen] == [
        -5,
        0,
        210,
        220,
        220,
        221,
        223,
        230,
    ]  # far enough ahead that all lie down before the first is due
    assert all(now >= at for at, now in seen)


async def test_one_who_lies_down_later_may_be_woken_first() -> None:
    clock = MonotonicClock()
    seen = await woken(clock, 500, 10)
    clock.close()
    assert [at for at, _ in seen] == [10, 500]
    assert seen[0][1] < 250, "woken at its own time, not at that of the other"


async def test_sleepers_of_one_moment_wake_together_in_the_order_in_which_they_lay_down() -> None:
    clock = MonotonicClock()
    at_ns = clock.now_ns() + 5 * MS
    awake: list[int] = []
    seen: list[list[int]] = []

    async def sleeper(number: int) -> None:
        await clock.sleep_until(at_ns)
        awake.append(number)
        await asyncio.sleep(0)
        seen.append(list(awake))

    await asyncio.gather(*map(sleeper, range(4)))
    clock.close()
    assert seen[0] == [0, 1, 2, 3], "one turn of the loop for all of them"


async def test_a_time_that_has_passed_costs_no_turn_of_the_loop() -> None:
    clock = MonotonicClock()
    sleep = clock.sleep_until(clock.now_ns())
    with pytest.raises(StopIteration):
        sleep.send(None)


async def test_a_timer_that_fires_before_its_time_is_set_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.clock.monotonic_ns", lambda: time.monotonic_ns() - 3 * MS)
    clock = MonotonicClock()
    seen = await asyncio.wait_for(woken(clock, 2, 9), 5)
    clock.close()
    assert all(now >= at for at, now in seen)


async def test_the_clock_is_finer_than_the_millisecond_of_asyncio() -> None:
    clock = MonotonicClock()
    late = []
    for _ in range(40):
        due = clock.now_ns() + 1_300_000
        await clock.sleep_until(due)
        late.append(clock.now_ns() - due)
    clock.close()
    assert sorted(late)[4] < 400_000, "the calmest tenth of the wake-ups: the machine has other work too"


async def test_the_kernel_is_told_to_wake_this_thread_to_the_microsecond() -> None:
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(50_000), 0, 0, 0)  # what a process has that asks for nothing
    clock = MonotonicClock()
    await woken(clock, 1)
    clock.close()
    assert prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0) == TIMER_SLACK_NS == 1_000


async def test_sleeping_costs_no_processor_time() -> None:
    clock = MonotonicClock()
    before_s = time.process_time()
    await woken(clock, 200, 100)
    spent_s = time.process_time() - before_s
    clock.close()
    assert spent_s < 0.05


async def test_a_sleeper_that_is_cancelled_does_not_stop_the_others() -> None:
    clock = MonotonicClock()
    first = asyncio.ensure_future(clock.sleep_until(clock.now_ns() + 20 * MS))
    second = asyncio.ensure_future(clock.sleep_until(clock.now_ns() + 40 * MS))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait_for(second, 5)
    clock.close()
    assert first.cancelled()


async def test_one_descriptor_for_all_sleepers_which_no_child_gets_and_close_gives_back() -> None:
    before = timers()
    for _ in range(2):  # the second time the kernel gives the same number again
        clock = MonotonicClock()
        for _ in range(2):  # and a clock that was closed may sleep again
            await woken(clock, 2, 1, 3)
            (made,) = set(timers()) - set(before)
            assert not os.get_inheritable(made)
            clock.close()
            assert timers() == before
    clock.close()


async def test_without_timerfd_the_clock_still_keeps_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.clock.TIMERFD", False)
    clock = MonotonicClock()
    late = []
    for _ in range(10):
        due = clock.now_ns() + 2 * MS
        await clock.sleep_until(due)
        late.append(clock.now_ns() - due)
    clock.close()
    assert min(late) >= 0
    assert sorted(late)[1] < 1.5 * MS, "asyncio wakes early, and the rest is spun"


async def test_without_timerfd_the_rest_is_spun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.clock.TIMERFD", False)
    monkeypatch.setattr("client.clock.SPIN_NS", 20 * MS)
    before = timers()
    clock = MonotonicClock()
    ((at, now),) = await woken(clock, 30)
    assert now >= at
    assert timers() == before
    clock.close()
