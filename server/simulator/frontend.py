"""The API server's own time: one event loop that parses, threads that decode pictures, one image processor in line.

The event loop serves all that came while it was busy as one round, and a round ends for all its requests together: so do the
recorded headers of 64 requests at once. It goes first: a round pushes back the picture that is being processed, because they share
an interpreter lock.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from server.simulator.timing import Timing


@dataclass(slots=True)
class _Round:
    start: float
    end: float


class Frontend:
    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._round = _Round(0.0, 0.0)
        self._processor_free = 0.0
        self._pushed = 0.0
        self._line = asyncio.Lock()
        self.in_flight = 0

    async def admit(
        self, arrived: float, body_bytes: int, megapixels: float, new_megapixels: tuple[float, ...]
    ) -> None:
        """Returns when a request that came at `arrived` is ready for the engine. `new_megapixels`: its pictures that no cache knows."""
        parse = self._timing.parse(body_bytes)
        self._pushed += parse
        parsed = await self._parse(arrived, parse)
        ready = parsed + self._timing.prepare(megapixels)
        await _until(ready)
        for picture in new_megapixels:
            async with self._line:
                ready = await self._process(picture, ready)
        await _until(ready)

    async def _parse(self, arrived: float, seconds: float) -> float:
        if arrived >= self._round.start:
            start = max(arrived, self._round.end)
            self._round = _Round(start, start)
        mine = self._round
        mine.end += seconds
        while await _until(mine.end):
            pass
        return mine.end

    async def _process(self, megapixels: float, ready: float) -> float:
        start = max(ready, self._processor_free)
        pushed = self._pushed
        end = start + self._timing.process(megapixels, self.in_flight)
        while True:
            due = end + self._pushed - pushed
            if not await _until(due):
                break
        self._processor_free = due
        return due


async def _until(when: float) -> bool:
    """Whether it had to wait."""
    delay = when - asyncio.get_running_loop().time()
    if delay <= 0:
        return False
    await asyncio.sleep(delay)
    return True
