"""Which connection a request gets: one that is alive and at rest is used again, no other is, and no request is sent twice."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import httpx
import pytest
from calls import post
from peer import CHUNKED, OK, Talk, answering, peer

from client.sockets import PlainConnection
from client.transport import LoadClient, stamps_of


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
