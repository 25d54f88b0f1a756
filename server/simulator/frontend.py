"""The API server's own time: one event loop that parses, threads that decode pictures, one image processor in line.

The event loop goes first: each request that arrives pushes back the picture that is being processed (they share an interpreter
lock). So with 64 requests at once nobody sees a header before all 64 are parsed, as on the recorded server.
"""

from __future__ import annotations

import asyncio

from server.simulator.timing import Timing


class Frontend:
    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._loop_free = 0.0
        self._processor_free = 0.0
        self._pushed = 0.0
        self._line = asyncio.Lock()
        self.in_flight = 0

    async def admit(
        self, arrived: float, body_bytes: int, megapixels: float, new_megapixels: tuple[float, ...]
    ) -> None:
        """Returns when a request that came at `arrived` is ready for the engine. `new_megapixels`: its pictures that no cache knows."""
        parse = self._timing.parse(body_bytes)
        self._loop_free = max(arrived, self._loop_free) + parse
        self._pushed += parse
        ready = self._loop_free + self._timing.prepare(megapixels)
        await _until(ready)
        for picture in new_megapixels:
            async with self._line:
                ready = await self._process(picture, ready)
        await _until(ready)

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
