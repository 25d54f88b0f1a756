"""Requests through the load transport, as the tests of it send them."""

from __future__ import annotations

import asyncio
import time
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
