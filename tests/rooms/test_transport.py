"""The transport against a real server: what is sent arrives, and what is answered comes back, however it is framed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from calls import BODY, post, read
from peer import CHUNKED, OK, Talk, answering, once, peer

from client.transport import LoadClient, Stamps


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


async def test_an_error_in_the_sink_reaches_the_sender(client: LoadClient) -> None:
    def sink(pieces: object) -> None:
        raise ZeroDivisionError

    with peer(answering(OK)) as server:
        with pytest.raises(ZeroDivisionError):
            await client.send(client.build_request("POST", server.url, content=b"{}", extensions={"sink": sink}))
        assert not client.transport._open
