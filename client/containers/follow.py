"""Two kinds of threads that listen to a container engine: one for each log, one for what happens to the containers."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from client.containers.engine import Engine
from client.core.container import StartReader, stamp_ns, tells
from client.core.secrets import NO_MASK, Mask
from client.core.startup import mask

KEPT_LINES = 8
CLOSE_LIMIT_S = 2.0
MAX_LINE_BYTES = 65_536


class LogFollower:
    """Copies one container's log, stamps and all, to a file from one start on. Ends with the container, or by `close`."""

    def __init__(self, engine: Engine, container: str, since_ns: int | None, path: Path, keys: Mask = NO_MASK) -> None:
        self.marks = StartReader()
        self.last: deque[str] = deque(maxlen=KEPT_LINES)
        self._stream: Any = engine.logs(container, since_ns)
        self._file = path.open("ab")
        self._keys = keys
        self._thread = threading.Thread(target=self._run, name=f"log-{container[:12]}", daemon=True)
        self._thread.start()

    def close(self, *, ended: bool) -> None:
        """`ended`: the container has, so what it said last is waited for; otherwise the copy stops here."""
        if ended:
            self._thread.join(CLOSE_LIMIT_S)
        with contextlib.suppress(Exception):  # its socket may be gone already; what was copied is in the file
            self._stream.close()
        self._thread.join(CLOSE_LIMIT_S)

    def _run(self) -> None:
        with self._file as file, contextlib.suppress(Exception):  # a broken stream ends the copy: what is written stays
            for line in _lines(self._stream):
                stamp, _, text = line.partition(" ")
                text = self._keys.text(mask(text))
                self.marks.take(stamp_ns(stamp), text)
                if tells(text):
                    self.last.append(text)
                file.write(f"{stamp} {text}\n".encode())
                if self.marks.serving_ns is None:
                    file.flush()


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    """A chunk is whatever the engine sent at once: half a line, or several."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line[:MAX_LINE_BYTES].decode(errors="replace").rstrip("\r")
        if len(rest) > MAX_LINE_BYTES:
            rest = rest[:MAX_LINE_BYTES]
    if rest:
        yield rest.decode(errors="replace")


class EventWatch:
    """Calls `happened(container id, action, event)` from its own thread."""

    def __init__(
        self, engine: Engine, containers: list[str], happened: Callable[[str, str, dict[str, Any]], None]
    ) -> None:
        self._happened = happened
        self._stream: Any = engine.endings(containers)
        self._thread = threading.Thread(target=self._run, name="container-events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._stream.close()
        self._thread.join(CLOSE_LIMIT_S)

    def _run(self) -> None:
        with contextlib.suppress(
            Exception
        ):  # an engine that goes away says nothing more; the servers' own answers tell the rest
            for event in self._stream:
                self._happened(str(event.get("id", "")), str(event.get("Action", "")), event)
