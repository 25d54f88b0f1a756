"""What the load generator measures of itself while a block runs. Numbers only: whether they are too large is judged elsewhere."""

from __future__ import annotations

import asyncio
import gc
from array import array
from collections.abc import Sequence
from math import ceil
from time import monotonic_ns, process_time_ns
from types import TracebackType
from typing import Self

from client.clock import Clock
from client.core.records import Phase, PhaseWindow, RequestRecord, WorkerHealth
from client.core.schedule import Slot

LOOP_LAG_PERIOD_NS = 25_000_000
YOUNG_OBJECTS = 200_000
"""New objects that may wait for the collector inside a block. Our own path leaves no cycles, so this is a net, not a rhythm."""


class SelfWatch:
    """Async context around one block: quiet garbage collector, loop-lag sampler, CPU clock. `note` every record in between."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._send_lag = array("q")
        self._held = array("q")
        self._holding: dict[tuple[Phase, int], int] = {}
        self._recv_lag = array("q")
        self._loop_lag = array("q")
        self._pauses = 0
        self._pause_ns = 0
        self._pause_start = 0
        self._cpu_start = 0
        self._cpu_ns: int | None = None
        self._sampler: asyncio.Task[None] | None = None
        self._thresholds = gc.get_threshold()
        self.requests = 0

    async def __aenter__(self) -> Self:
        gc.collect()
        gc.freeze()
        self._thresholds = gc.get_threshold()
        gc.set_threshold(YOUNG_OBJECTS, 1_000, 1_000)
        gc.callbacks.append(self._on_gc)
        self._cpu_start = process_time_ns()
        self._sampler = asyncio.create_task(self._sample())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._cpu_ns = process_time_ns() - self._cpu_start
        if self._sampler is not None:
            self._sampler.cancel()
            await asyncio.wait([self._sampler])
        gc.callbacks.remove(self._on_gc)
        gc.set_threshold(*self._thresholds)
        gc.unfreeze()

    def held(self, slot: Slot, held_ns: int) -> None:
        """A client-side cap held this slot back for so long after its intended time."""
        self._held.append(held_ns)
        self._holding[slot.phase, slot.index] = held_ns

    def note(self, record: RequestRecord) -> None:
        self.requests += 1
        if record.attempt == 0:
            held_ns = self._holding.pop((record.phase, record.index), 0) if self._holding else 0
            if record.sent_ns is not None:
                self._send_lag.append(record.sent_ns - record.intended_ns - held_ns)
        if record.recv_lag_ns is not None:
            self._recv_lag.append(record.recv_lag_ns)

    def health(self, window: PhaseWindow, *, worker: int, held_back: int = 0, note: str | None = None) -> WorkerHealth:
        """For the block that ran in `window`; to be asked after the context has ended."""
        return WorkerHealth(
            worker=worker,
            target=window.target,
            phase=window.phase,
            start_ns=window.start_ns,
            end_ns=window.end_ns,
            block=window.block,
            level=window.level,
            requests=self.requests,
            cpu_ns=self._cpu_ns,
            send_lag_p50_ns=quantile(self._send_lag, 0.5),
            send_lag_p99_ns=quantile(self._send_lag, 0.99),
            send_lag_max_ns=max(self._send_lag, default=None),
            recv_lag_p99_ns=quantile(self._recv_lag, 0.99),
            loop_lag_p99_ns=quantile(self._loop_lag, 0.99),
            loop_lag_max_ns=max(self._loop_lag, default=None),
            gc_pauses=self._pauses,
            gc_pause_ns=self._pause_ns,
            held_back=held_back,
            held_p99_ns=quantile(self._held, 0.99),
            note=note,
        )

    async def _sample(self) -> None:
        """How late the loop lets a task run that is due: a timer is set, and the overshoot noted."""
        due = self._clock.now_ns()
        while True:
            due = max(due, self._clock.now_ns()) + LOOP_LAG_PERIOD_NS
            await self._clock.sleep_until(due)
            self._loop_lag.append(self._clock.now_ns() - due)

    def _on_gc(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._pause_start = monotonic_ns()
        else:
            self._pauses += 1
            self._pause_ns += monotonic_ns() - self._pause_start


def quantile(values: Sequence[int], q: float) -> int | None:
    """The smallest value that at least a share `q` of the values do not exceed; None for no values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, ceil(q * len(ordered) - 1e-9) - 1)]
