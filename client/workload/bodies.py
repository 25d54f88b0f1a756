"""Request bodies, built off the event loop and ahead of the clock, in bounded memory.

A body is nearly all base64 of its picture. That part is the same for every target, so it is kept once, in a `BodyStore` which all
`Bodies` of a run share: in memory up to a limit, then in a temporary file up to another, and beyond both it is built again when needed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import signal
import tempfile
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import msgspec

from client.core.body import BodyTemplate, body_template, mime_type
from client.core.cases import PreparedRequest
from client.core.plan import Workload
from client.core.records import ImageFact
from client.errors import UsageError
from client.workload.sources import Pictures, SyntheticPictures

MEMORY_BYTES = 512 * 1024 * 1024
SPILL_BYTES = 4 * 1024 * 1024 * 1024
_KEPT_FACTS = 65_536
_WORTH_PROCESSES = 24
"""From so many pictures to draw on, starting processes costs less than it saves."""


class Encoded(msgspec.Struct, frozen=True):
    """A picture as it stands inside a body, and what is written down of it."""

    fact: ImageFact
    text: bytes


def build(pictures: Pictures, number: int) -> Encoded:
    """Draws, or reads and cleans, one picture. Runs in a thread or in a process."""
    case = pictures.case(number)
    if (
        kind := mime_type(case.jpeg)
    ) != "image/jpeg":  # the data URI of every body says JPEG: it must be true of the bytes
        raise UsageError(f"{case.image_id} came out as {kind}, not as a JPEG.", "Please report this picture.")
    return Encoded(case.fact(), base64.b64encode(case.jpeg))


class BodyStore:
    """The encoded pictures of a run, by number. One event loop uses it; the work is done elsewhere."""

    def __init__(self, pictures: Pictures, *, memory_bytes: int = MEMORY_BYTES, spill_bytes: int = SPILL_BYTES) -> None:
        self.pictures = pictures
        self._memory_limit, self._spill_limit = memory_bytes, spill_bytes
        self._fresh: OrderedDict[int, Encoded] = OrderedDict()
        self._used: OrderedDict[int, Encoded] = OrderedDict()
        self._held = 0
        self._spill: int | None = None
        self._spilled: dict[int, tuple[int, int]] = {}
        self._spill_end = 0
        self._pending: dict[int, asyncio.Task[Encoded]] = {}
        self._facts: OrderedDict[int, ImageFact] = OrderedDict()
        self.later: deque[int] | None = None
        """What the block that was prepared last needs and could not be held yet; None before the first block is prepared. It lies here
        because one call prepares a block for every target."""
        cores = os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(max_workers=min(4, cores), thread_name_prefix="bodies")

    @property
    def full(self) -> bool:
        """Nothing more can be kept unless something that was used makes room."""
        return self._held >= self._memory_limit and not self._used and self._spill_end >= self._spill_limit

    @property
    def held_bytes(self) -> int:
        return self._held

    def ready(self, number: int) -> bool:
        return number in self._fresh or number in self._used or number in self._spilled

    def busy(self, number: int) -> bool:
        return number in self._pending

    def take(self, number: int) -> Encoded | None:
        """From memory, at once; None when it is not there."""
        found = self._fresh.pop(number, None) or self._used.pop(number, None)
        if found is not None:
            self._used[number] = found
        return found

    async def get(self, number: int) -> Encoded:
        """From memory, from the file, or built now."""
        found = self.take(number)
        if found is not None:
            return found
        if number in self._spilled:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._read_back, number)
        encoded = await asyncio.shield(self.start(number))
        self.take(number)
        return encoded

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
        try:
            encoded = await asyncio.get_running_loop().run_in_executor(executor, build, self.pictures, number)
            self._keep(number, encoded)
            return encoded
        finally:
            self._pending.pop(number, None)

    def _keep(self, number: int, encoded: Encoded) -> None:
        self._facts[number] = encoded.fact
        if len(self._facts) > _KEPT_FACTS:
            self._facts.popitem(last=False)
        size = len(encoded.text)
        while self._used and self._held + size > self._memory_limit:
            old, dropped = self._used.popitem(last=False)
            self._held -= len(dropped.text)
            self._write_out(old, dropped)
        if self._held + size <= self._memory_limit or not self._write_out(number, encoded):
            # Over both limits at most the pictures in flight are held: they are the next to be used.
            self._fresh[number] = encoded
            self._held += size

    def _write_out(self, number: int, encoded: Encoded) -> bool:
        size = len(encoded.text)
        if number in self._spilled:
            return True
        if self._spill_end + size > self._spill_limit:
            return False
        try:
            if self._spill is None:
                with tempfile.TemporaryFile(prefix="halfweight-bodies-") as file:
                    self._spill = os.dup(file.fileno())
            os.pwrite(self._spill, encoded.text, self._spill_end)
        except OSError:
            self._spill_limit = 0  # no room on the disk: from here on pictures are built again
            return False
        self._spilled[number] = (self._spill_end, size)
        self._spill_end += size
        return True

    def _read_back(self, number: int) -> Encoded:
        offset, size = self._spilled[number]
        assert self._spill is not None
        return Encoded(self.fact(number), os.pread(self._spill, size, offset))

    def fact(self, number: int) -> ImageFact:
        """What is written down of a picture. Kept for the latest 65,536; an older one is made again."""
        number = self.pictures.number(number)
        found = self._facts.get(number)
        return found if found is not None else self.pictures.case(number).fact()

    def known(self, number: int) -> ImageFact | None:
        """As `fact`, but None where the picture would have to be made again."""
        return self._facts.get(self.pictures.number(number))

    async def build_all(self, numbers: list[int]) -> None:
        """Builds what is missing until the store is full, with all cores when the pictures have to be drawn.

        Raises the first failure.
        """
        cores = os.cpu_count() or 1
        if not isinstance(self.pictures, SyntheticPictures) or len(numbers) < _WORTH_PROCESSES or cores == 1:
            await self._build_on(numbers, self._threads, 8)
            return
        pool = ProcessPoolExecutor(
            min(16, cores), mp_context=get_context("spawn"), initializer=become_helper, initargs=(os.getpid(),)
        )
        try:
            await self._build_on(numbers, pool, 2 * min(16, cores))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    async def _build_on(self, numbers: list[int], executor: Executor, at_once: int) -> None:
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
        if self._spill is not None:
            with contextlib.suppress(OSError):
                os.close(self._spill)
            self._spill = None
        self._fresh.clear()
        self._used.clear()
        self._spilled.clear()


def become_helper(parent: int) -> None:
    """A helper process leaves Ctrl-C to its parent, and ends when the parent is gone: also when it went before the helper came up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Bodies:
    """The bodies for one target. `window` bodies are kept in the making ahead of the last one asked for."""

    def __init__(
        self,
        pictures: Pictures,
        workload: Workload,
        model: str,
        window: int = 64,
        *,
        store: BodyStore | None = None,
        seed: int | None = None,
        continuous_usage: bool = False,
    ) -> None:
        self.store = store or BodyStore(pictures)
        self._pictures, self._window = pictures, window
        self._template: BodyTemplate = body_template(workload, model, seed=seed, continuous_usage=continuous_usage)

    async def prepare(self, numbers: Iterable[int]) -> None:
        """Builds the bodies of a block before its clock starts: all that the store can hold; the rest as `get` goes on.

        Raises UsageError for a picture that cannot be used.
        """
        wanted = list(dict.fromkeys(self._pictures.number(i) for i in numbers))
        missing = [number for number in wanted if not self.store.ready(number)]
        await self.store.build_all(missing)
        self.store.later = deque(number for number in missing if not self.store.ready(number))

    async def get(self, i: int) -> PreparedRequest:
        """The body with picture `i`: at once when it was prepared."""
        number = self._pictures.number(i)
        encoded = self.store.take(number) or await self.store.get(number)
        self._look_ahead(number)
        return PreparedRequest(encoded.fact.image_id, number, self._template.fill(encoded.text))

    def _look_ahead(self, number: int) -> None:
        """What `prepare` could not hold yet; pictures of a later block would be drawn inside the block that is measured now."""
        later = self.store.later
        if later is not None:
            while later and (later[0] == number or self.store.ready(later[0])):
                later.popleft()
            coming = list(itertools.islice(later, self._window))
        else:
            last = min(number + 1 + self._window, len(self._pictures))
            coming = [self._pictures.number(k) for k in range(number + 1, last)]
        for k in coming:
            if not self.store.ready(k) and not self.store.busy(k):
                self.store.start(k)

    def fact(self, i: int) -> ImageFact:
        """What is written down of picture `i`."""
        return self.store.fact(i)

    def known(self, i: int) -> ImageFact | None:
        """The same for a picture that was built lately; None for any other."""
        return self.store.known(i)

    def close(self) -> None:
        """Ends the threads and gives the memory and the file back, for every `Bodies` of the same store."""
        self.store.close()
