"""A clock that jumps, a door that answers by that clock: schedules are walked in no time."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from client.core.cases import PreparedRequest
from client.core.records import Outcome, Phase, RequestRecord
from client.core.schedule import Slot

T = TypeVar("T")
SETTLE_ROUNDS = 12
"""Rounds of the event loop in which everything that can run has run, before time jumps to the next sleeper."""


class FakeClock:
    """Time stands still while anything can run, then jumps to the next sleeper."""

    def __init__(self, now_ns: int = 1_000) -> None:
        self.now = now_ns
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0

    def now_ns(self) -> int:
        return self.now

    async def sleep_until(self, at_ns: int) -> None:
        if at_ns <= self.now:
            return
        future = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (at_ns, self._count, future))
        await future

    async def play(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end in this clock's time."""
        task = asyncio.ensure_future(work)
        while not task.done():
            for _ in range(SETTLE_ROUNDS):
                await asyncio.sleep(0)
            if not task.done() and self._sleepers:
                at_ns, _, future = heapq.heappop(self._sleepers)
                self.now = max(self.now, at_ns)
                if not future.done():
                    future.set_result(None)
        return await task


class FakeBodies:
    def __init__(self) -> None:
        self.asked: list[int] = []

    async def get(self, number: int, /) -> PreparedRequest:
        self.asked.append(number)
        return PreparedRequest(f"image-{number}", number, b"{}")


class FakeDoor:
    """Each answer takes `takes(slot)` ns. Like the real one it leaves a record on every way out."""

    def __init__(self, clock: FakeClock, takes: Callable[[Slot], int]) -> None:
        self.clock = clock
        self.takes = takes
        self.in_flight = 0
        self.most_in_flight = 0
        self.sent: list[Slot] = []

    async def send(
        self,
        prepared: PreparedRequest,
        slot: Slot,
        *,
        phase: Phase,
        block: int | None,
        level: int,
        worker: int,
        intended_ns: int,
        sink: Callable[[RequestRecord], None],
        attempt: int = 0,
    ) -> RequestRecord:
        self.sent.append(slot)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        sent_ns = self.clock.now
        outcome = Outcome.CANCELLED
        try:
            await self.clock.sleep_until(sent_ns + self.takes(slot))
            outcome = Outcome.OK
        finally:
            self.in_flight -= 1
            record = RequestRecord(
                target="t",
                phase=phase,
                index=slot.index,
                image_id=prepared.image_id,
                outcome=outcome,
                intended_ns=intended_ns,
                sent_ns=sent_ns,
                done_ns=self.clock.now,
                block=block,
                level=level,
                worker=worker,
                attempt=attempt,
            )
            sink(record)
        return record
