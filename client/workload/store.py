"""The encoded pictures of a run, and what is told of those that were sent. Bounded in memory, whatever the number of requests.

They are held in memory up to a limit, then in a temporary file up to another, and beyond both one is built again when it is needed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import msgspec

from client.core.records import ImageFact
from client.workload.sources import Pictures, SyntheticPictures
from client.workload.spill import Encoded, Spill, build

MEMORY_BYTES = 32 * 1024 * 1024
WITHOUT_FILE_BYTES = 512 * 1024 * 1024
"""Held in memory where no file can be: drawing inside a measured block would be worse."""
SPILL_BYTES = 4 * 1024 * 1024 * 1024
_WORTH_PROCESSES = 24
"""From so many pictures to draw on, starting processes costs less than it saves."""


class BodyStore:
    """The encoded pictures of a run, by number. One event loop uses it; the work is done elsewhere."""

    def __init__(self, pictures: Pictures, *, memory_bytes: int = MEMORY_BYTES, spill_bytes: int = SPILL_BYTES) -> None:
        self.pictures = pictures
        self._memory_bytes = memory_bytes
        self._fresh: OrderedDict[int, Encoded] = OrderedDict()
        self._used: OrderedDict[int, Encoded] = OrderedDict()
        self._held = 0
        self._spill = Spill(spill_bytes)
        self._pending: dict[int, asyncio.Task[Encoded]] = {}
        self._told: set[int] = set()
        self._untold: list[bytes] = []
        self._block: int | None = None
        self.ahead: Ahead | None = None
        """What the block that was prepared last sends next; None before the first block is prepared. It lies here because one call
        prepares a block for every target."""
        cores = os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(max_workers=min(4, cores), thread_name_prefix="bodies")

    @property
    def _memory_limit(self) -> int:
        return max(self._memory_bytes, WITHOUT_FILE_BYTES) if self._spill.broken else self._memory_bytes

    @property
    def full(self) -> bool:
        """Nothing more can be kept unless something that was used makes room."""
        return self._held >= self._memory_limit and not self._used and self._spill.full

    @property
    def held_bytes(self) -> int:
        return self._held

    def ready(self, number: int) -> bool:
        return number in self._fresh or number in self._used or number in self._spill

    def busy(self, number: int) -> bool:
        return number in self._pending

    def take(self, number: int) -> Encoded | None:
        """At once, from memory or what the kernel has of the file; None when it is in neither."""
        found = self._fresh.pop(number, None) or self._used.pop(number, None)
        if found is not None:
            self._used[number] = found
        elif number in self._spill:
            found = self._spill.read(number, wait=False)
        return found

    async def get(self, number: int) -> Encoded:
        """From memory, from the file, or built now."""
        found = self.take(number)
        if found is None and number in self._spill:
            found = await asyncio.get_running_loop().run_in_executor(self._threads, self._spill.read, number)
        if found is None:
            found = await asyncio.shield(self.start(number))
            self.take(number)
        return found

    def start(self, number: int, executor: Executor | None = None) -> asyncio.Task[Encoded]:
        """Begins to build a picture, once."""
        task = self._pending.get(number)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._build(number, executor or self._threads))
            self._pending[number] = task
            # A failure is raised to whoever asks for the picture; one that nobody asks for is not news.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _build(self, number: int, executor: Executor) -> Encoded:
        loop = asyncio.get_running_loop()
        try:
            encoded = await loop.run_in_executor(executor, build, self.pictures, number)
            if self._spill.used and not self._spill.full:
                await loop.run_in_executor(self._threads, self._spill.write, number, encoded)
            self._keep(number, encoded)
            return encoded
        finally:
            self._pending.pop(number, None)

    def _keep(self, number: int, encoded: Encoded) -> None:
        size = len(encoded.text)
        while self._used and self._held + size > self._memory_limit:
            old, dropped = self._used.popitem(last=False)
            self._held -= len(dropped.text)
            self._spill.write(old, dropped)
        if self._held + size <= self._memory_limit or not self._spill.write(number, encoded):
            # Over both limits at most the pictures in flight are held: they are the next to be used.
            self._fresh[number] = encoded
            self._held += size

    def open_block(self, first: int | None) -> None:
        """A block that begins with another picture than the one before: what was told of the old one's is told."""
        if first != self._block:
            self._block = first
            self._told.clear()

    def tell(self, number: int, fact: ImageFact) -> None:
        """A picture was sent: it is written down once for a block, however many targets get it."""
        if number not in self._told:
            self._told.add(number)
            self._untold.append(msgspec.json.encode(fact))

    def drain(self) -> Iterator[ImageFact]:
        """What is to be written down of the pictures that were sent since the last call."""
        untold, self._untold = self._untold, []
        for fact in untold:
            yield msgspec.json.decode(fact, type=ImageFact)

    async def build_all(self, numbers: Iterable[int]) -> None:
        """Builds what is missing until the store is full, with all cores when the pictures have to be drawn.

        Raises the first failure.
        """
        missing = (number for number in numbers if not self.ready(number))
        some = list(itertools.islice(missing, _WORTH_PROCESSES))
        every = itertools.chain(some, missing)
        cores = os.cpu_count() or 1
        if not isinstance(self.pictures, SyntheticPictures) or len(some) < _WORTH_PROCESSES or cores == 1:
            await self._build_on(every, self._threads, 8)
        else:
            pool = ProcessPoolExecutor(
                min(16, cores), mp_context=get_context("spawn"), initializer=become_helper, initargs=(os.getpid(),)
            )
            try:
                await self._build_on(every, pool, 2 * min(16, cores))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        if self._spill.used:
            # Now, when nothing is timed: what has to leave memory later has only to be dropped.
            for held in (self._fresh, self._used):
                for number, encoded in list(held.items()):
                    await asyncio.get_running_loop().run_in_executor(self._threads, self._spill.write, number, encoded)

    async def _build_on(self, numbers: Iterable[int], executor: Executor, at_once: int) -> None:
        waiting: deque[asyncio.Task[Encoded]] = deque()
        try:
            for number in numbers:
                if self.full:
                    break
                waiting.append(self.start(number, executor))
                if len(waiting) >= at_once:
                    await asyncio.shield(waiting.popleft())
            while waiting:
                await asyncio.shield(waiting.popleft())
        finally:
            for task in waiting:
                task.cancel()

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._spill.close()
        self._fresh.clear()
        self._used.clear()


class Ahead:
    """The next `window` pictures of a block, in the order in which they will be asked for."""

    def __init__(self, numbers: Iterator[int], window: int) -> None:
        self._rest = numbers
        self.window = deque(itertools.islice(numbers, window))

    def passed(self, number: int) -> int | None:
        """`number` was asked for; returns the picture that comes into the window, None when there is none."""
        try:
            self.window.remove(number)
        except ValueError:  # of another block
            return None
        coming = next(self._rest, None)
        if coming is not None:
            self.window.append(coming)
        return coming


def become_helper(parent: int) -> None:
    """A helper process leaves Ctrl-C to its parent, and ends when the parent is gone: also when it went before the helper came up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
