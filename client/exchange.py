"""One request in flight and what is known about it: stamps, limits, and the body pieces that nobody has taken yet.

Transport, connections and the answer stream meet here. Nothing in this module touches a socket.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import httpx

NEVER = 1 << 62
"""A deadline that does not come (ns)."""
BUFFER_LIMIT = 4 << 20
"""Body bytes that may wait for a slow consumer before reading from the socket pauses."""

Read = tuple[bytes | bytearray | memoryview, int, int]
"""Bytes from the peer, `recv_ns` when the kernel had them, `loop_ns` when this process had them."""
Piece = tuple[bytes, int, int]
"""The same of the body, without its framing."""
Sink = Callable[[Sequence[Piece]], None]


class Stamps:
    """Times of one request, CLOCK_MONOTONIC nanoseconds; None means that it has not happened (see `client.core.records`).

    `recv_ns` and `loop_ns` belong to the body piece handed out last: when the kernel received it and when this process
    read it. `lag_ns` is the largest difference of the two on this request; None where the kernel gave no stamps.
    """

    __slots__ = (
        "connect_start_ns",
        "connected_ns",
        "first_byte_ns",
        "headers_ns",
        "lag_ns",
        "loop_ns",
        "recv_ns",
        "reused",
        "sent_ns",
        "source",
        "status",
        "uploaded_ns",
    )

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.connect_start_ns: int | None = None
        self.connected_ns: int | None = None
        self.sent_ns: int | None = None
        self.uploaded_ns: int | None = None
        self.headers_ns: int | None = None
        self.first_byte_ns: int | None = None
        self.recv_ns: int | None = None
        self.loop_ns: int | None = None
        self.lag_ns: int | None = None
        self.status: int | None = None
        self.source = "loop"
        self.reused = False


class Limits:
    """Time limits of one request in ns, NEVER for none.

    `connect` opens a connection, name look-up and TLS included. `write` hands the whole request to the kernel. `first_byte`
    runs from there to the first byte of the body. `idle` is the longest silence after it. `total` is everything.
    """

    __slots__ = ("connect", "first_byte", "idle", "total", "write")

    def __init__(self, seconds: Mapping[str, float | None]) -> None:
        read = _ns(seconds.get("read"))
        self.connect = _ns(seconds.get("connect"))
        self.write = _ns(seconds.get("write"))
        self.first_byte = _ns(seconds["first_byte"]) if "first_byte" in seconds else read
        self.idle = _ns(seconds["idle"]) if "idle" in seconds else read
        self.total = _ns(seconds.get("total"))


def _ns(seconds: float | None) -> int:
    return NEVER if seconds is None else int(seconds * 1e9)


class Exchange:
    """State of one request, from the first byte sent to the last byte received. Waited for by one task at most."""

    __slots__ = (
        "bodiless",
        "buffered",
        "complete",
        "discard",
        "failure",
        "headers",
        "limits",
        "pieces",
        "resume",
        "sink",
        "stamps",
        "status",
        "timed_out",
        "total_ns",
        "waiter",
    )

    def __init__(
        self, stamps: Stamps, limits: Limits, total_ns: int, sink: Sink | None, bodiless: bool = False
    ) -> None:
        self.bodiless = bodiless
        """A HEAD request: whatever the headers of its answer say of a body, none comes."""
        self.stamps = stamps
        self.limits = limits
        self.total_ns = total_ns
        self.sink = sink
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: deque[Piece] = deque()
        self.buffered = 0
        self.complete = False
        self.discard = False
        self.failure: BaseException | None = None
        self.timed_out: str | None = None
        self.resume: Callable[[], None] | None = None
        self.waiter: asyncio.Future[None] | None = None

    def deliver(self, pieces: Sequence[Piece]) -> None:
        """Hand pieces of the body to the sink, or keep them for the answer's stream."""
        if self.sink is not None:
            stamps = self.stamps
            _, stamps.recv_ns, stamps.loop_ns = pieces[-1]
            self.sink(pieces)
        elif not self.discard:
            self.pieces.extend(pieces)
            self.buffered += sum(len(data) for data, _, _ in pieces)

    def fail(self, failure: BaseException) -> None:
        if self.failure is None and not self.complete:
            self.failure = failure
        self.wake()

    def wake(self) -> None:
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def wait(self) -> None:
        """Until something changed."""
        self.waiter = asyncio.get_running_loop().create_future()
        try:
            await self.waiter
        finally:
            self.waiter = None

    def framed(self) -> bool:
        """Whether the headers say where the body ends; if not, it ends with the connection."""
        return self.chunked() or any(name.lower() == b"content-length" for name, _ in self.headers)

    def chunked(self) -> bool:
        """Whether the body comes in chunks, and so ends with an empty one."""
        return any(name.lower() == b"transfer-encoding" and b"chunked" in value.lower() for name, value in self.headers)


def timed_out(stage: str, limits: Limits) -> httpx.TimeoutException:
    """The exception of an expired limit."""
    if stage == "write":
        return httpx.WriteTimeout(f"the request was not taken within {limits.write / 1e9:g} s")
    if stage == "first_byte":
        return httpx.ReadTimeout(f"no byte of the answer within {limits.first_byte / 1e9:g} s")
    if stage == "idle":
        return httpx.ReadTimeout(f"the answer paused for more than {limits.idle / 1e9:g} s")
    return httpx.ReadTimeout(f"the whole request took more than {limits.total / 1e9:g} s")
