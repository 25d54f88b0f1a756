"""The httpx transport of the load generator: kernel receive stamps, keep-alive without scans, one gathered write per request.

`httpx.AsyncClient` stays the door. A request may carry, in `request.extensions`:

    timeout   connect, write, first_byte, idle, total in seconds, None for no limit (httpx's own keys work too)
    stamps    a `Stamps` to fill, so that they are there when the request fails as well
    sink      called with a list of pieces of the body, (data, recv_ns, loop_ns) each, inside a read callback, at the end at the latest;
              the response then comes when it is complete, and its stream is empty. One task switch per answer, not two per token.

A response carries `stamps` in its extensions. Raised are httpx's exceptions: for a ReadTimeout the request's extensions hold
`timed_out` (first_byte, idle, total), and for a ConnectError that is this machine's own fault `client_limit` is True.
Out of scope, each refused with a clear error: proxies, HTTP/2, unix sockets, streamed uploads (a body is sent from memory).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from time import monotonic_ns
from typing import Any

import httpx

from client.connection import Connection
from client.errors import UsageError
from client.exchange import NEVER, Exchange, Limits, Piece, Stamps, timed_out
from client.sockets import is_own_limit, open_connection

__all__ = ["KernelStampTransport", "Piece", "Stamps", "new_client", "stamps_of"]

CONTENT_LENGTH = b"content-length"
Origin = tuple[str, str, int]
Raw = list[tuple[bytes, bytes]]
"""Names and values of headers as they are on the wire."""


class AnswerStream(httpx.AsyncByteStream):
    """The body of one answer. `stamps.recv_ns` is that of the piece just yielded."""

    def __init__(self, exchange: Exchange, connection: Connection, request: httpx.Request) -> None:
        self._exchange = exchange
        self._connection = connection
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        exchange = self._exchange
        stamps, pieces = exchange.stamps, exchange.pieces
        while True:
            while pieces:
                data, stamps.recv_ns, stamps.loop_ns = pieces.popleft()
                exchange.buffered -= len(data)
                if exchange.resume is not None and not pieces:
                    exchange.resume()
                yield data
            if exchange.complete:
                return
            if exchange.failure is not None:
                raise _explained(self._request, exchange)
            try:
                await exchange.wait()
            except asyncio.CancelledError:
                self._connection.abandon(exchange)
                raise

    async def aclose(self) -> None:
        exchange = self._exchange
        if exchange.complete or exchange.failure is not None:
            return
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            self._connection.abandon(exchange)
        else:
            self._connection.give_up(exchange)


class _Nothing(httpx.AsyncByteStream):
    """The body of a response whose pieces are in the sink already. One for all: a stream of its own would hold the request in a cycle."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        return
        yield b""


_NOTHING = _Nothing()


class KernelStampTransport(httpx.AsyncBaseTransport):
    """Connections by origin, last used first. Opens as many as there are requests at once: the caller decides how many."""

    def __init__(self, ssl_context: ssl.SSLContext | None = None) -> None:
        self._ssl_context = ssl_context
        self._idle: dict[Origin, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._closed = False
        self._limits: tuple[Mapping[str, float | None], Limits] = {}, Limits({})
        self._headers: tuple[Raw, httpx.Headers] = [], httpx.Headers()
        self._place: tuple[httpx.URL | None, Origin, bytes] = None, ("", "", 0), b""
        self._head: tuple[str, bytes, Raw, bytes] = "", b"", [], b""
        self.connections_opened = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        extensions = request.extensions
        limits = self._limits_of(extensions.get("timeout") or {})
        stamps: Stamps = extensions.get("stamps") or Stamps()
        stamps.clear()
        total_ns = monotonic_ns() + limits.total if limits.total != NEVER else NEVER
        body = await _body(request)
        origin, path = self._place_of(request.url)
        exchange = Exchange(stamps, limits, total_ns, extensions.get("sink"), request.method == "HEAD")
        connection = await self._send(request, exchange, origin, self._head_of(request, path, len(body)), body)
        waits_for_end = exchange.sink is not None
        try:
            while not exchange.complete and exchange.failure is None and (waits_for_end or exchange.status is None):
                await exchange.wait()
        except asyncio.CancelledError:
            connection.abandon(exchange)
            raise
        if exchange.failure is not None and (exchange.status is None or waits_for_end):
            raise _explained(request, exchange)
        assert exchange.status is not None
        stream = _NOTHING if waits_for_end else AnswerStream(exchange, connection, request)
        response = httpx.Response(exchange.status, stream=stream, extensions={"stamps": stamps})
        response.headers = self._headers_of(exchange.headers)
        return response

    def _limits_of(self, seconds: Mapping[str, float | None]) -> Limits:
        """Nearly always those of the request before."""
        if seconds != self._limits[0]:
            self._limits = dict(seconds), Limits(seconds)
        return self._limits[1]

    def _headers_of(self, raw: Raw) -> httpx.Headers:
        """Nearly always those of the answer before, but for what time adds: then the two share one object, which nobody may change."""
        if raw != self._headers[0]:
            self._headers = raw, httpx.Headers(raw)
        return self._headers[1]

    def _place_of(self, url: httpx.URL) -> tuple[Origin, bytes]:
        """Origin, and path with query. Nearly always those of the request before: a URL is never changed."""
        if url is not self._place[0]:
            self._place = url, _origin(url), url.raw_path
        return self._place[1:]

    def _head_of(self, request: httpx.Request, path: bytes, length: int) -> bytes:
        """Request line and headers, nearly always those of the request before but for the length, where that stands last."""
        raw = request.headers.raw
        method, same_path, same, begin = self._head
        if raw and raw[-1] == (CONTENT_LENGTH, b"%d" % length):
            if request.method != method or path != same_path or raw[:-1] != same:
                begin = _head(request.method, path, raw[:-1], 0)[:-2]
                self._head = request.method, path, raw[:-1], begin
            return begin + b"content-length: %d\r\n\r\n" % length
        return _head(request.method, path, raw, length)

    async def warm(self, url: str | httpx.URL, count: int) -> None:
        """Have `count` idle connections to the origin of `url`, so that no request has to open its own."""
        origin = _origin(httpx.URL(url))
        home = self._idle.setdefault(origin, [])
        missing = count - len(home)
        opened = await asyncio.gather(
            *(self._connect(origin, home, 10.0) for _ in range(missing)), return_exceptions=True
        )
        home.extend(c for c in opened if isinstance(c, Connection))
        for failure in opened:
            if isinstance(failure, BaseException):
                raise failure

    async def aclose(self) -> None:
        self._closed = True
        for connection in list(self._open):
            connection.close()
        self._open.clear()
        self._idle.clear()

    async def _send(
        self, request: httpx.Request, exchange: Exchange, origin: Origin, head: bytes, body: bytes
    ) -> Connection:
        """Begin the exchange on an idle connection or a new one. A dead idle one is replaced while no byte was sent."""
        home = self._idle.get(origin)
        if home is None:
            home = self._idle.setdefault(origin, [])
        while home:
            connection = home.pop()
            if connection.closed:
                continue
            if connection.stale():
                connection.close()
                continue
            exchange.stamps.reused = True
            try:
                connection.begin(exchange, head, body)
            except OSError:
                exchange.stamps.reused = False
                break
            return connection
        connection = await self._connect_for(request, exchange, origin, home)
        try:
            connection.begin(exchange, head, body)
        except OSError as error:
            raise httpx.WriteError(f"the connection broke before the request was sent: {error}") from error
        return connection

    async def _connect_for(
        self, request: httpx.Request, exchange: Exchange, origin: Origin, home: list[Connection]
    ) -> Connection:
        stamps, limits = exchange.stamps, exchange.limits
        stamps.connect_start_ns = now = monotonic_ns()
        limit = min(limits.connect, exchange.total_ns - now)
        try:
            connection = await self._connect(origin, home, None if limit > NEVER // 2 else limit / 1e9)
        except httpx.ConnectTimeout as error:
            if limit < limits.connect:
                request.extensions["timed_out"] = "total"
                raise timed_out("total", limits) from error
            raise
        except httpx.ConnectError as error:
            if is_own_limit(error):
                request.extensions["client_limit"] = True
            raise
        stamps.connected_ns = monotonic_ns()
        return connection

    async def _connect(self, origin: Origin, home: list[Connection], limit_s: float | None) -> Connection:
        if self._closed:
            raise RuntimeError("The transport has been closed.")
        scheme, host, port = origin
        context = None
        if scheme == "https":
            if self._ssl_context is None:
                self._ssl_context = ssl.create_default_context()
            context = self._ssl_context
        connection = await open_connection(host, port, context, home, limit_s)
        if self._closed:
            connection.close()
            raise httpx.ConnectError("the transport was closed while it connected")
        self.connections_opened += 1
        self._open.add(connection)
        connection.on_close = self._open.discard
        return connection


class _NoCookies(httpx.Cookies):
    """Remembers nothing: requests of a load test are independent, and a sticky cookie would tie them to one replica."""

    def extract_cookies(self, response: httpx.Response) -> None:
        pass


_NO_COOKIES = _NoCookies()


class LoadClient(httpx.AsyncClient):
    """httpx.AsyncClient on a `KernelStampTransport`, without a cookie memory."""

    def __init__(self, transport: KernelStampTransport) -> None:
        super().__init__(
            transport=transport,
            trust_env=False,
            timeout=httpx.Timeout(None),
            headers={"accept-encoding": "identity", "user-agent": "halfweight"},
        )
        self.transport = transport

    async def send(
        self,
        request: httpx.Request,
        *,
        stream: bool = False,
        auth: Any = httpx.USE_CLIENT_DEFAULT,  # httpx does not publish the types of these two
        follow_redirects: Any = httpx.USE_CLIENT_DEFAULT,
    ) -> httpx.Response:
        """As httpx sends; but a request with a sink goes straight to the transport.

        Its answer is in the sink already when the response exists, so that there is nothing to authenticate, redirect or hook
        after it; httpx's own way through those layers costs as much CPU as the rest of a request.
        """
        if "sink" not in request.extensions:
            return await super().send(request, stream=stream, auth=auth, follow_redirects=follow_redirects)
        if self.is_closed:
            raise RuntimeError("Cannot send a request, as the client has been closed.")
        try:
            response = await self.transport.handle_async_request(request)
        except httpx.RequestError as error:
            error.request = request
            raise
        response.request = request
        return response

    @property
    def cookies(self) -> httpx.Cookies:
        return _NO_COOKIES

    @cookies.setter
    def cookies(self, cookies: object) -> None:
        raise UsageError("The load client keeps no cookies.", "Send a Cookie header with the request.")


def new_client(*, ca_file: str | None = None, **unsupported: object) -> LoadClient:
    """A client on a new `KernelStampTransport`, which stays within reach as its attribute `transport`.

    `ca_file` is a PEM file with the certificates to trust instead of the system's. Proxies from the environment are not used.
    """
    if unsupported:
        names = ", ".join(sorted(unsupported))
        raise UsageError(
            f"The load transport has no {names}.", "It speaks HTTP/1.1 over TCP or TLS, straight to the server."
        )
    context = None
    if ca_file is not None:
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"The certificate file {ca_file} cannot be used: {error}.", "Give a PEM file.") from error
    return LoadClient(KernelStampTransport(context))


def stamps_of(response: httpx.Response) -> Stamps:
    """The stamps that the transport left in a response."""
    stamps = response.extensions["stamps"]
    assert isinstance(stamps, Stamps)
    return stamps


async def _body(request: httpx.Request) -> bytes:
    if isinstance(request.stream, httpx.ByteStream):
        return b"".join(request.stream)
    try:
        return request.content
    except httpx.RequestNotRead:
        return await request.aread()


def _origin(url: httpx.URL) -> Origin:
    scheme = url.scheme
    port = url.port
    try:
        if scheme == "http":
            return scheme, url.host, 80 if port is None else port
        if scheme == "https":
            return scheme, url.host, 443 if port is None else port
    except UnicodeError as error:  # a host that begins as punycode and is none
        raise httpx.ConnectError(f"the name in {str(url)!r} is no host name: {error}") from error
    raise httpx.UnsupportedProtocol(
        f"The load transport speaks http:// and https://, not {scheme or 'an empty scheme'}://."
    )


def _head(method: str, path: bytes, headers: Raw, length: int) -> bytes:
    """Request line and headers. A body is always sent whole, so its length replaces any transfer encoding."""
    if not (method.isascii() and method.replace("-", "").isalpha()):
        raise httpx.LocalProtocolError(f"{method!r} is no HTTP method.")
    lines = [method.encode("ascii") + b" " + path + b" HTTP/1.1"]
    sized = length == 0
    for name, value in headers:
        lower = name.lower()
        if lower == b"transfer-encoding":
            continue
        sized = sized or lower == CONTENT_LENGTH
        lines.append(name + b": " + value)
    if not sized:
        lines.append(b"content-length: %d" % length)
    head = b"\r\n".join(lines) + b"\r\n\r\n"
    if head.count(b"\n") != len(lines) + 1 or head.count(b"\r") != len(lines) + 1:
        raise httpx.LocalProtocolError("A line break inside the request line or a header.")
    return head


def _explained(request: httpx.Request, exchange: Exchange) -> BaseException:
    """The failure of an exchange, with its stage noted where the caller looks for it."""
    assert exchange.failure is not None
    if exchange.timed_out in ("first_byte", "idle", "total"):
        request.extensions["timed_out"] = exchange.timed_out
    return exchange.failure
