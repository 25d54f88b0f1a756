"""The transport against a real server: every way a peer can end a connection, each time limit, reuse, TLS, IPv6."""

from __future__ import annotations

import asyncio
import itertools
import resource
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from peer import CHUNKED, OK, Talk, answering, once, peer

from client.errors import UsageError
from client.exchange import Exchange
from client.sockets import PlainConnection
from client.transport import LoadClient, Stamps, new_client, stamps_of

BODY = b"x" * 147_579


@pytest.fixture
async def client() -> AsyncIterator[LoadClient]:
    async with new_client() as made:
        yield made


async def post(client: httpx.AsyncClient, url: str, body: bytes = BODY, **timeout: float) -> httpx.Response:
    request = client.build_request("POST", url, content=body, extensions={"timeout": timeout})
    return await client.send(request)


async def read(client: httpx.AsyncClient, url: str, **timeout: float) -> tuple[bytes, Exception | None]:
    """The body as far as it came, and what ended it; the same with a sink, which must agree."""
    got = bytearray()
    failed: Exception | None = None
    request = client.build_request("POST", url, content=b"{}", extensions={"timeout": timeout})
    try:
        response = await client.send(request, stream=True)
        async for piece in response.aiter_raw():
            got += piece
    except httpx.HTTPError as error:
        failed = error
    await asyncio.sleep(0.02)  # a peer that closes has closed by now
    sunk = bytearray()
    again: Exception | None = None
    extensions: dict[str, Any] = {
        "timeout": timeout,
        "sink": lambda pieces: [sunk.extend(data) for data, _, _ in pieces],
    }
    try:
        await client.send(client.build_request("POST", url, content=b"{}", extensions=extensions), stream=True)
    except httpx.HTTPError as error:
        again = error
    assert (type(again), str(again)) == (type(failed), str(failed))
    assert got == sunk
    return bytes(got), failed


# Bodies, framing, reuse


async def test_a_request_arrives_whole_and_its_answer_comes_back(client: LoadClient) -> None:
    seen: list[bytes] = []

    def script(talk: Talk) -> None:
        while request := talk.request():
            seen.append(request)
            talk.send(OK)

    with peer(script) as server:
        for _ in range(3):
            response = await post(client, server.url)
            assert (response.status_code, response.content) == (200, b"ok")
        head, _, body = seen[0].partition(b"\r\n\r\n")
        assert body == BODY
        assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        assert b"\r\naccept-encoding: identity" in head.lower()
        assert server.connections == client.transport.connections_opened == 1


@pytest.mark.parametrize(
    ("answer", "body", "connections"),
    [
        (OK, b"ok", 1),
        (CHUNKED + b"2\r\nok\r\n1\r\n!\r\n0\r\n\r\n", b"ok!", 1),
        (CHUNKED + b"2;name=value\r\nok\r\n0\r\ntrailer: yes\r\n\r\n", b"ok", 1),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", 1),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok", 1),
        (b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + OK, b"ok", 1),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", b"ok", 2),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", b"ok", 2),
    ],
)
async def test_framing(client: LoadClient, answer: bytes, body: bytes, connections: int) -> None:
    with peer(answering(answer)) as server:
        assert await read(client, server.url) == (body, None)
        assert server.connections == connections


async def test_headers_of_an_interim_answer_are_not_the_answers(client: LoadClient) -> None:
    with peer(answering(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + OK)) as server:
        response = await post(client, server.url)
        assert response.status_code == 200
        assert "link" not in response.headers


async def test_a_body_from_a_generator_is_sent_whole(client: LoadClient) -> None:
    seen: list[bytes] = []

    async def parts() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    def script(talk: Talk) -> None:
        seen.append(talk.request())
        talk.send(OK)

    with peer(script) as server:
        await client.send(client.build_request("POST", server.url, content=parts()))
        assert seen[0].endswith(b"\r\n\r\none two")
        assert b"content-length: 7" in seen[0].lower()
        assert b"transfer-encoding" not in seen[0].lower()


async def test_a_body_may_end_with_the_connection(client: LoadClient) -> None:
    with peer(once(b"HTTP/1.1 200 OK\r\n\r\n", b"until ", b"the end")) as server:
        assert await read(client, server.url) == (b"until the end", None)


async def test_an_answer_may_come_byte_by_byte(client: LoadClient) -> None:
    answer = b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + "5\r\nnaïf\r\n0\r\n\r\n".encode()

    def script(talk: Talk) -> None:
        while talk.request():
            for byte in answer:
                talk.send(bytes([byte]))
                time.sleep(0.0002)

    with peer(script) as server:
        assert await read(client, server.url) == ("naïf".encode(), None)
        assert server.connections == 1


async def test_a_reader_that_stops_at_done_keeps_its_connection(client: LoadClient) -> None:
    def script(talk: Talk) -> None:
        while talk.request():
            talk.send(CHUNKED + b"e\r\ndata: [DONE]\n\n\r\n")
            time.sleep(0.02)
            talk.send(b"0\r\n\r\n")

    with peer(script) as server:
        for _ in range(3):
            response = await client.send(client.build_request("POST", server.url, content=b"{}"), stream=True)
            async for _piece in response.aiter_raw():
                break
            await response.aclose()
            await asyncio.sleep(0.06)
        assert server.connections == 1


async def test_a_reader_that_stops_early_ends_the_connection_after_a_grace(client: LoadClient) -> None:
    ended: list[float] = []

    def script(talk: Talk) -> None:
        talk.request()
        talk.send(CHUNKED)
        try:
            while True:
                talk.send(b"1\r\nx\r\n")
                time.sleep(0.01)
        except OSError:
            ended.append(time.monotonic())

    with peer(script) as server:
        response = await client.send(client.build_request("POST", server.url, content=b"{}"), stream=True)
        async for _piece in response.aiter_raw():
            break
        stopped = time.monotonic()
        await response.aclose()
        await asyncio.sleep(1)
        assert ended
        assert 0.2 < ended[0] - stopped < 1.5


async def test_a_reader_that_leaves_before_the_first_byte_ends_the_connection_too(client: LoadClient) -> None:
    ended = threading.Event()

    def script(talk: Talk) -> None:
        talk.request()
        talk.send(CHUNKED)
        time.sleep(0.05)
        try:
            while True:
                talk.send(b"1\r\nx\r\n")
                time.sleep(0.01)
        except OSError:
            ended.set()

    with peer(script) as server:
        response = await client.send(client.build_request("POST", server.url, content=b"{}"), stream=True)
        await response.aclose()
        assert await asyncio.to_thread(ended.wait, 2)


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n", CHUNKED])
@pytest.mark.parametrize("with_sink", [False, True])
async def test_an_answer_to_head_has_no_body_whatever_its_headers_say(
    client: LoadClient, head: bytes, with_sink: bool
) -> None:
    extensions: dict[str, Any] = {"timeout": {"total": 2.0}} | ({"sink": lambda pieces: None} if with_sink else {})
    with peer(answering(head)) as server:
        for _ in range(2):
            response = await client.send(client.build_request("HEAD", server.url, extensions=extensions), stream=True)
            assert (response.status_code, [piece async for piece in response.aiter_raw()]) == (200, [])


async def test_many_at_once(client: LoadClient) -> None:
    with peer(answering(OK)) as server:
        for _ in range(2):
            answers = await asyncio.gather(*(post(client, server.url, b"{}") for _ in range(100)))
            assert all(a.content == b"ok" for a in answers)
        assert server.connections == 100
        assert client.transport.connections_opened == 100


async def test_warm_opens_ahead(client: LoadClient) -> None:
    with peer(answering(OK)) as server:
        await client.transport.warm(server.url, 8)
        assert client.transport.connections_opened == 8
        response = await post(client, server.url)
        stamps = stamps_of(response)
        assert stamps.reused
        assert stamps.connect_start_ns is None
        assert client.transport.connections_opened == 8


async def test_a_fast_peer_is_held_back_by_a_slow_reader(client: LoadClient) -> None:
    total = 64 << 20
    sent = 0

    def script(talk: Talk) -> None:
        nonlocal sent
        talk.request()
        talk.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        block = b"b" * 65536
        for _ in range(total // len(block)):
            talk.send(block)
            sent += len(block)

    with peer(script) as server:
        request = client.build_request("POST", server.url, content=b"{}", extensions={"timeout": {"idle": 0.2}})
        response = await client.send(request, stream=True)
        await asyncio.sleep(0.5)  # longer than idle: waiting for us is not the peer's silence
        assert sent < 24 << 20
        got = 0
        async for piece in response.aiter_raw():
            got += len(piece)
        assert got == total


# Ways to end


@pytest.mark.parametrize(
    ("answer", "then", "body", "failure", "says"),
    [
        ([], "close", b"", httpx.RemoteProtocolError, "before its answer"),
        ([], "half", b"", httpx.RemoteProtocolError, "before its answer"),
        ([b"HTTP/1.1 200 OK\r\ncontent-le"], "close", b"", httpx.RemoteProtocolError, "inside the headers"),
        ([CHUNKED, b"5\r\nab"], "close", b"ab", httpx.RemoteProtocolError, "inside the body"),
        ([CHUNKED, b"2\r\nab\r\n"], "half", b"ab", httpx.RemoteProtocolError, "inside the body"),
        (
            [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab"],
            "close",
            b"ab",
            httpx.RemoteProtocolError,
            "inside the body",
        ),
        ([CHUNKED + b"2\r\nok\r\n0\r\n\r\n"], "half", b"ok", None, ""),
        ([OK], "close", b"ok", None, ""),
        ([CHUNKED + b"2\r\nok\r\nzz\r\n"], "wait", b"ok", httpx.RemoteProtocolError, "proper HTTP"),
        ([CHUNKED + b"2\r\nokay\r\n"], "wait", b"ok", httpx.RemoteProtocolError, "proper HTTP"),
        ([CHUNKED + b"fffffffffffffffff\r\nok"], "wait", b"", httpx.RemoteProtocolError, "proper HTTP"),
        ([b"220 mail.example ESMTP\r\n"], "wait", b"", httpx.RemoteProtocolError, "proper HTTP"),
        ([b"HTTP/2 200 OK\r\n\r\n"], "wait", b"", httpx.RemoteProtocolError, "proper HTTP"),
        ([OK + OK], "wait", b"ok", httpx.RemoteProtocolError, "more than one answer"),
        ([OK + b"garbage"], "wait", b"ok", httpx.RemoteProtocolError, ""),
        (
            [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok"],
            "wait",
            b"",
            httpx.RemoteProtocolError,
            "proper HTTP",
        ),
        (
            [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"],
            "wait",
            b"",
            httpx.RemoteProtocolError,
            "proper HTTP",
        ),
        (
            [b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nhello"],
            "wait",
            b"",
            httpx.RemoteProtocolError,
            "another protocol",
        ),
        ([b"HTTP/1.1 200 OK\r\na: " + b"b" * 200_000], "wait", b"", httpx.RemoteProtocolError, "bytes of headers"),
        ([b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 30_000], "wait", b"", httpx.RemoteProtocolError, "bytes of headers"),
    ],
)
async def test_the_peer_ends_badly(
    client: LoadClient, answer: list[bytes], then: str, body: bytes, failure: type[Exception] | None, says: str
) -> None:
    with peer(once(*answer, then=then)) as server:
        got, failed = await read(client, server.url, first_byte=3, idle=3)
        assert type(failed) is (failure or type(None)), failed
        assert says in str(failed)
        assert got == body or (says == "more than one answer" and got == b"okok")
        # Nothing of a broken connection is used again.
        assert server.connections == 2


@pytest.mark.parametrize("answer", [[], [b"HTTP/1.1 200 OK\r\n"], [CHUNKED, b"2\r\nok\r\n"]])
async def test_a_reset_is_a_read_error(client: LoadClient, answer: list[bytes]) -> None:
    def script(talk: Talk) -> None:
        talk.request()
        for piece in answer:
            talk.send(piece)
        time.sleep(0.05)
        talk.reset()

    with peer(script) as server:
        got, failed = await read(client, server.url)
        assert isinstance(failed, httpx.ReadError)
        assert isinstance(failed.__cause__, ConnectionResetError)
        assert got == (b"ok" if len(answer) == 2 else b"")


async def test_an_early_refusal_counts_though_the_body_was_not_taken(client: LoadClient) -> None:
    answer = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig"

    def script(talk: Talk) -> None:
        talk.sock.recv(100)
        talk.send(answer)
        talk.wait()
        gone.set()

    gone = threading.Event()
    with peer(script) as server:
        response = await post(client, server.url, b"x" * (32 << 20), write=3)
        assert (response.status_code, response.content) == (413, b"big")
        assert not gone.is_set(), "the answer was whole: nothing more to wait for"


async def test_a_refusal_counts_even_when_the_peer_then_resets(client: LoadClient) -> None:
    def script(talk: Talk) -> None:
        talk.sock.recv(100)
        talk.send(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig")
        time.sleep(0.05)  # and then the unread rest makes the kernel send a RST

    with peer(script) as server:
        response = await post(client, server.url, b"x" * (32 << 20), write=3)
        assert (response.status_code, response.content) == (413, b"big")


async def test_a_peer_that_resets_during_the_upload(client: LoadClient) -> None:
    def script(talk: Talk) -> None:
        talk.sock.recv(100)
        talk.reset()

    with peer(script) as server:
        with pytest.raises((httpx.WriteError, httpx.ReadError)) as caught:
            await post(client, server.url, b"x" * (32 << 20), write=3)
        assert isinstance(caught.value.__cause__, ConnectionResetError | BrokenPipeError)


async def test_an_answer_before_the_request_was_taken_costs_the_connection(client: LoadClient) -> None:
    """Nobody will read the rest of that request: the next one on the same connection would be taken for it."""

    def script(talk: Talk) -> None:
        talk.sock.recv(100)
        talk.send(OK)
        talk.wait()

    with peer(script) as server:
        assert (await post(client, server.url, b"x" * (32 << 20), write=3)).content == b"ok"
        assert not client.transport._open
        assert not any(client.transport._idle.values())


async def test_framing_does_not_add_up_to_headers(client: LoadClient) -> None:
    """An answer of many small chunks, whose last framing comes alone, has far more than the limit of bytes that are no body."""

    def script(talk: Talk) -> None:
        while talk.request():
            talk.send(CHUNKED)
            for _ in range(40):
                talk.send((b"1;" + b"e" * 100 + b"\r\nx\r\n") * 50)
                time.sleep(0.001)
            time.sleep(0.02)
            talk.send(b"0\r\n")
            time.sleep(0.02)
            talk.send(b"\r\n")

    with peer(script) as server:
        assert await read(client, server.url) == (b"x" * 2000, None)


async def test_a_reader_that_leaves_a_full_buffer_keeps_its_connection(
    client: LoadClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.connection.DISCARD_GRACE_NS", 10_000_000_000)

    def script(talk: Talk) -> None:
        while talk.request():
            talk.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (12 << 20) + b"b" * (12 << 20))

    with peer(script) as server:
        for _ in range(2):
            response = await client.send(client.build_request("POST", server.url, content=b"{}"), stream=True)
            await asyncio.sleep(0.1)
            await response.aclose()
            for _ in range(400):
                if any(client.transport._idle.values()):
                    break
                await asyncio.sleep(0.01)
        assert server.connections == 1


async def test_a_connection_that_ends_leaves_the_idle_ones(client: LoadClient) -> None:
    def script(talk: Talk) -> None:
        talk.request()
        talk.send(OK)

    with peer(script) as server:
        await asyncio.gather(*(post(client, server.url, b"{}") for _ in range(3)))
        await asyncio.sleep(0.1)
        assert not any(client.transport._idle.values())
        assert not client.transport._open


async def test_each_answer_has_its_own_headers_and_each_request_its_own_stamps(client: LoadClient) -> None:
    def script(talk: Talk) -> None:
        number = 0
        while talk.request():
            number += 1
            talk.send(b"HTTP/1.1 200 OK\r\nx-number: %d\r\ncontent-length: 0\r\n\r\n" % number)

    stamps = Stamps()
    with peer(script) as server:
        for number in (1, 2):
            request = client.build_request("POST", server.url, content=b"{}", extensions={"stamps": stamps})
            response = await client.send(request)
            assert response.headers["x-number"] == str(number)
            assert stamps.reused is (number == 2)
            assert (stamps.connected_ns is None) is (number == 2)


async def test_a_token_does_not_wait_for_the_acknowledgement_of_the_one_before(client: LoadClient) -> None:
    """Nagle's algorithm would hold the last piece of a request back until the first is acknowledged."""
    with peer(answering(OK)) as server:
        await post(client, server.url)
        (connection,) = client.transport._open
        assert isinstance(connection, PlainConnection)
        assert connection._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_dead_idle_connection_is_replaced(client: LoadClient) -> None:
    """The peer closes after its first answer, while the client looks away; and a request is not sent twice."""
    requests: list[int] = []

    def script(talk: Talk) -> None:
        if talk.request():
            requests.append(talk.number)
            talk.send(OK)

    with peer(script) as server:
        for _ in range(5):
            assert (await post(client, server.url)).content == b"ok"
            time.sleep(0.02)  # noqa: ASYNC251 - the loop must not see the end before the next request wants the connection
        assert requests == [1, 2, 3, 4, 5]


async def test_a_connection_that_breaks_between_look_and_write_is_replaced(
    client: LoadClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = threading.Event()
    requests: list[int] = []

    def script(talk: Talk) -> None:
        talk.request()
        requests.append(talk.number)
        talk.send(OK)
        if talk.number == 1:
            looked.wait(5)
            talk.reset()

    real = PlainConnection.stale

    def look_and_wait(connection: PlainConnection) -> bool:
        found = real(connection)
        looked.set()
        time.sleep(0.05)
        return found

    monkeypatch.setattr(PlainConnection, "stale", look_and_wait)
    with peer(script) as server:
        await post(client, server.url)
        response = await post(client, server.url)
        assert response.content == b"ok"
        assert not stamps_of(response).reused
        assert requests == [1, 2]


async def test_a_request_whose_bytes_were_taken_is_not_sent_again(client: LoadClient) -> None:
    requests: list[bytes] = []

    def script(talk: Talk) -> None:
        requests.append(talk.request())
        talk.send(OK)
        requests.append(talk.request())  # the second one is read and never answered

    with peer(script) as server:
        await post(client, server.url)
        with pytest.raises(httpx.RemoteProtocolError, match="before its answer"):
            await post(client, server.url)
        assert len(requests) == 2
        assert server.connections == 1


async def test_unasked_bytes_on_an_idle_connection_end_it(client: LoadClient) -> None:
    def script(talk: Talk) -> None:
        talk.request()
        talk.send(OK)
        time.sleep(0.05)
        talk.send(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
        while talk.request():
            talk.send(OK)

    with peer(script) as server:
        await post(client, server.url)
        await asyncio.sleep(0.1)
        assert (await post(client, server.url)).status_code == 200
        assert server.connections == 2


async def test_cancelling_ends_the_connection_at_once(client: LoadClient) -> None:
    gone: list[float] = []

    def script(talk: Talk) -> None:
        talk.request()
        talk.send(CHUNKED + b"1\r\nx\r\n")
        talk.sock.recv(1)
        gone.append(time.monotonic())

    with peer(script) as server:
        for streamed in (True, False):
            task = asyncio.create_task(
                read(client, server.url) if streamed else post(client, server.url.replace("chat", "x"))
            )
            await asyncio.sleep(0.1)
            cancelled = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.2)
            assert gone.pop() - cancelled < 0.2
        assert server.connections == 2
        assert not client.transport._open


@pytest.mark.parametrize("with_sink", [True, False])
async def test_cancelling_before_the_answer_ends_the_connection_at_once(client: LoadClient, with_sink: bool) -> None:
    gone: list[bytes] = []

    def script(talk: Talk) -> None:
        talk.request()
        gone.append(talk.sock.recv(1))

    with peer(script) as server:
        extensions = {"sink": lambda pieces: None} if with_sink else {}
        request = client.build_request("POST", server.url, content=b"{}", extensions=extensions)
        task = asyncio.create_task(client.send(request, stream=True))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.1)
        assert gone == [b""]
        assert not client.transport._open


# Time limits


def silent(talk: Talk) -> None:
    talk.request()
    talk.wait()


async def test_first_byte(client: LoadClient) -> None:
    with peer(silent) as server:
        started = time.monotonic()
        with pytest.raises(httpx.ReadTimeout, match=r"within 0\.2 s") as caught:
            await post(client, server.url, first_byte=0.2, idle=9, total=9)
        assert 0.19 < time.monotonic() - started < 2
        assert caught.value.request.extensions["timed_out"] == "first_byte"


async def test_headers_alone_are_no_first_byte(client: LoadClient) -> None:
    with peer(once(CHUNKED, then="wait")) as server:
        _, failed = await read(client, server.url, first_byte=0.2, idle=9)
        assert isinstance(failed, httpx.ReadTimeout)
        assert failed.request.extensions["timed_out"] == "first_byte"


async def test_idle(client: LoadClient) -> None:
    def script(talk: Talk) -> None:
        talk.request()
        talk.send(CHUNKED)
        for _ in range(6):
            talk.send(b"1\r\nx\r\n")
            time.sleep(0.1)
        talk.wait()

    with peer(script) as server:
        started = time.monotonic()
        got, failed = await read(client, server.url, first_byte=0.25, idle=0.25, total=9)
        assert got == b"xxxxxx"
        assert isinstance(failed, httpx.ReadTimeout)
        assert failed.request.extensions["timed_out"] == "idle"
        assert 1.4 < time.monotonic() - started < 5  # twice: as a stream and into a sink


async def test_total(client: LoadClient) -> None:
    def script(talk: Talk) -> None:
        talk.request()
        talk.send(CHUNKED)
        while not talk.stop.is_set():
            talk.send(b"1\r\nx\r\n")
            time.sleep(0.02)

    with peer(script) as server:
        request = client.build_request(
            "POST", server.url, content=b"{}", extensions={"timeout": {"idle": 0.2, "total": 0.4}}
        )
        started = time.monotonic()
        with pytest.raises(httpx.ReadTimeout, match="whole request"):
            await client.send(request)
        assert 0.39 < time.monotonic() - started < 2
        assert request.extensions["timed_out"] == "total"


async def test_write(client: LoadClient) -> None:
    def script(talk: Talk) -> None:
        talk.sock.recv(10)
        talk.wait()

    with peer(script) as server:
        with pytest.raises(httpx.WriteTimeout):
            await post(client, server.url, b"x" * (64 << 20), write=0.2, first_byte=9)
        assert not client.transport._open


async def test_connect(client: LoadClient) -> None:
    """A listener whose backlog is full drops further SYNs."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    address = listener.getsockname()
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(address)
        fillers.append(filler)
    await asyncio.sleep(0.05)
    url = f"http://127.0.0.1:{address[1]}/"
    with pytest.raises(httpx.ConnectTimeout, match=r"within 0\.2 s"):
        await post(client, url, connect=0.2, total=9)
    with pytest.raises(httpx.ReadTimeout) as caught:
        await post(client, url, connect=9, total=0.2)
    assert caught.value.request.extensions["timed_out"] == "total"
    for sock in (*fillers, listener):
        sock.close()


async def test_limits_need_no_timer_per_request(client: LoadClient, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    made: list[float] = []
    real = loop.call_at

    def counted(when: float, *rest: Any, **more: Any) -> asyncio.TimerHandle:
        made.append(when)
        return real(when, *rest, **more)

    with peer(answering(OK)) as server:
        await client.transport.warm(server.url, 1)
        monkeypatch.setattr(loop, "call_at", counted)
        for _ in range(50):
            await post(client, server.url, b"{}", connect=10, write=60, first_byte=300, idle=120, total=600)
        assert len(made) == 1


# No connection


async def test_refused(client: LoadClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(httpx.ConnectError, match="Connection refused") as caught:
        await post(client, f"http://127.0.0.1:{port}/")
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    assert "client_limit" not in caught.value.request.extensions


async def test_a_name_without_address(client: LoadClient) -> None:
    with pytest.raises(httpx.ConnectError, match="cannot be resolved") as caught:
        await post(client, "http://nonexistent.invalid/")
    assert isinstance(caught.value.__cause__, socket.gaierror)


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".example", "xn--"])
async def test_a_name_that_is_none(client: LoadClient, host: str) -> None:
    request = client.build_request("POST", f"http://{host}/", headers={"host": "h"})  # httpx would look into it for one
    with pytest.raises(httpx.ConnectError, match="is no host name"):
        await client.send(request)


async def test_port_0_is_not_port_80(client: LoadClient) -> None:
    with pytest.raises(httpx.ConnectError, match=r"127\.0\.0\.1:0: "):
        await post(client, "http://127.0.0.1:0/")


async def test_an_address_may_have_a_zone(client: LoadClient) -> None:
    with pytest.raises((httpx.ConnectError, httpx.ConnectTimeout)) as caught:
        await post(client, "http://[fe80::1%25lo]:9/", connect=0.2)
    assert not isinstance(caught.value.__cause__, socket.gaierror)


@pytest.mark.parametrize("method", ["GE T", "G\u00c9T", ""])
async def test_a_method_that_is_none_is_refused(client: LoadClient, method: str) -> None:
    with pytest.raises(httpx.LocalProtocolError):
        await client.send(client.build_request(method, "http://127.0.0.1:9/"))


async def test_no_descriptors_left(client: LoadClient) -> None:
    with peer(answering(OK)) as server:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken: list[socket.socket] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        try:
            while True:
                taken.append(socket.socket())
        except OSError:
            pass
        try:
            with pytest.raises(httpx.ConnectError, match="ulimit -n") as caught:
                await post(client, server.url, b"{}")
            assert caught.value.request.extensions["client_limit"] is True
        finally:
            for sock in taken:
                sock.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (await post(client, server.url, b"{}")).content == b"ok"


async def test_out_of_scope_is_said(client: LoadClient) -> None:
    for url in ("ftp://127.0.0.1/", "unix:///var/run/x.sock", "socks5://127.0.0.1/"):
        with pytest.raises(httpx.UnsupportedProtocol):
            await post(client, url)
    with pytest.raises(UsageError, match="no http2, proxy"):
        new_client(proxy="http://127.0.0.1:3128", http2=True)
    with pytest.raises(UsageError, match="certificate file"):
        new_client(ca_file="/nonexistent.pem")


@pytest.mark.parametrize("value", ["a\r\nevil: yes", "a\nevil: yes", "a\revil: yes"])
async def test_a_line_break_in_a_header_is_refused(client: LoadClient, value: str) -> None:
    with peer(answering(OK)) as server:
        request = client.build_request("POST", server.url, headers={"x": value})
        with pytest.raises(httpx.LocalProtocolError):
            await client.send(request)
        assert server.connections == 0


async def test_redirects_are_the_callers_business(client: LoadClient) -> None:
    with peer(answering(b"HTTP/1.1 307 X\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n")) as server:
        assert (await post(client, server.url)).status_code == 307


async def test_cookies_are_not_kept(client: LoadClient) -> None:
    seen: list[bytes] = []

    def script(talk: Talk) -> None:
        while request := talk.request():
            seen.append(request)
            talk.send(b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n")

    with peer(script) as server:
        await post(client, server.url)
        await post(client, server.url)
        assert b"cookie" not in seen[1].lower()


async def test_a_client_that_is_closed_while_it_connects_opens_nothing() -> None:
    client = new_client()
    with peer(answering(OK)) as server:
        task = asyncio.create_task(post(client, server.url))
        await asyncio.sleep(0)
        await client.aclose()
        with pytest.raises(httpx.ConnectError, match="closed while it connected"):
            await task
    assert not client.transport._open


async def test_a_closed_client_has_no_sockets_left() -> None:
    client = new_client()
    with peer(answering(OK)) as server:
        await asyncio.gather(*(post(client, server.url) for _ in range(5)))
        await client.aclose()
        assert not client.transport._open


# TLS, IPv6


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return key, cert


@pytest.fixture
def tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])
    return context


async def test_tls_with_a_known_certificate(tls: ssl.SSLContext, certificate: tuple[Path, Path]) -> None:
    with peer(answering(CHUNKED + b"2\r\nok\r\n0\r\n\r\n"), context=tls) as server:
        async with new_client(ca_file=str(certificate[1])) as client:
            for _ in range(3):
                response = await post(client, server.url, b"x" * (4 << 20))
                assert response.content == b"ok"
                stamps = stamps_of(response)
                assert stamps.source == "loop"
                assert stamps.lag_ns is None
                assert stamps.uploaded_ns is None
                assert in_order(stamps)
            assert server.connections == 1


async def test_tls_with_an_unknown_certificate_is_refused(tls: ssl.SSLContext, client: LoadClient) -> None:
    with peer(answering(OK), context=tls) as server:
        with pytest.raises(httpx.ConnectError, match="TLS") as caught:
            await post(client, server.url)
        assert isinstance(caught.value.__cause__, ssl.SSLError)


async def test_tls_to_a_server_without(client: LoadClient) -> None:
    with (
        peer(lambda talk: talk.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as server,
        pytest.raises(httpx.ConnectError, match="TLS"),
    ):
        await post(client, server.url.replace("http:", "https:"), connect=3)


@pytest.mark.parametrize("then", ["close", "reset", "wait"])
async def test_tls_ends(tls: ssl.SSLContext, certificate: tuple[Path, Path], then: str) -> None:
    with peer(once(CHUNKED + b"2\r\nok\r\n", then=then), context=tls) as server:
        async with new_client(ca_file=str(certificate[1])) as client:
            got, failed = await read(client, server.url, idle=0.3)
            assert got == b"ok"
            expected = {"close": httpx.RemoteProtocolError, "reset": httpx.ReadError, "wait": httpx.ReadTimeout}
            assert type(failed) is expected[then], failed


async def test_tls_dead_idle_connection(tls: ssl.SSLContext, certificate: tuple[Path, Path]) -> None:
    with peer(once(OK), context=tls) as server:
        async with new_client(ca_file=str(certificate[1])) as client:
            for _ in range(3):
                assert (await post(client, server.url)).content == b"ok"
                await asyncio.sleep(0.05)


async def test_ipv6(client: LoadClient) -> None:
    with peer(answering(OK), family=socket.AF_INET6) as server:
        assert (await post(client, server.url)).content == b"ok"
        assert client.transport.connections_opened == 1


async def test_a_name_with_two_families_finds_the_one_that_listens(
    client: LoadClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def both(host: str, port: int, **kind: Any) -> list[Any]:
        assert host == "both.test"
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", both)
    with peer(answering(OK)) as server:
        assert (await post(client, server.url.replace("127.0.0.1", "both.test"))).content == b"ok"


# Stamps


def in_order(stamps: Stamps) -> bool:
    line = [
        stamps.connect_start_ns,
        stamps.connected_ns,
        stamps.sent_ns,
        stamps.uploaded_ns,
        stamps.headers_ns,
        stamps.first_byte_ns,
        stamps.recv_ns,
        stamps.loop_ns,
        time.monotonic_ns(),
    ]
    known = [moment for moment in line if moment is not None]
    return known == sorted(known)


async def test_kernel_stamps_do_not_move_when_the_loop_is_late(client: LoadClient) -> None:
    """The peer says when it wrote. The event loop is blocked over that moment; the stamp must not be."""
    wrote: list[int] = []

    def script(talk: Talk) -> None:
        while talk.request():
            talk.send(CHUNKED)
            time.sleep(0.05)
            wrote.append(time.monotonic_ns())
            talk.send(b"2\r\nok\r\n0\r\n\r\n")

    with peer(script) as server:
        request = client.build_request("POST", server.url, content=b"{}")
        response = await client.send(request, stream=True)
        time.sleep(0.15)  # noqa: ASYNC251 - the loop is late on purpose
        async for _piece in response.aiter_raw():
            pass
        stamps = stamps_of(response)
        assert stamps.source == "kernel"
        assert stamps.recv_ns is not None
        assert stamps.loop_ns is not None
        assert stamps.lag_ns is not None
        assert 0 <= stamps.recv_ns - wrote[0] < 2_000_000
        assert stamps.loop_ns - wrote[0] > 80_000_000
        assert stamps.lag_ns == stamps.loop_ns - stamps.recv_ns
        assert in_order(stamps)


@pytest.mark.parametrize(("jump_ms", "source_of_truth"), [(90, "sent"), (500, "loop"), (-500, "loop")])
async def test_a_wall_clock_that_jumps_between_request_and_answer_bends_no_stamp(
    client: LoadClient, monkeypatch: pytest.MonkeyPatch, jump_ms: int, source_of_truth: str
) -> None:
    """A large jump is seen; a small one can at most put the answer at its request's own start."""
    with peer(answering(OK)) as server:
        asked = itertools.count()  # the first time when the request is sent
        monkeypatch.setattr(
            "client.sockets.time_ns", lambda: time.time_ns() + (jump_ms * 1_000_000 if next(asked) else 0)
        )
        stamps = stamps_of(await post(client, server.url, b"{}"))
    expected = stamps.sent_ns if source_of_truth == "sent" else stamps.loop_ns
    assert stamps.recv_ns == expected


async def test_a_late_note_of_the_end_of_an_upload_is_not_after_the_answer(
    client: LoadClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = PlainConnection.uploaded

    def put_aside(connection: PlainConnection, exchange: Exchange) -> None:
        time.sleep(0.05)
        real(connection, exchange)

    monkeypatch.setattr(PlainConnection, "uploaded", put_aside)
    with peer(answering(OK)) as server:
        stamps = stamps_of(await post(client, server.url, b"{}"))
    assert stamps.sent_ns is not None
    assert stamps.uploaded_ns == stamps.headers_ns
    assert stamps.sent_ns <= (stamps.uploaded_ns or 0) < stamps.sent_ns + 40_000_000


async def test_stamps_are_there_when_a_request_fails(client: LoadClient) -> None:
    stamps = Stamps()
    with peer(once(CHUNKED + b"1\r\nx\r\n", then="wait")) as server:
        extensions = {"stamps": stamps, "timeout": {"idle": 0.1}, "sink": lambda pieces: None}
        with pytest.raises(httpx.ReadTimeout):
            await client.send(client.build_request("POST", server.url, content=BODY, extensions=extensions))
        assert stamps.status == 200
        assert stamps.first_byte_ns is not None
        assert not stamps.reused
        assert in_order(stamps)


async def test_an_error_in_the_sink_reaches_the_sender(client: LoadClient) -> None:
    def sink(pieces: object) -> None:
        raise ZeroDivisionError

    with peer(answering(OK)) as server:
        with pytest.raises(ZeroDivisionError):
            await client.send(client.build_request("POST", server.url, content=b"{}", extensions={"sink": sink}))
        assert not client.transport._open
