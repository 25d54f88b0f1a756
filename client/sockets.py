"""Sockets under a connection: plain ones with the kernel's receive stamps, TLS ones through asyncio with the loop's.

A kernel stamp is on CLOCK_REALTIME. It is turned into an age against the same clock at the moment of reading, and the age is
taken off CLOCK_MONOTONIC: the offset of the two clocks is measured anew at each read, so slew bends no stamp. A step between the stamp
and its reading would: a read that finds the offset moved since the one before on its connection takes the loop's stamp.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import ssl
import struct
import sys
from time import monotonic_ns, time_ns
from typing import cast

import httpx

from client.connection import Connection
from client.exchange import Exchange, Read
from client.loop import add_direct_reader, deferring

SO_TIMESTAMPNS_NEW = 64
"""Linux, asm-generic/socket.h: the option, and the type of the control message that it brings (two 64-bit integers)."""
READ_BYTES = 256 << 10
OWN_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM})
"""Errors of opening a connection that say something of this machine and nothing of the server."""
RESERVED = 32
"""Descriptors that no load connection may take."""
Address = tuple[socket.AddressFamily, tuple[str | int | bytes, ...]]

STEP_NS = 100_000_000
"""The wall clock moved by more than this against the monotonic one between two reads: it was set."""
Raw = tuple[bytes | bytearray | memoryview, list[tuple[int, int, bytes]], int, int]
"""Bytes from the kernel, the control messages that came with them, and both clocks, wall and monotonic, as the read returned."""

_timespec = struct.Struct("=qq").unpack
_buffer = bytearray(READ_BYTES)
_view = memoryview(_buffer)
_buffers = [_buffer]

KEPT_BYTES = 2 << 10
KEPT_READS = 32
"""How large reads may be, and how many, that a connection keeps before it parses them."""
EVENT_END = b"\n\n\r\n"
"""How a read ends that holds whole server-sent events in whole chunks, as one token's does. An answer never ends so: its last chunk
is an empty one, and the blank line after it is CRLF CRLF."""


class PlainConnection(Connection):
    """A non-blocking TCP socket. Read at once, worked on later: the kernel's stamp and the two clocks are all that cannot wait.

    A token that is not the last is kept with them. Arithmetic, the parser, the JSON and what is made of them run once for many tokens,
    with warm caches, and the next connection's token is read the sooner. A read that is worth work, the end of an answer say, has it put
    off until every other connection has been read.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, home: list[Connection], sock: socket.socket) -> None:
        super().__init__(loop, home)
        self._sock = sock
        self._fd = sock.fileno()
        self._rest: list[memoryview] = []
        self._kept: list[Raw] = []
        self._defer = deferring(loop)
        self._deferred = False
        self._offset_ns = 0
        """Wall clock minus monotonic clock, at the last read or at the beginning of the request."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if sys.platform == "linux":
            try:
                sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS_NEW, 1)
                self.source = "kernel"
            except OSError:
                pass  # a kernel before 5.1: stamps are the loop's, and say so
        add_direct_reader(loop, self._fd, self._readable)

    def write(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        self._offset_ns = time_ns() - monotonic_ns()
        try:
            sent = self._sock.sendmsg((head, body))
        except BlockingIOError:
            sent = 0
        if sent == len(head) + len(body):
            self.uploaded(exchange)
            return
        self._rest = [memoryview(head), memoryview(body)]
        self._advance(sent)
        self.loop.add_writer(self._fd, self._writable)

    def stale(self) -> bool:
        self.catch_up()  # what it said out of turn closes it
        if self.closed:
            return True
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def pause_reading(self) -> None:
        self.loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        add_direct_reader(self.loop, self._fd, self._readable)

    def disconnect(self) -> None:
        self.loop.remove_reader(self._fd)
        if self._rest:
            self.loop.remove_writer(self._fd)
            self._rest = []
        self._sock.close()

    def _advance(self, sent: int) -> None:
        rest = self._rest
        while rest and sent >= len(rest[0]):
            sent -= len(rest.pop(0))
        if sent:
            rest[0] = rest[0][sent:]

    def _writable(self) -> None:
        try:
            self._advance(self._sock.sendmsg(self._rest))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._stop_writing()
            self._readable()  # an answer that came before the break counts
            self.catch_up()
            self.upload_failed(error)
            return
        if not self._rest:
            self._stop_writing()
            exchange = self._exchange
            if exchange is not None:
                self.uploaded(exchange)

    def _stop_writing(self) -> None:
        self._rest = []
        if not self.closed:
            self.loop.remove_writer(self._fd)

    def _readable(self) -> bool:
        """Read what is there; whether it was kept, so that nothing came of it."""
        try:
            size, control, _, _ = self._sock.recvmsg_into(_buffers, 64)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if not self.closed:
                self.ended(error)
            return False
        wall_ns, loop_ns = time_ns(), monotonic_ns()
        if size == 0:
            self.ended(None)
            return False
        kept = self._kept
        if size < KEPT_BYTES and len(kept) < KEPT_READS:
            data = _buffer[:size]
            kept.append((data, control, wall_ns, loop_ns))
            if self._patient and data.endswith(EVENT_END):
                return True
            if not self._deferred:
                self._deferred = True
                self._defer(self._work)
            return False
        last = _view[:size], control, wall_ns, loop_ns
        if kept:
            self._kept = []
            kept.append(last)
            self.received([self._stamped(raw) for raw in kept])
        else:
            self.received((self._stamped(last),))
        return False

    def _work(self) -> None:
        self._deferred = False
        self.catch_up()

    def catch_up(self) -> None:
        if self._kept:
            kept, self._kept = self._kept, []
            self.received([self._stamped(raw) for raw in kept])

    def _stamped(self, raw: Raw) -> Read:
        """Asked for in the order of the reads. The stamp is never later than the loop's and never before the request was sent."""
        data, control, wall_ns, loop_ns = raw
        recv_ns = loop_ns
        if control:
            seconds, nanoseconds = _timespec(control[0][2])
            age = wall_ns - seconds * 1_000_000_000 - nanoseconds
            offset_ns, before_ns = wall_ns - loop_ns, self._offset_ns
            self._offset_ns = offset_ns
            if age > 0 and -STEP_NS < offset_ns - before_ns < STEP_NS:
                recv_ns = max(loop_ns - age, self._sent_ns)
        return data, recv_ns, loop_ns


class TlsConnection(Connection, asyncio.Protocol):
    """A connection through asyncio's TLS: the loop's stamps, and none for the end of the upload, which asyncio tells late."""

    tells_upload = False

    def __init__(self, loop: asyncio.AbstractEventLoop, home: list[Connection]) -> None:
        super().__init__(loop, home)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)
        self._full = False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed:
            self.ended(exc if isinstance(exc, OSError) else None)

    def data_received(self, data: bytes) -> None:
        now = monotonic_ns()
        if not self.closed:
            self.received(((data, now, now),))

    def eof_received(self) -> None:
        if not self.closed:
            self.ended(None)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        exchange = self._exchange
        if exchange is not None and self._uploading:
            self.uploaded(exchange)

    def write(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError(errno.ECONNRESET, "the connection was closed")
        self._transport.write(head + body)
        if not self._full:
            self.uploaded(exchange)

    def still_sending(self) -> bool:
        """asyncio tells the end of an upload late, often after the whole answer: its buffer knows."""
        return self._uploading and self._transport is not None and self._transport.get_write_buffer_size() > 0

    def stale(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def pause_reading(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def disconnect(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def open_connection(
    host: str, port: int, context: ssl.SSLContext | None, home: list[Connection], limit_s: float | None
) -> Connection:
    """A new connection, not in `home` yet. Raises httpx.ConnectError or ConnectTimeout with its cause.

    `limit_s` bounds look-up, connecting and the TLS handshake together.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(limit_s):
            sock = await _connected_socket(loop, host, port)
            if context is None:
                return PlainConnection(loop, home, sock)
            try:
                _, connection = await loop.create_connection(
                    lambda: TlsConnection(loop, home), sock=sock, ssl=context, server_hostname=host
                )
            except BaseException:
                sock.close()
                raise
            return connection
    except TimeoutError as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise httpx.ConnectTimeout(f"connecting to {host}:{port} timed out: {error}") from error
        raise httpx.ConnectTimeout(f"no connection to {host}:{port} within {limit_s:g} s") from error
    except socket.gaierror as error:
        raise httpx.ConnectError(f"the name {host!r} cannot be resolved: {error.strerror}") from error
    except UnicodeError as error:  # from the look-up: a label that is empty or longer than 63
        raise httpx.ConnectError(f"{host!r} is no host name: {error}") from error
    except ssl.SSLError as error:
        raise httpx.ConnectError(f"TLS with {host}:{port} failed: {error}") from error
    except OSError as error:
        if error.errno in OWN_LIMITS:
            raise httpx.ConnectError(
                f"this machine cannot open another connection: {error.strerror}. Raise `ulimit -n`, or send less at once."
            ) from error
        why = os.strerror(error.errno) if error.errno else str(error)
        raise httpx.ConnectError(f"no connection to {host}:{port}: {why}") from error


def is_own_limit(error: BaseException) -> bool:
    """Whether a ConnectError comes from a limit of this machine."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in OWN_LIMITS and not isinstance(cause, socket.gaierror)


async def _connected_socket(loop: asyncio.AbstractEventLoop, host: str, port: int) -> socket.socket:
    """Try each address of the host in turn. All but the last get two seconds, so that one dead family costs little."""
    addresses = await _addresses(loop, host, port)
    for family, address in addresses[:-1]:
        try:
            async with asyncio.timeout(2.0):
                return await _connect(loop, family, address)
        except OSError as error:  # TimeoutError is one
            if (
                error.errno in OWN_LIMITS and error.errno != errno.EADDRNOTAVAIL
            ):  # that one: this family is not set up here
                raise
    family, address = addresses[-1]
    return await _connect(loop, family, address)


async def _addresses(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[Address]:
    host = host.replace("%25", "%")  # a zone, as an address inside a URL writes it (RFC 6874)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


async def _connect(
    loop: asyncio.AbstractEventLoop, family: socket.AddressFamily, address: tuple[str | int | bytes, ...]
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sock.fileno() >= _for_sockets():
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _for_sockets() -> int:
    """The kernel gives the lowest free descriptor: from this number on they are kept for files and questions to servers, so that a
    run which wants more sockets than there are can still write down that it did."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limit - min(RESERVED, limit // 4) if limit != resource.RLIM_INFINITY else 1 << 30
