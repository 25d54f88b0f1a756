"""Every way in which a peer can end a connection, and every way in which we do."""

from __future__ import annotations

import asyncio
import threading
import time

import httpx
import pytest
from calls import post, read
from peer import CHUNKED, OK, Talk, answering, once, peer

from client.transport import LoadClient, new_client


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
