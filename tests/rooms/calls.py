"""Requests through the load transport, as the tests of it send them."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from client.transport import Stamps

BODY = b"x" * 147_579


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


@contextmanager
def full_backlog() -> Iterator[int]:
    """A listening socket whose queue is full: the kernel drops further SYNs."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
            waiting.append(sock)
        try:
            yield port
        finally:
            for sock in waiting:
                sock.close()
