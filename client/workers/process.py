"""One worker's process as the fleet sees it: started, spoken to, listened to, and noticed when it is gone."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from time import monotonic_ns
from typing import Any

from client.core.records import RequestRecord
from client.workers.wire import Hello, Seen, post, receive

LEAVE_LIMIT_S = 10.0
_CODE = "import sys; sys.path[:0] = {path!r}; from client.workers.child import main; main({fd}, {parent})"


class WorkerProcess:
    """One process as the fleet sees it."""

    def __init__(self, k: int, records: Path, seen: Callable[[Iterable[RequestRecord]], None]) -> None:
        self.k = k
        self.records = records
        self.lost = False
        self.in_flight = 0
        self.lost_ns = 0
        self._seen = seen
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._answers: asyncio.Queue[Any] = asyncio.Queue()
        self._listener: asyncio.Task[None] | None = None
        self._heard_ns = 0

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def start(self, hello: Hello) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            code = _CODE.format(path=[p for p in sys.path if p], fd=theirs.fileno(), parent=os.getpid())
            # Not through asyncio: its watcher of children is not needed, the socket tells when one is gone.
            self._process = subprocess.Popen(  # noqa: ASYNC220
                [sys.executable, "-c", code], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._heard_ns = monotonic_ns()
        self._listener = asyncio.create_task(self._listen(reader))
        self.post(hello)

    def post(self, message: object) -> None:
        if self._writer is not None:
            post(self._writer, message)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while (message := await receive(reader)) is not None:
            self._heard_ns = monotonic_ns()
            if isinstance(message, Seen):
                self.in_flight = message.in_flight
                self._seen(message.records)
            else:
                self._answers.put_nowait(message)
        self.lost = True
        self.lost_ns = monotonic_ns()
        self._answers.put_nowait(None)

    async def answer(self, silence_limit_s: float) -> Any:
        """The next message but Seen; None when the process is gone. A frozen one is killed."""
        while True:
            if self.lost and self._answers.empty():
                return None
            try:
                return await asyncio.wait_for(self._answers.get(), silence_limit_s / 4)
            except TimeoutError:
                silent_ns = monotonic_ns() - self._heard_ns
                if silent_ns > silence_limit_s * 1e9 and self._process is not None and not self.lost:
                    self._process.kill()

    def end(self) -> str:
        """How the process ended, in words."""
        if self._process is None:
            return "it was never started"
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "it closed its socket"
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    async def gone(self) -> None:
        process = self._process
        if process is None:
            return
        try:
            await asyncio.to_thread(process.wait, LEAVE_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)
        if self._listener is not None:
            await asyncio.wait([self._listener])
        if self._writer is not None:
            self._writer.close()
