"""Streaming chat completions over httpx: one request in, exactly one `RequestRecord` out, whatever happens.

No retry, no schedule, no judging of the answer's text. A request that fails is a record with its outcome; only cancellation
is passed on, after its record is written.

The answer is read inside the transport's read callback (`extensions["sink"]`): one task switch for an answer, not two for a token.
With another httpx transport, which knows no sink, the pieces are read here and stamped by the event loop; of the limits it then knows
connect, write and read only.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from time import monotonic_ns
from typing import Any, TypeVar

import httpx

from client.core.body import with_logprobs
from client.core.cases import PreparedRequest
from client.core.logprobs import read_steps
from client.core.outcomes import Answer, Verdict, answer_verdict, message_of, one_line, retry_after_s
from client.core.plan import Target, Timeouts
from client.core.records import Outcome, Phase, RequestRecord
from client.core.schedule import Slot
from client.core.secrets import Mask
from client.core.sse import LINE_LIMIT
from client.core.stream import ChatStream
from client.transport import Piece, Stamps

Sink = Callable[[RequestRecord], None]
ANSWER_LIMIT = 64 << 20
"""Bytes. A longer answer has no end that is worth waiting for."""
ERROR_LIMIT = 64 << 10
"""Bytes kept of an answer that is not 200, to find its message."""
BEGINNING = 1 << 10
"""Bytes kept of the beginning of any other answer, for the message when it turns out to be none."""
OWN_LIMITS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN}
USUAL_REASONS = {"stop", "length", "tool_calls", "content_filter", "abort"}
_DONE = httpx.ByteStream(b"")
_NO_AUTH = httpx.Auth()
_E = TypeVar("_E", bound=BaseException)


class AnswerTooLong(Exception):
    """The answer passed ANSWER_LIMIT."""


class Endpoint:
    """The chat door of one target. One instance serves any number of requests at once."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        target: Target,
        timeouts: Timeouts,
        api_key: str | None = None,
        keep_text: bool = True,
        logprobs: int = 0,
    ) -> None:
        self._client = client
        self._name = target.name
        self._url = httpx.URL(target.base_url.rstrip("/") + "/v1/chat/completions")
        self._head = _head(self._url, api_key)
        self._keep_text = keep_text
        self._logprobs = logprobs
        self._mask = Mask([api_key] if api_key else [])
        self._secrets = self._mask.secrets
        self._timeout = {
            "connect": timeouts.connect_s,
            "write": timeouts.write_s,
            "first_byte": timeouts.first_byte_s,
            "idle": timeouts.idle_s,
            "total": timeouts.total_s,
            # What transports other than ours know:
            "read": max(timeouts.first_byte_s, timeouts.idle_s),
            "pool": timeouts.connect_s,
        }

    async def send(
        self,
        prepared: PreparedRequest,
        slot: Slot,
        *,
        phase: Phase,
        block: int | None,
        level: int,
        worker: int,
        intended_ns: int,
        sink: Sink,
        attempt: int = 0,
    ) -> RequestRecord:
        """Send, read to the end, and hand one record to `sink`; the same record is returned."""
        # They cost the server time: never in a request whose time counts.
        asks_tokens = self._logprobs > 0 and phase is Phase.QUALITY
        body = with_logprobs(prepared.body, self._logprobs) if asks_tokens else prepared.body
        intake = _Intake(asks_tokens)
        verdict = Verdict(Outcome.CANCELLED, "cancelled before its end")
        try:
            verdict = await self._exchange(body, intake)
        except Exception as error:
            verdict = failure_verdict(error, intake)
        finally:  # cancellation and a stopping interpreter pass through here too
            record = self._record(
                intake,
                verdict,
                phase=phase,
                index=slot.index,
                image_id=prepared.image_id,
                body_bytes=len(body),
                block=block,
                level=level,
                worker=worker,
                attempt=attempt,
                intended_ns=intended_ns,
            )
            sink(record)
        return record

    def _record(self, intake: _Intake, verdict: Verdict, **place: Any) -> RequestRecord:
        stamps, chat = intake.stamps, intake.chat
        return RequestRecord(
            target=self._name,
            outcome=verdict.outcome,
            connect_start_ns=stamps.connect_start_ns,
            connected_ns=stamps.connected_ns,
            sent_ns=stamps.sent_ns,
            uploaded_ns=stamps.uploaded_ns,
            headers_ns=stamps.headers_ns,
            first_byte_ns=stamps.first_byte_ns,
            role_ns=chat.role_ns,
            first_token_ns=chat.first_token_ns,
            first_text_ns=chat.first_text_ns,
            last_token_ns=chat.last_token_ns,
            done_ns=intake.done_ns or monotonic_ns(),
            chunk_ns=tuple(chat.chunk_ns),
            stamps=stamps.source,
            recv_lag_ns=stamps.lag_ns,
            status=stamps.status,
            finish_reason=self._word(chat.finish_reason),
            prompt_tokens=chat.prompt_tokens,
            completion_tokens=chat.completion_tokens,
            cached_tokens=chat.cached_tokens,
            text=self._mask.text(chat.text) if self._keep_text and chat.last_token_ns is not None else None,
            error=None if verdict.error is None else one_line(verdict.error, self._secrets),
            answer_bytes=intake.size,
            retry_after_s=intake.retry_after_s,
            tokens=read_steps(chat.logprobs),
            **place,
        )

    def _word(self, reason: str | None) -> str | None:
        """The usual words as they are; a stranger is foreign text."""
        return reason if reason in USUAL_REASONS or reason is None else one_line(reason, self._secrets)

    async def _exchange(self, body: bytes, intake: _Intake) -> Verdict:
        """One request and its whole answer. Raises what httpx raises."""
        extensions = {"timeout": self._timeout, "stamps": intake.stamps, "sink": intake.take}
        headers = [*self._head, (b"content-length", b"%d" % len(body))]
        request = httpx.Request(
            "POST", self._url, headers=headers, stream=httpx.ByteStream(body), extensions=extensions
        )
        request.url = self._url  # httpx makes a copy of it, which our transport would have to take apart each time
        before_ns = monotonic_ns()
        # Neither a URL nor a .netrc may add credentials, and no redirect may carry the key to another origin.
        response = await self._client.send(request, stream=True, auth=_NO_AUTH, follow_redirects=False)
        if response.extensions.get("stamps") is not intake.stamps:
            try:
                await _read(response, intake, before_ns)
            finally:
                await response.aclose()
                response.stream = _DONE  # httpx ties the two in a cycle, which only the garbage collector would find
        intake.done_ns = intake.stamps.recv_ns or intake.stamps.headers_ns
        return self._judge(response, intake)

    def _judge(self, response: httpx.Response, intake: _Intake) -> Verdict:
        if response.status_code != 200:
            intake.retry_after_s = retry_after_s(response.headers.get("retry-after"))
            return Verdict(Outcome.HTTP_ERROR, _status_line(response, intake))
        chat = intake.chat
        chat.close(intake.stamps.recv_ns)
        return answer_verdict(
            Answer(
                content_type=response.headers.get("content-type"),
                content_encoding=response.headers.get("content-encoding"),
                error=chat.error,
                unreadable=chat.bad,
                finish_reason=chat.finish_reason,
                has_token=chat.last_token_ns is not None and chat.completion_tokens != 0,
                chunks=len(chat.chunk_ns),
                beginning=bytes(intake.kept),
            )
        )


class _Intake:
    """What comes in for one request: pieces of a good answer go to the chat reader, pieces of an error page are kept."""

    __slots__ = ("chat", "done_ns", "kept", "retry_after_s", "size", "stamps")

    def __init__(self, asks_tokens: bool = False) -> None:
        self.stamps = Stamps()
        self.chat = ChatStream(logprobs=asks_tokens)
        self.kept = bytearray()
        self.size = 0
        self.done_ns: int | None = None
        """When the last piece of a complete answer came; None as long as it is not complete."""
        self.retry_after_s: float | None = None

    def take(self, pieces: Sequence[Piece]) -> None:
        """Called with the pieces of the body, in their order."""
        good = self.stamps.status == 200
        room = (BEGINNING if good else ERROR_LIMIT) - len(self.kept)
        for data, _, _ in pieces:
            self.size += len(data)
            if room > 0:
                self.kept += data[:room]
                room -= len(data)
        if good:
            self.chat.feed_all(pieces)
            if self.chat.bad and self.size > LINE_LIMIT:  # a line without an end, say: no use in waiting for it
                raise AnswerTooLong(self.chat.error)
        if self.size > ANSWER_LIMIT:
            raise AnswerTooLong(f"the answer is longer than {ANSWER_LIMIT >> 20} MiB")


async def _read(response: httpx.Response, intake: _Intake, before_ns: int) -> None:
    """The body of a response whose transport knows neither stamps nor sinks."""
    stamps = intake.stamps
    stamps.sent_ns = before_ns
    stamps.headers_ns = monotonic_ns()
    stamps.status = response.status_code
    async for piece in response.aiter_raw():
        stamps.recv_ns = stamps.loop_ns = now = monotonic_ns()
        if stamps.first_byte_ns is None:
            stamps.first_byte_ns = now
        intake.take(((piece, now, now),))


def failure_verdict(error: Exception, intake: _Intake) -> Verdict:
    """The class of an exception out of the transport or the reader. The class says where; the text says what."""
    text = _text_of(error)
    if isinstance(error, httpx.PoolTimeout):
        return Verdict(Outcome.CLIENT_LIMIT, text)
    if isinstance(error, httpx.TimeoutException):
        return Verdict(_timeout_stage(error, intake), text)
    if isinstance(error, httpx.ConnectError):
        return Verdict(_connect_failure(error), text)
    if isinstance(error, httpx.NetworkError):
        return Verdict(Outcome.TLS if _cause(error, ssl.SSLError) else Outcome.RESET, text)
    if isinstance(error, httpx.RemoteProtocolError):
        if "clos" not in text and "disconnect" not in text:
            return Verdict(Outcome.BAD_ANSWER, text)
        return Verdict(Outcome.TRUNCATED if intake.size else Outcome.RESET, text)
    if intake.stamps.sent_ns is None:
        return Verdict(Outcome.CLIENT_LIMIT, text)
    return Verdict(Outcome.BAD_ANSWER, text)


def _timeout_stage(error: httpx.TimeoutException, intake: _Intake) -> Outcome:
    if isinstance(error, httpx.ConnectTimeout):
        return Outcome.TIMEOUT_CONNECT
    if isinstance(error, httpx.WriteTimeout):
        return Outcome.TIMEOUT_WRITE
    stage = error.request.extensions.get("timed_out")
    if stage == "total":
        return Outcome.TIMEOUT_TOTAL
    if stage == "idle" or (stage is None and intake.size):
        return Outcome.TIMEOUT_IDLE
    return Outcome.TIMEOUT_FIRST_BYTE


def _connect_failure(error: httpx.ConnectError) -> Outcome:
    if error.request.extensions.get("client_limit"):
        return Outcome.CLIENT_LIMIT
    if _cause(error, socket.gaierror) or _cause(error, UnicodeError):
        return Outcome.DNS
    if _cause(error, ssl.SSLError):
        return Outcome.TLS
    cause = _cause(error, OSError)
    if cause is not None and cause.errno in OWN_LIMITS:
        return Outcome.CLIENT_LIMIT
    return Outcome.RESET if isinstance(cause, ConnectionResetError) else Outcome.REFUSED


def _cause(error: BaseException, kind: type[_E]) -> _E | None:
    """The first exception of `kind` among those that led to `error`, groups included."""
    for found in _chain(error, 8):
        if isinstance(found, kind):
            return found
    return None


def _chain(error: BaseException | None, depth: int) -> Iterator[BaseException]:
    if error is None or depth == 0:
        return
    yield error
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _chain(member, depth - 1)
    yield from _chain(error.__cause__ or error.__context__, depth - 1)


def _text_of(error: Exception) -> str:
    known = isinstance(error, (httpx.HTTPError, AnswerTooLong, ValueError, OSError))
    text = str(error) or type(error).__name__
    return text if known else f"unexpected {type(error).__name__}: {text}"


def _status_line(response: httpx.Response, intake: _Intake) -> str:
    status = response.status_code
    if response.has_redirect_location:
        return f"HTTP {status}: redirect to {response.headers['location']} not followed"
    return f"HTTP {status}: {message_of(bytes(intake.kept)) or response.reason_phrase or 'no message'}"


def _head(url: httpx.URL, api_key: str | None) -> list[tuple[bytes, bytes]]:
    """The headers of every request to this target. The key goes nowhere else: it is no header of the client."""
    head = [
        (b"host", url.netloc),
        (b"content-type", b"application/json"),
        (b"accept", b"text/event-stream, application/json"),
        (b"accept-encoding", b"identity"),
        (b"user-agent", b"halfweight"),
    ]
    if api_key is not None:
        head.append((b"authorization", b"Bearer " + api_key.encode()))
    return head
