"""One HTTP/1.1 connection: bytes in, one exchange at a time out, and a single lazy timer for all of its limits.

`Connection` knows HTTP and time; `client.sockets` gives it bytes. The timer is armed for the earliest deadline and moved only
when it fires or when an earlier one comes: a request that ends in time costs no timer at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic_ns

import httptools
import httpx

from client.exchange import BUFFER_LIMIT, NEVER, Exchange, Piece, Read, timed_out

OVERHEAD_LIMIT = 64 << 10
"""Bytes that a server may send without one byte of body among them: headers, trailers, chunk extensions."""
DISCARD_GRACE_NS = 250_000_000
"""How long the rest of an answer may take that nobody reads any more, before its connection is given up."""

COME_AGAIN = (429, 503)
"""Refusals of a server that is well but busy. They come by the thousand, and its connections stay good."""


class Connection:
    """Base of the plain and the TLS connection. `home` is the origin's stack of idle connections."""

    source = "loop"
    tells_upload = True
    """Whether `uploaded` is called the moment the kernel has the last byte, so that it is worth a stamp."""

    def __init__(self, loop: asyncio.AbstractEventLoop, home: list[Connection]) -> None:
        self.loop = loop
        self.home = home
        self.closed = False
        self.on_close: Callable[[Connection], None] | None = None
        self._exchange: Exchange | None = None
        self._pieces: list[bytes] = []
        self._patient = False
        """Whether reads may wait, stamped but not parsed: see `PlainConnection`."""
        self._parser: httptools.HttpResponseParser | None = None
        self._sent_ns = 0
        self._recv_ns = 0
        self._overhead = 0
        self._interim = False
        self._surplus = False
        self._uploading = False
        self._reusable = True
        self._paused = False
        self._stage = "write"
        self._deadline_ns = NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = NEVER
        self.on_body = self._pieces.append
        """The parser calls this for each piece of body: a list's own append, so that no Python frame is made per token."""
        self._parser = httptools.HttpResponseParser(self)

    # What `client.sockets` provides.

    def write(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        """Start to send; call `uploaded` at the end. Raises OSError when not one byte was taken."""
        raise NotImplementedError

    def still_sending(self) -> bool:
        """Whether part of the request has not left this process."""
        return self._uploading

    def stale(self) -> bool:
        """Whether the peer has ended this idle connection, or spoken on it out of turn."""
        raise NotImplementedError

    def catch_up(self) -> None:
        """Hand in what was read and not parsed yet."""

    def pause_reading(self) -> None:
        raise NotImplementedError

    def resume_reading(self) -> None:
        raise NotImplementedError

    def disconnect(self) -> None:
        """Release the socket at once. Called once."""
        raise NotImplementedError

    # What `client.transport` uses.

    def begin(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        """Send a request on this idle connection. OSError: nothing was sent, the connection is closed, another may be tried."""
        stamps = exchange.stamps
        stamps.source = self.source
        self._exchange = exchange
        self._uploading = True
        self._reusable = True
        self._overhead = 0
        stamps.sent_ns = self._sent_ns = now = monotonic_ns()
        self._watch("write", now + exchange.limits.write)
        try:
            self.write(exchange, head, body)
        except OSError:
            self._exchange = None
            stamps.sent_ns = None
            self.close()
            raise

    def give_up(self, exchange: Exchange) -> None:
        """The consumer left before the end: read the rest for a moment, so that the connection lives on, then close it."""
        if self._exchange is not exchange or self._uploading:
            self.abandon(exchange)
            return
        exchange.discard = True
        exchange.pieces.clear()
        exchange.buffered = 0
        if self._paused:
            self._resume()
        self._watch("discard", monotonic_ns() + DISCARD_GRACE_NS)

    def abandon(self, exchange: Exchange) -> None:
        """Close now, if this connection still works for the exchange. The server sees that nobody waits any more."""
        self.catch_up()
        if self._exchange is exchange:
            self.close()

    def close(self) -> None:
        self.catch_up()
        if self.closed:
            return
        self.closed = True
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            if self in self.home:
                self.home.remove(self)
        elif not exchange.complete:
            exchange.fail(httpx.ReadError("the connection was closed"))
        if self._timer is not None:
            self._timer.cancel()
        self._parser = None
        self.disconnect()
        if self.on_close is not None:
            self.on_close(self)

    # What `client.sockets` calls.

    def uploaded(self, exchange: Exchange) -> None:
        now = monotonic_ns()
        if self.tells_upload:
            exchange.stamps.uploaded_ns = now
        self._uploading = False
        if exchange.stamps.first_byte_ns is None:
            self._watch("first_byte", now + exchange.limits.first_byte)

    def upload_failed(self, error: OSError) -> None:
        """The peer takes no more. If it has begun to answer (413, say), the answer counts; the connection does not."""
        exchange = self._exchange
        if exchange is None:
            return
        self._reusable = False
        if exchange.status is None:
            failure = httpx.WriteError(f"the peer closed the connection while the request was sent: {error}")
            failure.__cause__ = error
            self._fail(exchange, failure)

    def received(self, reads: Sequence[Read]) -> None:
        """Bytes from the peer, in the order in which they came."""
        exchange = self._exchange
        parser = self._parser
        if exchange is None or parser is None:
            self.close()
            return
        failure: Exception | None = None
        pieces = self._pieces
        body: list[Piece] = []
        try:
            for data, recv_ns, loop_ns in reads:
                self._recv_ns = recv_ns
                self._overhead += len(data)
                parser.feed_data(data)
                if pieces:  # of one read, and so of one stamp
                    body.append((pieces[0] if len(pieces) == 1 else b"".join(pieces), recv_ns, loop_ns))
                    pieces.clear()
                    self._overhead = 0
        except httptools.HttpParserUpgrade:
            failure = httpx.RemoteProtocolError("the peer switched to another protocol")
        except httptools.HttpParserError as error:
            failure = httpx.RemoteProtocolError(f"the peer does not speak proper HTTP/1.1: {error}")
            if pieces:
                body.append((b"".join(pieces), recv_ns, loop_ns))
                pieces.clear()
        if body:
            failure = self._take_body(exchange, body) or failure
        elif self._overhead > OVERHEAD_LIMIT and not exchange.complete:
            failure = httpx.RemoteProtocolError(f"the peer sent more than {OVERHEAD_LIMIT} bytes of headers")
        if self._surplus:
            failure = httpx.RemoteProtocolError("the peer sent more than one answer to one request")
        if failure is not None:
            exchange.complete = False
            self._fail(exchange, failure)
        elif exchange.complete:
            if self.still_sending():  # a refusal: nobody will read the rest of the request
                self._reusable = False
            self._finish(exchange)
        elif exchange.sink is None and exchange.status is not None:
            exchange.wake()

    def ended(self, error: OSError | None) -> None:
        """The peer closed (None) or the connection broke."""
        self.catch_up()
        exchange = self._exchange
        if exchange is None:
            self.close()
            return
        if error is not None:
            failure: httpx.TransportError = httpx.ReadError(f"the connection broke: {error}")
            failure.__cause__ = error
        elif exchange.complete or (exchange.status is not None and not exchange.framed()):
            exchange.complete = True
            self._reusable = False
            self._finish(exchange)
            return
        elif exchange.status is None:
            where = "before its answer" if self._overhead == 0 else "inside the headers of its answer"
            failure = httpx.RemoteProtocolError(f"peer closed the connection {where}")
        else:
            failure = httpx.RemoteProtocolError("peer closed the connection inside the body of its answer")
        self._fail(exchange, failure)

    # Called by the parser.

    def on_message_begin(self) -> None:
        exchange = self._exchange
        if exchange is None or exchange.complete:
            self._surplus = True

    def on_header(self, name: bytes, value: bytes) -> None:
        exchange = self._exchange
        if exchange is not None and exchange.status is None:
            exchange.headers.append((name, value))

    def on_headers_complete(self) -> None:
        exchange, parser = self._exchange, self._parser
        if exchange is None or parser is None or exchange.complete:
            return
        status = parser.get_status_code()
        self._interim = 100 <= status < 200
        if self._interim:
            exchange.headers.clear()
            return
        exchange.status = exchange.stamps.status = status
        stamps = exchange.stamps
        stamps.headers_ns = recv_ns = self._recv_ns
        if stamps.uploaded_ns is not None and stamps.uploaded_ns > recv_ns:
            stamps.uploaded_ns = recv_ns  # this process was put aside between the end of the upload and its stamp
        if exchange.bodiless:
            exchange.complete = True
            self._reusable = False  # the parser knows no HEAD: it waits for the body

    def on_message_complete(self) -> None:
        exchange, parser = self._exchange, self._parser
        if self._interim:
            self._interim = False
        elif exchange is not None and parser is not None and not exchange.complete:
            exchange.complete = True
            # uvicorn closes the connection after an exception that it has answered already, without saying so (vLLM 0.20: any refused
            # prompt; later: any HTTP 500). The close comes a moment later, upon whoever is sent there next.
            refused = (exchange.status or 0) >= 400 and exchange.status not in COME_AGAIN
            self._reusable = self._reusable and not refused and parser.should_keep_alive()

    # Inside.

    def _take_body(self, exchange: Exchange, body: list[Piece]) -> Exception | None:
        """Pass the pieces on. Returned is an error of the sink."""
        stamps = exchange.stamps
        if self.source == "kernel":
            lag = max([loop_ns - recv_ns for _, recv_ns, loop_ns in body])
            if stamps.lag_ns is None or lag > stamps.lag_ns:
                stamps.lag_ns = lag
        _, _, last_ns = body[-1]
        if self._stage == "idle":  # later than it was, so the timer stays
            self._deadline_ns = last_ns + exchange.limits.idle
        elif stamps.first_byte_ns is None:
            _, stamps.first_byte_ns, _ = body[0]
            if not exchange.discard:  # else the grace is all that is left
                self._watch("idle", last_ns + exchange.limits.idle)
            self._patient = exchange.sink is not None and exchange.chunked()
        try:
            exchange.deliver(body)
        except Exception as error:  # it belongs to the task that waits, not to the event loop
            return error
        if exchange.buffered > BUFFER_LIMIT and not self._paused:
            self._paused = True
            exchange.resume = self._resume
            self._deadline_ns = NEVER
            self.pause_reading()
        return None

    def _resume(self) -> None:
        exchange = self._exchange
        if not self._paused or self.closed or exchange is None:
            return
        self._paused = False
        exchange.resume = None
        self._watch("idle", monotonic_ns() + exchange.limits.idle)
        self.resume_reading()

    def _finish(self, exchange: Exchange) -> None:
        """The answer is complete: back to the stack of idle connections, or away."""
        if self._exchange is not exchange:
            return
        if self._paused:
            self._paused = False
            exchange.resume = None
            self.resume_reading()
        self._exchange = None
        self._patient = False
        if self._reusable and not self.closed:
            self.home.append(self)
        else:
            self.close()
        exchange.wake()

    def _fail(self, exchange: Exchange, failure: BaseException) -> None:
        exchange.fail(failure)
        self.close()

    def _watch(self, stage: str, deadline_ns: int) -> None:
        self._stage = stage
        self._deadline_ns = deadline_ns
        exchange = self._exchange
        if exchange is not None and exchange.total_ns < deadline_ns:
            deadline_ns = exchange.total_ns
        if deadline_ns < self._timer_ns:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_ns = deadline_ns
            self._timer = self.loop.call_at(deadline_ns / 1e9, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_ns = None, NEVER
        self.catch_up()
        exchange = self._exchange
        if exchange is None:
            return
        now = monotonic_ns()
        if now >= exchange.total_ns:
            stage = "total"
        elif now >= self._deadline_ns:
            stage = self._stage
        else:
            self._watch(self._stage, self._deadline_ns)
            return
        if stage != "discard":
            exchange.timed_out = stage
            exchange.fail(timed_out(stage, exchange.limits))
        self.close()
