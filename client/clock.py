"""The clock that a schedule is walked by: CLOCK_MONOTONIC nanoseconds, and sleeping until one of them.

asyncio's own timers are rounded up to the millisecond of `epoll_wait`, which would be the send lag of every open-loop request. A timerfd
wakes the same event loop within microseconds of an absolute time, and costs no spinning. Where there is none (not Linux), asyncio's timer
wakes a little early and the rest is spun.
"""

from __future__ import annotations

import asyncio
import ctypes
import heapq
import os
import sys
from time import monotonic_ns
from typing import Protocol

TIMER_SLACK_NS = 1_000
SPIN_NS = 200_000
TIMERFD = sys.platform == "linux"
_PR_SET_TIMERSLACK = 29
_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_NS = 1_000_000_000


class Clock(Protocol):
    """Tests walk schedules by a clock of their own, in no time at all."""

    def now_ns(self) -> int: ...

    async def sleep_until(self, at_ns: int) -> None:
        """Returns at once for a time that has passed."""


class MonotonicClock:
    """The real one. Belongs to the event loop that first sleeps on it; `close` gives its descriptor back."""

    def __init__(self) -> None:
        self._timer: _Timer | None = None

    def now_ns(self) -> int:
        return monotonic_ns()

    async def sleep_until(self, at_ns: int) -> None:
        if at_ns <= monotonic_ns():
            return
        if self._timer is None:
            self._timer = _Timer(asyncio.get_running_loop())
        await self._timer.wait(at_ns)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class _Timer:
    """One timerfd for all sleepers of a loop, always set to the earliest of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0
        self._set_ns = 0
        self._setting = _Setting()
        self._libc = ctypes.CDLL(None)
        self._fd = -1
        if TIMERFD:
            self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd >= 0:
            self._libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(TIMER_SLACK_NS), 0, 0, 0)
            loop.add_reader(self._fd, self._fired)

    async def wait(self, at_ns: int) -> None:
        if self._fd < 0:
            await asyncio.sleep(max(0, at_ns - monotonic_ns() - SPIN_NS) / _NS)
            while monotonic_ns() < at_ns:
                pass
            return
        future = self._loop.create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (at_ns, self._count, future))
        self._arm()
        await future

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _arm(self) -> None:
        at_ns = self._sleepers[0][0]
        if at_ns == self._set_ns:
            return
        self._set_ns = at_ns
        value = self._setting.value
        value.seconds, value.nanoseconds = divmod(max(1, at_ns), _NS)
        self._libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(self._setting), None)

    def _fired(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # set anew between the event and this call
            return
        now = monotonic_ns()
        self._set_ns = 0
        sleepers = self._sleepers
        while sleepers and sleepers[0][0] <= now:
            future = heapq.heappop(sleepers)[2]
            if not future.done():
                future.set_result(None)
        if sleepers:
            self._arm()
