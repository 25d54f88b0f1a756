"""The event loop under load: asyncio's own, whose selector calls the readers of load connections itself.

A token costs one turn of the loop: one `epoll_wait`, one `recvmsg`. What asyncio puts between the two (a key, a handle, a queue, a
context) costs as much again as parsing the token. A reader registered here skips it; everything else on the loop is as asyncio has it, and
on another loop the same connection works through `add_reader`.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
Reader = Callable[[], None]
EVENTS = 512
"""Files that one look at the kernel may report."""

if sys.platform == "linux":
    import select

    class _DirectSelector(selectors.EpollSelector):
        """Epoll. A file that can be read, and nothing else, and has a direct reader is not reported: it is read."""

        def __init__(self) -> None:
            super().__init__()
            self.readers: dict[int, Reader] = {}
            self.on_error: Callable[[Exception], None] | None = None
            self._poll = self._selector.poll  # type: ignore[attr-defined]  # the stubs leave the epoll object out

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            """As EpollSelector has it: rounded up to the millisecond, so that a timer is never early."""
            wait_s = -1.0 if timeout is None else 0.0 if timeout <= 0 else math.ceil(timeout * 1e3) * 1e-3
            ready: list[tuple[selectors.SelectorKey, int]] = []
            keys, readers = self.get_map(), self.readers
            try:
                happened = self._poll(wait_s, EVENTS)
            except InterruptedError:
                return ready
            for fd, event in happened:
                reader = readers.get(fd) if event == select.EPOLLIN else None
                if reader is not None:
                    self._call(reader)
                    continue
                events = selectors.EVENT_WRITE if event & ~select.EPOLLIN else 0
                if event & ~select.EPOLLOUT:
                    events |= selectors.EVENT_READ
                key = keys.get(fd)
                if key is not None and events & key.events:
                    ready.append((key, events & key.events))
            return ready

        def _call(self, reader: Reader) -> None:
            try:
                reader()
            except Exception as error:  # as for any callback of a loop: it is reported, and the loop lives
                if self.on_error is None:
                    raise
                self.on_error(error)

    class LoadLoop(asyncio.SelectorEventLoop):
        """asyncio's selector loop with `add_direct_reader`."""

        def __init__(self) -> None:
            self._direct = _DirectSelector()
            super().__init__(self._direct)
            self._direct.on_error = self._report

        def add_direct_reader(self, fd: int, reader: Reader) -> None:
            """As add_reader; `reader` may be called in the middle of the loop's look at its files, so it must not look at them."""
            self.add_reader(fd, reader)
            self._direct.readers[fd] = reader

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
    add = getattr(loop, "add_direct_reader", loop.add_reader)
    add(fd, reader)


def run_loaded(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run on the load loop."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)
