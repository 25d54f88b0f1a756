"""Each time limit of a request: what it bounds, and which one is named."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest
from calls import full_backlog, post, read
from peer import CHUNKED, OK, Talk, answering, once, peer

from client.transport import LoadClient


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
    with full_backlog() as port:
        url = f"http://127.0.0.1:{port}/"
        with pytest.raises(httpx.ConnectTimeout, match=r"within 0\.2 s"):
            await post(client, url, connect=0.2, total=9)
        with pytest.raises(httpx.ReadTimeout) as caught:
            await post(client, url, connect=9, total=0.2)
        assert caught.value.request.extensions["timed_out"] == "total"


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
