"""A worker process: its own transport, endpoints and bodies, its share of each block, its own file of records."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import threading
import traceback
from math import ceil

import msgspec

from client.core.records import Phase, RequestRecord, without_tokens
from client.core.schedule import Images, Schedule, share_schedule
from client.errors import HalfweightError
from client.generator import LocalFleet
from client.loop import run_loaded
from client.rundir import JsonLines
from client.workers.kit import Kit, Source
from client.workers.wire import Abort, Armed, Failed, Finished, Go, Hello, Leave, Prepare, Ready, Seen, post, receive

TELL_EVERY_S = 0.1
PREPARED_AHEAD = 4_096
"""Bodies that are built before a block starts; those of a longer share follow as it goes on."""
EXIT_LIMIT_S = 5.0
_PR_SET_PDEATHSIG = 1


def main(descriptor: int, parent: int) -> None:
    """Entry of the process. `descriptor` is this side of the socket pair, `parent` the process id of the fleet."""
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the fleet decides what it means
    with contextlib.suppress(KeyboardInterrupt):
        run_loaded(_serve(socket.socket(fileno=descriptor)))


def _die_with(parent: int) -> None:
    """No orphans: the kernel sends SIGTERM when the fleet's process is gone, however it went."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


async def _serve(sock: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=sock)
    hello = await receive(reader)
    assert isinstance(hello, Hello)
    try:
        worker = Worker(hello, reader, writer)
    except HalfweightError as error:
        post(writer, Failed(error, str(error)))
        await writer.drain()
        return
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.leave_early)
    post(writer, Ready(os.getpid()))
    try:
        await worker.obey()
    finally:
        await worker.close()


class Worker:
    def __init__(self, hello: Hello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._kit: Kit = hello.recipe()
        self._bodies = self._kit.bodies
        self._file = JsonLines(hello.records)
        self._fleet = LocalFleet(
            self._kit.doors, self._bodies, self._keep, worker=hello.worker, grace_s=hello.grace_s, retries=hello.retries
        )
        self._untold: list[RequestRecord] = []
        self._start: asyncio.Future[int] | None = None
        self._block: asyncio.Task[None] | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._leaving = False

    async def obey(self) -> None:
        """Until told to leave, or until the fleet is gone."""
        while True:
            order = await receive(self._reader)
            if isinstance(order, Prepare):
                self._start = asyncio.get_running_loop().create_future()
                self._block = asyncio.create_task(self._run(order, self._start))
            elif isinstance(order, Go) and self._start is not None and not self._start.done():
                self._start.set_result(order.start_ns)
            elif isinstance(order, Abort):
                self._abort()
            elif order is None:
                self.leave_early()
            if isinstance(order, Leave) or order is None:
                return

    def leave_early(self) -> None:
        """By SIGTERM or because the fleet is gone. The share is then incomplete, so it is not reported as finished."""
        if self._leaving:
            return
        self._leaving = True
        self._abort()
        watch = threading.Timer(EXIT_LIMIT_S, os._exit, (1,))
        watch.daemon = True
        watch.start()
        self._reader.feed_eof()

    def _abort(self) -> None:
        self._fleet.abort()
        if self._preparing is not None:
            self._preparing.cancel()
        if self._start is not None and not self._start.done():
            self._start.cancel()

    async def close(self) -> None:
        if self._block is not None:
            await asyncio.wait([self._block])
        await self._fleet.stop()
        await self._kit.close()
        self._file.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()
        self._writer.close()

    def _keep(self, record: RequestRecord) -> None:
        self._file.append(without_tokens(record))
        self._untold.append(record)

    async def _run(self, order: Prepare, start: asyncio.Future[int]) -> None:
        telling = asyncio.create_task(self._tell())
        try:
            outcome: Finished | Failed = await self._block_of(order, start)
        except HalfweightError as error:
            outcome = Failed(error, str(error))
        except Exception:  # told to the fleet, which raises it where a person sees it
            outcome = Failed(None, traceback.format_exc())
        except asyncio.CancelledError:
            outcome = Failed(None, "aborted before its start", aborted=True)
        finally:
            telling.cancel()
        self._tell_now()
        if not self._leaving:
            post(self._writer, outcome)

    async def _block_of(self, order: Prepare, start: asyncio.Future[int]) -> Finished:
        share = share_schedule(order.schedule, order.k, order.n)
        bodies = self._bodies[order.target]
        likely = PREPARED_AHEAD if order.likely is None else min(PREPARED_AHEAD, ceil(order.likely / order.n))
        self._preparing = asyncio.create_task(_prepared(bodies, share, likely))
        await self._preparing
        post(self._writer, Armed())
        start_ns = await start
        result = await self._fleet.run(
            order.target, share, phase=order.phase, block=order.block, level=order.level, start_ns=start_ns
        )
        return Finished(result.window, result.health[0], tuple(bodies.drain()))

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            self._tell_now()

    def _tell_now(self) -> None:
        slim = tuple(_slim(record) for record in self._untold)
        self._untold.clear()
        post(self._writer, Seen(slim, self._fleet.in_flight))


async def _prepared(bodies: Source, share: Schedule, likely: int) -> None:
    await bodies.prepare(Images(share.slots), likely, Images(share.tail))


def _slim(record: RequestRecord) -> RequestRecord:
    """Without what only the file needs. The answers of quality passes go into a file of the fleet's, so they keep their words."""
    text = record.text if record.phase is Phase.QUALITY else None
    return msgspec.structs.replace(record, chunk_ns=(), text=text)
