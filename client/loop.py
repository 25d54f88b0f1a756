"""The event loop under load: asyncio's own, whose selector calls the readers of load connections itself.

A token costs one `epoll_wait` and one `recvmsg`. What asyncio puts between the two (a key, a handle, a queue, a context, a turn of the
loop) costs as much again. A reader registered here skips it, and as long as readers say that nothing came of what they read, the
selector looks again without a turn of the loop.

What a reader finds may be work: an answer to parse, a request to send after it. `defer` puts it off until all files have been read, and
then a little of it is done in each turn. So a token waits for little work, and a request that is due for little work and
what came of it, not for all that came in with them. Everything else is as asyncio has it, and on another loop the same connection works
through `add_reader` and `call_soon`.
"""

from __future__ import annotations

import asyncio
import math
import os
import selectors
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, TypeVar

T = TypeVar("T")
Reader = Callable[[], bool]
"""Reads what is there. True: nothing came of it, neither a callback nor a timer, so that the loop has nothing to do."""
EVENTS = 512
"""Files that one look at the kernel may report."""
PIECES = 3
PIECE_S = 0.0002
"""So many pieces of deferred work, or work that began so long ago, are enough for one turn. A turn costs as much as a short piece; what comes
of a piece, a request sent say, costs more than it."""
PASSES = 16
"""Turns that deferred work lets other callbacks go first."""

if sys.platform == "linux":
    import select

    EPOLLIN = select.EPOLLIN

    class _DirectSelector(selectors.EpollSelector):
        """Epoll. A file that can be read, and nothing else, and has a direct reader is not reported: it is read."""

        def __init__(self) -> None:
            super().__init__()
            self.readers: dict[int, Reader] = {}
            self.work: deque[Callable[[], object]] = deque()
            self._passed = 0
            self.alone = False
            """Whether what is read now is all that there is to do."""
            self.on_error: Callable[[Exception], None] | None = None
            # The same epoll instance through a descriptor of our own: its object inside EpollSelector is private.
            self._epoll = select.epoll.fromfd(os.dup(self.fileno()))

        def close(self) -> None:
            self._epoll.close()
            super().close()

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            """As EpollSelector has it: rounded up to the millisecond, so that a timer is never early. Then some work."""
            poll, readers, work = self._epoll.poll, self.readers, self.work
            wait_s = -1.0 if timeout is None else 0.0 if timeout <= 0 else math.ceil(timeout * 1e3) * 1e-3
            if work:
                wait_s = 0.0
            until_s = monotonic() + wait_s
            ready: list[tuple[selectors.SelectorKey, int]] = []
            while True:
                try:
                    happened = poll(wait_s, EVENTS)
                except InterruptedError:
                    return ready
                idle = bool(happened)
                self.alone = len(happened) == 1 and not work
                for fd, event in happened:
                    reader = readers.get(fd) if event == EPOLLIN else None
                    if reader is None:
                        idle = False
                        self._report(fd, event, ready)
                        continue
                    try:
                        idle = reader() and idle
                    except Exception as error:  # as for any callback of a loop: it is told, and the loop lives
                        idle = False
                        self._tell(error)
                if work:
                    # Callbacks that are ready and timers that are due come first, but not for ever.
                    if timeout is not None and timeout <= 0 and self._passed < PASSES:
                        self._passed += 1
                        return ready
                    self._passed = 0
                    enough_s = monotonic() + PIECE_S
                    for _ in range(min(PIECES, len(work))):
                        try:
                            work.popleft()()
                        except Exception as error:
                            self._tell(error)
                        if monotonic() >= enough_s:
                            break
                    return ready
                if not idle or wait_s == 0.0:
                    return ready
                if wait_s > 0.0:
                    wait_s = until_s - monotonic()
                    if wait_s <= 0.0:
                        return ready

        def _tell(self, error: Exception) -> None:
            if self.on_error is None:
                raise error
            self.on_error(error)

        def _report(self, fd: int, event: int, ready: list[tuple[selectors.SelectorKey, int]]) -> None:
            events = selectors.EVENT_WRITE if event & ~EPOLLIN else 0
            if event & ~select.EPOLLOUT:
                events |= selectors.EVENT_READ
            key = self.get_map().get(fd)
            if key is not None and events & key.events:
                ready.append((key, events & key.events))

    class LoadLoop(asyncio.SelectorEventLoop):
        """asyncio's selector loop with `add_direct_reader`."""

        def __init__(self) -> None:
            self._direct = _DirectSelector()
            super().__init__(self._direct)
            self._direct.on_error = self._report

        def add_direct_reader(self, fd: int, reader: Reader) -> None:
            """As add_reader; `reader` is called in the middle of the loop's look at its files, so it must not look at them."""
            self.add_reader(fd, reader)
            self._direct.readers[fd] = reader

        def defer(self, work: Callable[[], object]) -> None:
            """Call it when all files that have something to read have been read, a little in each turn. Called by direct readers only."""
            if self._direct.alone:
                work()
            else:
                self._direct.work.append(work)

        def remove_reader(self, fd: Any) -> bool:
            self._direct.readers.pop(fd, None)
            return super().remove_reader(fd)

        def _report(self, error: Exception) -> None:
            self.call_exception_handler({"message": "Exception in a direct reader", "exception": error})

    new_loop: Callable[[], asyncio.AbstractEventLoop] = LoadLoop
else:
    new_loop = asyncio.new_event_loop


def add_direct_reader(loop: asyncio.AbstractEventLoop, fd: int, reader: Reader) -> None:
    """Directly where the loop can, else through `add_reader`. `loop.remove_reader` ends both."""
    add: Callable[[int, Reader], None] = getattr(loop, "add_direct_reader", loop.add_reader)
    add(fd, reader)


def deferring(loop: asyncio.AbstractEventLoop) -> Callable[[Callable[[], object]], object]:
    """How to put work off until files have been read: the load loop's `defer`, or `call_soon` of another one."""
    defer: Callable[[Callable[[], object]], object] = getattr(loop, "defer", loop.call_soon)
    return defer


def run_loaded(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run on the load loop."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)
