"""The stamps of a request: the kernel's, in order, and bent neither by a late loop nor by a wall clock that is set."""

from __future__ import annotations

import itertools
import time

import httpx
import pytest
from calls import BODY, in_order, post
from peer import CHUNKED, OK, Talk, answering, once, peer

from client.exchange import Exchange
from client.sockets import PlainConnection
from client.transport import LoadClient, Stamps, stamps_of


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
