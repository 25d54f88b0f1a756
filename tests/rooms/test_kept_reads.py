"""Reads that are stamped at once and parsed later: nothing of them may be lost or dated wrongly, however the answer ends."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from peer import Talk, once, peer

from client.exchange import NEVER, Exchange, Limits
from client.loop import new_loop, run_loaded
from client.sockets import KEPT_BYTES, KEPT_READS, PlainConnection
from client.transport import LoadClient, Piece, Stamps, new_client

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
PAUSE_S = 0.004


def event(text: str) -> bytes:
    data = f"data: {text}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


def told(pieces: list[Piece]) -> bytes:
    return b"".join(data for data, _, _ in pieces)


def texts(count: int) -> bytes:
    return b"".join(f"data: {number}\n\n".encode() for number in range(count))


def in_their_time(got: list[Piece], wrote: list[int]) -> bool:
    """Whether each piece came after its last event was written and before the next one was. A late loop may read two at once."""
    last = -1
    borders = [*wrote, wrote[-1] + 1_000_000_000]
    for data, recv_ns, _ in got:
        last += data.count(b"data: ")
        if not borders[last] <= recv_ns < borders[last + 1]:
            return False
    return len(got) > len(wrote) // 2


class Slowly:
    """Sends the head and then one event after the other, as a server sends tokens; `wrote` is when."""

    def __init__(self, count: int, then: str = "end") -> None:
        self.count = count
        self.then = then
        self.wrote: list[int] = []

    def __call__(self, talk: Talk) -> None:
        while talk.request():
            talk.send(HEAD)
            for number in range(self.count):
                time.sleep(PAUSE_S)
                self.wrote.append(time.monotonic_ns())
                talk.send(event(str(number)))
            if self.then == "end":
                talk.send(END)
            elif self.then == "reset":
                talk.reset()
                return
            elif self.then == "close":
                return
            else:
                talk.stop.wait(5)


@pytest.fixture
async def client() -> AsyncIterator[LoadClient]:
    made = new_client()
    yield made
    await made.aclose()


async def ask(client: LoadClient, url: str, got: list[Piece], stamps: Stamps, **timeout: float) -> httpx.Response:
    extensions = {"sink": got.extend, "stamps": stamps, "timeout": timeout}
    return await client.send(client.build_request("POST", url, content=b"{}", extensions=extensions))


async def test_each_kept_read_has_its_own_stamp(client: LoadClient) -> None:
    got: list[Piece] = []
    script, stamps = Slowly(20), Stamps()
    with peer(script) as server:
        await ask(client, server.url, got, stamps)
        assert told(got) == texts(20)
        assert in_their_time(got, script.wrote)
        assert (stamps.first_byte_ns, stamps.recv_ns) == (got[0][1], got[-1][1])
        await ask(client, server.url, [], Stamps())
        assert client.transport.connections_opened == 1


async def test_they_are_handed_over_before_they_are_many(client: LoadClient) -> None:
    handed: list[int] = []
    with peer(Slowly(3 * KEPT_READS)) as server:
        extensions = {"sink": lambda pieces: handed.append(len(pieces))}
        await client.send(client.build_request("POST", server.url, content=b"{}", extensions=extensions))
    assert 1 < max(handed) <= KEPT_READS + 1
    assert len(handed) > 1


async def test_large_reads_are_not_kept(client: LoadClient) -> None:
    handed: list[int] = []
    large = event("x" * 2 * KEPT_BYTES)

    def script(talk: Talk) -> None:
        talk.request()
        talk.send(HEAD)
        for _ in range(20):
            time.sleep(PAUSE_S)
            talk.send(large)
        talk.send(END)

    with peer(script) as server:
        extensions = {"sink": lambda pieces: handed.append(sum(len(data) for data, _, _ in pieces))}
        await client.send(client.build_request("POST", server.url, content=b"{}", extensions=extensions))
    assert len(handed) > 5  # a late loop may read several at once


@pytest.mark.parametrize(
    ("then", "failure"),
    [("reset", httpx.ReadError), ("close", httpx.RemoteProtocolError), ("wait", httpx.ReadTimeout)],
)
async def test_tokens_before_a_break_are_not_lost(client: LoadClient, then: str, failure: type[Exception]) -> None:
    got: list[Piece] = []
    stamps = Stamps()
    with peer(Slowly(10, then)) as server:
        with pytest.raises(failure):
            await ask(client, server.url, got, stamps, idle=0.1, total=5.0)
        assert told(got) == texts(10)
        assert stamps.recv_ns == got[-1][1]
        assert not client.transport._open


async def test_each_kept_read_moves_the_idle_limit(client: LoadClient) -> None:
    """0.4 s of answer under a limit of 0.25 s of silence."""
    got: list[Piece] = []
    with peer(Slowly(100)) as server:
        await ask(client, server.url, got, Stamps(), idle=0.25)
    assert told(got) == texts(100)


async def test_reads_that_are_all_kept_move_the_idle_limit(client: LoadClient) -> None:
    """Fewer than are handed over, so that the timer alone makes them count: 0.45 s of answer under 0.2 s of silence."""

    def script(talk: Talk) -> None:
        talk.request()
        talk.send(HEAD)
        for number in range(15):
            time.sleep(0.03)
            talk.send(event(str(number)))
        talk.send(END)

    got: list[Piece] = []
    with peer(script) as server:
        await ask(client, server.url, got, Stamps(), idle=0.2)
    assert told(got) == texts(15)


async def test_tokens_before_a_cancellation_are_not_lost(client: LoadClient) -> None:
    got: list[Piece] = []
    script = Slowly(10, "wait")
    with peer(script) as server:
        task = asyncio.create_task(ask(client, server.url, got, Stamps()))
        while len(script.wrote) < 10:  # noqa: ASYNC110 - the peer is a thread
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert len(told(got)) < len(texts(10))  # some are kept
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert told(got) == texts(10)


async def test_a_bad_chunk_after_kept_reads_fails_and_keeps_what_came_before(client: LoadClient) -> None:
    got: list[Piece] = []
    with peer(once(HEAD, event("0"), event("1"), b"zz\r\nno chunk\r\n\r\n", then="wait")) as server:
        with pytest.raises(httpx.RemoteProtocolError, match=r"does not speak proper HTTP/1\.1"):
            await ask(client, server.url, got, Stamps(), idle=1.0)
        assert told(got) == texts(2)


async def test_an_end_that_looks_like_an_event_is_seen_by_its_length(client: LoadClient) -> None:
    """A body of known length may end in any bytes."""
    body = texts(1) + b"\r\n"
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (2 * len(body))
    got: list[Piece] = []

    def script(talk: Talk) -> None:
        talk.request()
        talk.send(head + body)
        time.sleep(PAUSE_S)
        talk.send(body)
        talk.stop.wait(5)

    with peer(script) as server:
        await ask(client, server.url, got, Stamps(), idle=1.0)
    assert told(got) == 2 * body


def test_the_same_on_the_load_loop() -> None:
    got: list[Piece] = []
    script = Slowly(20)

    async def main() -> None:
        client = new_client()
        try:
            with peer(script) as server:
                await ask(client, server.url, got, Stamps())
        finally:
            await client.aclose()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
    assert told(got) == texts(20)
    assert in_their_time(got, script.wrote)


def test_what_a_server_says_out_of_turn_is_never_the_answer_to_the_next_request() -> None:
    """It is read, but not worked on yet, when the next request asks for a connection."""
    spoken = threading.Event()

    def script(talk: Talk) -> None:
        while talk.request():
            talk.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n%02d" % talk.number)
            if talk.number == 1:
                time.sleep(0.05)
                talk.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n??")
                spoken.set()

    async def main() -> tuple[bytes, bytes]:
        client = new_client()
        first: list[Piece] = []
        second: list[Piece] = []
        with peer(script) as server:
            await ask(client, server.url, first, Stamps())
            assert spoken.wait(5)  # the loop stands still meanwhile
            await asyncio.sleep(0)
            await ask(client, server.url, second, Stamps())
        await client.aclose()
        return told(first), told(second)

    for factory in (new_loop, asyncio.new_event_loop):
        spoken.clear()
        with asyncio.Runner(loop_factory=factory) as runner:
            assert runner.run(main()) == (b"01", b"02")


async def test_an_answer_that_came_before_the_upload_broke_counts() -> None:
    """The write fails first, with the refusal and its end still unread."""
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()
    ours.setblocking(False)
    connection = PlainConnection(loop, [], ours)
    got: list[Piece] = []
    exchange = Exchange(Stamps(), Limits({}), NEVER, got.extend)
    connection.begin(exchange, b"POST / HTTP/1.1\r\ncontent-length: 50000000\r\n\r\n", bytes(50_000_000))
    assert connection.still_sending()
    theirs.sendall(b"HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\n\r\nlarge")
    ours.shutdown(socket.SHUT_WR)
    connection._writable()
    assert (exchange.status, exchange.failure, told(got)) == (413, None, b"large")
    connection.close()
    theirs.close()
    listener.close()


def test_a_token_is_stamped_while_ends_of_other_answers_wait_for_their_work() -> None:
    """100 answers end at once, and what is made of each takes 0.7 ms: tokens sent meanwhile must not become one read."""
    count, others = 40, 100
    began, go = threading.Barrier(others + 1), threading.Event()
    wrote: list[int] = []

    def ending(talk: Talk) -> None:
        talk.request()
        talk.send(HEAD + event("0"))
        began.wait(10)
        go.wait(10)
        talk.send(END)
        talk.stop.wait(10)

    def ticking(talk: Talk) -> None:
        talk.request()
        talk.send(HEAD)
        began.wait(10)
        go.set()
        for number in range(count):
            time.sleep(PAUSE_S)
            wrote.append(time.monotonic_ns())
            talk.send(event(str(number)))
        talk.send(END)

    got: list[Piece] = []

    async def main() -> None:
        client = new_client()

        async def other(url: str) -> None:
            await ask(client, url, [], Stamps())
            time.sleep(0.0007)  # noqa: ASYNC251 - the work of which a loop has much at once

        with peer(ending) as many, peer(ticking) as one:
            await asyncio.gather(*(other(many.url) for _ in range(others)), ask(client, one.url, got, Stamps()))
        await client.aclose()

    run_loaded(main())
    assert told(got) == texts(count)
    assert len(got) > count - 8
    assert in_their_time(got, wrote)
