"""Walks a schedule by a clock, sends through an endpoint, hands records to a sink.

No statistics, no printing, and no re-anchoring: a slot that is late keeps its intended time, and its lag stands in its record.

    closed loop   N lanes; a slot is intended for the moment at which its lane became free, by the stamp of the answer before it
    open loop     a slot is intended for block start + offset; a client-side cap delays sending, never the intended time
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from client.clock import Clock, MonotonicClock
from client.core.cases import PreparedRequest
from client.core.outcomes import retry_wait_s, safe_to_retry
from client.core.records import Phase, PhaseWindow, RequestRecord, WorkerHealth
from client.core.schedule import Schedule, Slot
from client.health import SelfWatch

Sink = Callable[[RequestRecord], None]
Send = Callable[[PreparedRequest, Slot, int, int], Awaitable[RequestRecord]]
"""Body, slot, intended time, and for how long (ns) after it a client-side cap held the slot back."""
GRACE_S = 2.0
"""How long requests in flight may still end by themselves after an abort."""
HEAD_START_NS = 5_000_000
"""From the decision to run a block to its start: a slot at offset 0 must not be late already."""


class Bodies(Protocol):
    """Request bodies by image number, built ahead of the clock."""

    async def get(self, number: int, /) -> PreparedRequest: ...


class Door(Protocol):
    """What the generator sends through: `client.endpoint.Endpoint`, or a fake one in tests."""

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
        sink: Sink,
        attempt: int = 0,
    ) -> RequestRecord: ...


@dataclass(frozen=True, slots=True)
class BlockResult:
    """The stretch that a block took, edges included, and what each generator process says of itself."""

    window: PhaseWindow
    health: list[WorkerHealth]


class Stop:
    """Asked for once, by a signal handler say: after it, no new request."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    @property
    def asked(self) -> bool:
        return self._event.is_set()

    def ask(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()


async def run_slots(
    schedule: Schedule, bodies: Bodies, send: Send, clock: Clock, *, start_ns: int, stop: Stop, grace_s: float = GRACE_S
) -> int:
    """Walk the whole schedule; returns how many arrivals a client-side cap held back.

    After `stop` nothing new is sent; what is in flight has `grace_s` to end and is then cancelled, which leaves its records too.
    An exception of `send` (a full disk, a bug) or a cancellation from outside ends the walk in the same way, without grace.
    """
    if schedule.concurrency is not None:
        lanes = _Lanes(schedule, bodies, send, clock, start_ns, stop)
        await _settle(lanes.start(schedule.concurrency), stop, grace_s)
        return 0
    arrivals = _Arrivals(schedule, bodies, send, clock, start_ns, stop)
    await arrivals.walk(grace_s)
    return arrivals.held_back


@dataclass(slots=True)
class _Lanes:
    """Closed loop: each lane takes the next slot when its last answer has ended."""

    schedule: Schedule
    bodies: Bodies
    send: Send
    clock: Clock
    start_ns: int
    stop: Stop

    def start(self, lanes: int) -> set[asyncio.Task[None]]:
        slots = self._slots()
        return {asyncio.create_task(self._lane(slots)) for _ in range(min(lanes, len(self.schedule)))}

    def _slots(self) -> Iterator[Slot]:
        """One iterator for all lanes. When the duration is over, the lead-out."""
        duration_ns = self.schedule.duration_ns
        for slot in self.schedule.slots:
            if duration_ns is not None and self.clock.now_ns() - self.start_ns >= duration_ns:
                break
            yield slot
        yield from self.schedule.tail

    async def _lane(self, slots: Iterator[Slot]) -> None:
        await self.clock.sleep_until(self.start_ns)
        intended_ns = self.start_ns
        for slot in slots:
            if self.stop.asked:
                return
            prepared = await self.bodies.get(slot.image)
            record = await self.send(prepared, slot, intended_ns, 0)
            now_ns = self.clock.now_ns()
            intended_ns = now_ns if record.done_ns is None else min(record.done_ns, now_ns)


class _Arrivals:
    """Open loop: each slot is sent at its time, whatever became of those before."""

    def __init__(self, schedule: Schedule, bodies: Bodies, send: Send, clock: Clock, start_ns: int, stop: Stop) -> None:
        self.schedule = schedule
        self.bodies = bodies
        self.send = send
        self.clock = clock
        self.start_ns = start_ns
        self.stop = stop
        self.held_back = 0
        self._in_flight: set[asyncio.Future[RequestRecord]] = set()
        self._ended = asyncio.Event()
        self._failure: BaseException | None = None

    async def walk(self, grace_s: float) -> None:
        walker = asyncio.create_task(self._dispatch())
        try:
            await _settle({walker}, self.stop, 0.0)
            await _settle(self._in_flight, self.stop, grace_s)
        except BaseException:
            await _cancel({walker, *self._in_flight})
            raise
        if self._failure is not None:
            raise self._failure

    async def _dispatch(self) -> None:
        full_until_ns = self.start_ns
        for slot in self.schedule.slots:
            prepared = await self.bodies.get(slot.image)
            due_ns = self.start_ns + (slot.offset_ns or 0)
            await self.clock.sleep_until(due_ns)
            if self._full():
                await self._room()
                full_until_ns = self.clock.now_ns()
            if self._failure is not None:
                return
            held_ns = max(0, full_until_ns - due_ns)
            self.held_back += held_ns > 0
            task = asyncio.ensure_future(self.send(prepared, slot, due_ns, held_ns))
            self._in_flight.add(task)
            task.add_done_callback(self._end)

    def _full(self) -> bool:
        cap = self.schedule.max_in_flight
        return cap is not None and len(self._in_flight) >= cap

    async def _room(self) -> None:
        while self._full():
            self._ended.clear()
            await self._ended.wait()

    def _end(self, task: asyncio.Future[RequestRecord]) -> None:
        self._in_flight.discard(task)
        self._ended.set()
        if not task.cancelled():
            self._failure = self._failure or task.exception()


async def _settle(tasks: Collection[asyncio.Future[Any]], stop: Stop, grace_s: float) -> None:
    """Until all have ended; raises the first failure. After `stop`, or a failure, or a cancellation, none is left running."""
    tasks = set(tasks)
    if not tasks:
        return
    all_ended = asyncio.create_task(asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({all_ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if stop.asked:
            await asyncio.wait(tasks, timeout=grace_s, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        all_ended.cancel()
        stopping.cancel()
        await _cancel(tasks)
    for task in tasks:
        if not task.cancelled() and (failure := task.exception()) is not None:
            raise failure


async def _cancel(tasks: Collection[asyncio.Future[Any]]) -> None:
    """Cancel what still runs and wait for it: a cancelled request leaves its record on the way out."""
    running = {task for task in tasks if not task.done()}
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)


@dataclass(slots=True)
class InFlight:
    """How many requests are on their way now: for the eye, no number of a report comes from it."""

    count: int = 0


@dataclass(frozen=True, slots=True)
class _Sender:
    """Sends the slots of one block. A try that the server certainly did not take is repeated, `retries` times at most."""

    door: Door
    sink: Sink
    clock: Clock
    stop: Stop
    retries: int
    worker: int
    block: int | None
    level: int
    flying: InFlight
    watch: SelfWatch

    async def __call__(self, prepared: PreparedRequest, slot: Slot, intended_ns: int, held_ns: int) -> RequestRecord:
        attempt = 0
        if held_ns:
            self.watch.held(slot, held_ns)
        while True:
            self.flying.count += 1
            try:
                record = await self.door.send(
                    prepared,
                    slot,
                    phase=slot.phase,
                    block=self.block,
                    level=self.level,
                    worker=self.worker,
                    intended_ns=intended_ns,
                    sink=self.sink,
                    attempt=attempt,
                )
            finally:
                self.flying.count -= 1
            if attempt >= self.retries or not safe_to_retry(record):
                return record
            await self.clock.sleep_until(self.clock.now_ns() + round(retry_wait_s(record) * 1e9))
            if self.stop.asked:
                return record
            attempt += 1


class LocalFleet:
    """The generator in this process: one endpoint and one source of bodies for each target, one sink for all."""

    def __init__(
        self,
        doors: Mapping[str, Door],
        bodies: Mapping[str, Bodies],
        sink: Sink,
        *,
        clock: Clock | None = None,
        worker: int = 0,
        grace_s: float = GRACE_S,
        retries: int = 0,
    ) -> None:
        self._doors = doors
        self._bodies = bodies
        self._sink = sink
        self._own_clock = MonotonicClock() if clock is None else None
        self._clock = clock or self._own_clock or MonotonicClock()
        self._worker = worker
        self._grace_s = grace_s
        self._retries = retries
        self._stop = Stop()
        self._flying = InFlight()

    @property
    def in_flight(self) -> int:
        return self._flying.count

    async def start(self) -> None:
        """Nothing to start; the fleet of processes has the same door."""

    async def stop(self) -> None:
        if self._own_clock is not None:
            self._own_clock.close()

    def abort(self) -> None:
        """Send nothing new and let `run` return soon. May be called from a signal handler of the event loop, and more than once."""
        self._stop.ask()

    async def run(
        self,
        target_name: str,
        slots: Schedule,
        *,
        phase: Phase,
        block: int | None = None,
        level: int = 0,
        start_ns: int | None = None,
    ) -> BlockResult:
        """Walk one block against one target. `phase` names the block; each record has the phase of its slot.

        `start_ns` is the common start of several workers; None starts now.
        """
        door, bodies = self._doors[target_name], self._bodies[target_name]
        watch = SelfWatch(self._clock)

        def sink(record: RequestRecord) -> None:
            watch.note(record)
            self._sink(record)

        send = _Sender(
            door, sink, self._clock, self._stop, self._retries, self._worker, block, level, self._flying, watch
        )
        async with watch:
            start_ns = self._clock.now_ns() + HEAD_START_NS if start_ns is None else start_ns
            held_back = await run_slots(
                slots, bodies, send, self._clock, start_ns=start_ns, stop=self._stop, grace_s=self._grace_s
            )
            end_ns = self._clock.now_ns()
        window = PhaseWindow(
            target=target_name, phase=phase, start_ns=start_ns, end_ns=end_ns, block=block, level=level
        )
        return BlockResult(window, [watch.health(window, worker=self._worker, held_back=held_back)])
