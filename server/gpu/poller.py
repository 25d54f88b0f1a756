"""Reads one GPU on time. Each GPU has a thread of its own for the fast fields and one for the slow ones, so that a GPU that hangs or
falls off the bus does not hide the others. `step` and `slow` are the work; the threads only call them when it is due.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from server.gpu.owners import owner
from server.gpu.reader import Device, GpuGone, Library, NoGpu
from server.gpu.wire import EVERYTHING, Clock, Emit, GpuInfo, Process, Sample, Stamp, now

SECOND = 1_000_000_000
SLOW_PERIOD_NS = SECOND
BACK_OFF_S = (1, 2, 4, 8, 16, 30)


class Pace:
    """When to read: memory at `memory_rate`, everything at `rate` (both Hz). Deadlines are absolute; missed ones are skipped, never made up."""

    def __init__(self, rate: float, memory_rate: float, start_ns: int) -> None:
        self.full_ns = round(SECOND / rate)
        self.tick_ns = min(self.full_ns, round(SECOND / max(rate, memory_rate)))
        self._next_tick = self._next_full = start_ns

    def wait_s(self, now_ns: int) -> float:
        return max(0.0, (self._next_tick - now_ns) / SECOND)

    def due(self, now_ns: int) -> bool:
        """Whether the reading made now is a full one. Moves the deadlines on."""
        full = now_ns + self.tick_ns // 2 >= self._next_full
        if full:
            self._next_full = self._after(self._next_full, self.full_ns, now_ns)
        self._next_tick = self._after(self._next_tick, self.tick_ns, now_ns)
        return full

    @staticmethod
    def _after(deadline: int, period: int, now_ns: int) -> int:
        late = max(0, (now_ns - deadline) // period)
        return deadline + (late + 1) * period


class Poller:
    """The readings of one GPU. Not lost while its calls answer; once lost, it is reopened with growing pauses and says so each time."""

    def __init__(
        self, library: Library, device: Device, emit: Emit, clock: Clock = now, proc: Path | None = None
    ) -> None:
        self.library, self.device, self.emit, self.clock = library, device, emit, clock
        self.proc = proc or Path("/proc")
        self.lost = device.lost
        self.found: Callable[[Poller], object] = lambda _: None
        """Told each time that a lost GPU is back."""
        self._generation = library.generation
        self._attempt = 0
        self._retry_ns = 0
        self._extra: dict[str, Any] | None = None

    def step(self, full: bool = True) -> None:
        """One reading, or one try to find the GPU again when its pause is over."""
        stamp = self.clock()
        try:
            if self.lost is not None:
                if stamp.mono_ns < self._retry_ns:
                    return
                self._find()
            elif self.library.generation != self._generation:
                self._find()  # NVML was started anew for another GPU: the old handle means nothing now
            extra, self._extra = (self._extra, None) if full else (None, self._extra)
            sample = self.device.fast(stamp, extra) if full else self.device.memory(stamp)
        except GpuGone as gone:
            self._lose(str(gone), stamp)
            return
        except NoGpu as gone:
            self._lose(str(gone), stamp)
            return
        if self.lost is not None:
            print(f"nvml sidecar: GPU {self.device.gpu} is back.", file=sys.stderr)
            self.lost, self._attempt = None, 0
            self.found(self)
        self.emit(sample)

    def describe(self) -> GpuInfo:
        """What does not change while the driver runs; of a GPU that does not answer, why not."""
        try:
            if self.lost is not None:
                raise GpuGone(self.lost, driver=False)
            return self.device.info()
        except GpuGone as gone:
            return GpuInfo(gpu=self.device.gpu, uuid=self.device.uuid, absent={EVERYTHING: str(gone)})

    def _lose(self, why: str, stamp: Stamp) -> None:
        pause = BACK_OFF_S[min(self._attempt, len(BACK_OFF_S) - 1)]
        if self._attempt == 0:
            print(f"nvml sidecar: GPU {self.device.gpu} is lost ({why}); trying again in {pause} s.", file=sys.stderr)
        self.lost, self._attempt = why, self._attempt + 1
        self._retry_ns = stamp.mono_ns + pause * SECOND
        self.emit(
            Sample(
                mono_ns=stamp.mono_ns,
                wall_ns=stamp.wall_ns,
                gpu=self.device.gpu,
                uuid=self.device.uuid,
                absent={EVERYTHING: why},
            )
        )

    def _find(self) -> None:
        """A fresh handle. If the whole driver is gone, NVML is started anew first (once for all GPUs, see Library.restart)."""
        gpu, uuid = self.device.gpu, self.device.uuid
        try:
            self.device = self.library.open(gpu, uuid)
        except GpuGone as gone:
            if not gone.driver:
                raise
            self.library.restart(self._generation)
            self.device = self.library.open(gpu, uuid)
        finally:
            self._generation = self.library.generation

    def slow(self) -> None:
        """Reads the processes; they travel with the next full sample."""
        if self.lost is not None:
            return
        try:
            found, absent = self.device.processes()
        except GpuGone:
            return  # the fast thread meets the same answer and reports it
        self._extra = {"absent": absent} if found is None else {"processes": tuple(map(self._named, found))}

    def _named(self, process: Process) -> Process:
        container, name = owner(process.pid, self.proc)
        return msgspec.structs.replace(process, container=container, name=name)

    def energy(self) -> Sample:
        """Reads the energy counter now and emits it as a line of its own. Blocks for milliseconds: call it from a thread that may."""
        stamp = self.clock()
        try:
            if self.lost is not None:
                raise GpuGone(self.lost, driver=False)
            sample = self.device.energy(stamp)
        except GpuGone as gone:
            return Sample(
                mono_ns=stamp.mono_ns,
                wall_ns=stamp.wall_ns,
                gpu=self.device.gpu,
                uuid=self.device.uuid,
                absent={"energy_mj": str(gone)},
            )
        self.emit(sample)
        return sample


class Threads:
    """Runs pollers until `stop`. Threads are daemons: a driver call that never returns must not keep the process alive."""

    def __init__(
        self, rate: float, memory_rate: float, energy_every_s: float | None = None, clock: Clock = now
    ) -> None:
        self.rate, self.memory_rate, self.energy_every_s, self.clock = rate, memory_rate, energy_every_s, clock
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, pollers: list[Poller]) -> None:
        for poller in pollers:
            name = f"gpu{poller.device.gpu}"
            self._spawn(f"{name}-fast", self._fast, poller)
            self._spawn(f"{name}-slow", self._slow, poller)

    def _spawn(self, name: str, work: Callable[[Poller], None], poller: Poller) -> None:
        thread = threading.Thread(target=work, args=(poller,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _fast(self, poller: Poller) -> None:
        pace = Pace(self.rate, self.memory_rate, self.clock().mono_ns)
        for full in self._readings(pace):
            poller.step(full)

    def _readings(self, pace: Pace) -> Iterator[bool]:
        while not self._stop.wait(pace.wait_s(self.clock().mono_ns)):
            yield pace.due(self.clock().mono_ns)

    def _slow(self, poller: Poller) -> None:
        energy_due = 0 if self.energy_every_s is not None else None
        while True:
            poller.slow()
            asked = self.clock().mono_ns
            if energy_due is not None and asked >= energy_due:
                poller.energy()
                energy_due = asked + round((self.energy_every_s or 0) * SECOND) - SLOW_PERIOD_NS // 2
            if self._stop.wait(SLOW_PERIOD_NS / SECOND):
                return

    def stop(self, timeout_s: float = 2.0) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout_s)
