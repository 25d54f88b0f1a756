"""Requests that get no whole answer, over real sockets: broken connections, time-outs, our own limits; one record each, of the right class."""

from __future__ import annotations

import asyncio
import errno
import random
import resource
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from asking import SHORT, ask, ask_script, check, send
from calls import full_backlog
from raw_server import CHUNKED, GOOD, ROLE, RawServer, Wire, answering, chunk, event, http

from client.core.cases import PreparedRequest
from client.core.plan import Target, Timeouts
from client.core.records import Outcome, RequestRecord
from client.endpoint import Endpoint
from client.transport import new_client


async def test_a_reset_before_the_answer() -> None:
    async def script(wire: Wire) -> None:
        wire.reset()

    check(await ask_script(script), Outcome.RESET)


async def test_a_close_before_the_answer() -> None:
    async def script(wire: Wire) -> None:
        wire.writer.close()

    check(await ask_script(script), Outcome.RESET)


async def test_a_reset_inside_the_answer_keeps_what_came() -> None:
    async def script(wire: Wire) -> None:
        await wire.send(CHUNKED + chunk(ROLE + event("a")))
        await asyncio.sleep(0.02)
        wire.reset()

    record = await ask_script(script)
    check(record, Outcome.RESET)
    assert record.text == "a"
    assert len(record.chunk_ns) == 1
    assert record.status == 200


async def test_a_close_inside_the_answer_is_a_truncated_answer() -> None:
    record = await ask_script(answering(CHUNKED + chunk(ROLE + event("a")), close=True))
    check(record, Outcome.TRUNCATED)
    assert record.text == "a"


async def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        record = await ask(f"http://127.0.0.1:{taken.getsockname()[1]}")
    check(record, Outcome.REFUSED)
    assert record.sent_ns is None
    assert record.status is None


async def test_a_name_that_nobody_has() -> None:
    check(await ask("http://no-such-host.invalid"), Outcome.DNS)


async def test_a_server_that_does_not_speak_tls() -> None:
    async def plain_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(http(b"speak HTTP", "400 Bad Request"))
        writer.close()

    server = await asyncio.start_server(plain_http, "127.0.0.1", 0)
    async with server:
        check(await ask(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"), Outcome.TLS)


async def silence(wire: Wire) -> None:
    await asyncio.sleep(30)


async def test_no_first_byte() -> None:
    record = await ask_script(silence)
    check(record, Outcome.TIMEOUT_FIRST_BYTE)
    assert record.outcome.censored
    assert 0.2e9 <= (record.done_ns or 0) - (record.sent_ns or 0) < 1e9


async def test_silence_inside_the_answer() -> None:
    async def script(wire: Wire) -> None:
        await wire.send(CHUNKED + chunk(ROLE + event("a")))
        await silence(wire)

    record = await ask_script(script)
    check(record, Outcome.TIMEOUT_IDLE)
    assert record.text == "a"


async def test_an_endless_stream() -> None:
    async def script(wire: Wire) -> None:
        await wire.send(CHUNKED)
        while True:
            await wire.send(chunk(event("a")))
            await asyncio.sleep(0.02)

    timeouts = Timeouts(connect_s=0.5, write_s=0.5, first_byte_s=0.5, idle_s=0.5, total_s=0.4)
    check(await ask_script(script, timeouts=timeouts), Outcome.TIMEOUT_TOTAL)


async def test_nobody_accepts_the_connection() -> None:
    with full_backlog() as port:
        check(await ask(f"http://127.0.0.1:{port}"), Outcome.TIMEOUT_CONNECT)


async def test_nobody_takes_the_request() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        large = PreparedRequest("large", 0, b" " * 30_000_000)
        record = await ask(f"http://127.0.0.1:{listener.getsockname()[1]}", prepared=large)
    check(record, Outcome.TIMEOUT_WRITE)
    assert record.uploaded_ns is None


async def test_no_file_descriptor_is_left() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with RawServer(answering(http(GOOD))) as server, new_client() as client:
        endpoint = Endpoint(client, Target(name="fp8", base_url=server.url), SHORT)
        records: list[RequestRecord] = []
        low = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir()) + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (low, hard))
        held = []
        try:
            while len(held) < 10_000 and (sock := one_more_socket()) is not None:
                held.append(sock)
            await send(endpoint, records)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for sock in held:
                sock.close()
    check(records[0], Outcome.CLIENT_LIMIT)


def one_more_socket() -> socket.socket | None:
    try:
        return socket.socket()
    except OSError:
        return None


@asynccontextmanager
async def slow_stream() -> AsyncIterator[RawServer]:
    async def script(wire: Wire) -> None:
        await asyncio.sleep(0.005)
        await wire.send(CHUNKED)
        for _ in range(5):
            await asyncio.sleep(0.005)
            await wire.send(chunk(event("a")))
        await wire.send(chunk(event("", finish="stop")) + b"0\r\n\r\n")

    async with RawServer(script) as server:
        yield server


@pytest.mark.parametrize("seed", range(3))
async def test_cancelled_at_any_moment_leaves_exactly_one_record(seed: int) -> None:
    moments = random.Random(seed)
    async with slow_stream() as server, new_client() as client:
        endpoint = Endpoint(client, Target(name="fp8", base_url=server.url), SHORT)
        records: list[RequestRecord] = []
        tasks = [asyncio.create_task(send(endpoint, records)) for _ in range(40)]
        await asyncio.sleep(0)
        for task in tasks:
            asyncio.get_running_loop().call_later(moments.uniform(0, 0.06), task.cancel)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    cancelled = sum(isinstance(end, asyncio.CancelledError) for end in ended)
    outcomes = [record.outcome for record in records]
    assert len(records) == 40
    assert outcomes.count(Outcome.CANCELLED) == cancelled > 0
    assert outcomes.count(Outcome.OK) == 40 - cancelled
    assert all(record.done_ns for record in records)


async def test_errors_of_other_transports_are_classed_by_their_cause() -> None:
    causes = {
        Outcome.DNS: socket.gaierror(-2, "Name or service not known"),
        Outcome.TLS: ssl.SSLCertVerificationError(1, "self-signed certificate"),
        Outcome.CLIENT_LIMIT: OSError(errno.EMFILE, "Too many open files"),
        Outcome.REFUSED: ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
    }
    for outcome, cause in causes.items():

        class Failing(httpx.AsyncBaseTransport):
            async def handle_async_request(self, request: httpx.Request, cause: OSError = cause) -> httpx.Response:
                raise httpx.ConnectError("All connection attempts failed") from ExceptionGroup("all", [cause])

        check(await ask("http://host", client=httpx.AsyncClient(transport=Failing())), outcome)
    pool = httpx.MockTransport(raising(httpx.PoolTimeout("no free connection")))
    check(await ask("http://host", client=httpx.AsyncClient(transport=pool)), Outcome.CLIENT_LIMIT)


def raising(error: Exception) -> object:
    def handler(request: httpx.Request) -> httpx.Response:
        raise error

    return handler


async def test_a_line_without_an_end_is_given_up_at_its_limit_and_named() -> None:
    async def script(wire: Wire) -> None:
        await wire.send(CHUNKED + chunk(b"data: "))
        for _ in range(40):
            await wire.send(chunk(bytes(1 << 20)))

    record = await ask_script(script)
    check(record, Outcome.BAD_ANSWER, "a line of the stream is longer than 8388608 bytes")
    assert record.answer_bytes is not None
    assert record.answer_bytes < 10 << 20
