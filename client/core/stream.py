"""Chat streams: events -> what was said, and a mark for each token.

A token chunk is one with a choice 0 that is not the role-only first chunk. Its text may be empty: special tokens are stripped by
the server, and half a character is held back. Both the first token and the first text are marked.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from client.core.sse import LINE_LIMIT, LineTooLong, SseReader

__all__ = ["ChatStream", "LineTooLong", "SseReader"]


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Delta(msgspec.Struct):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[object] | None = None

    @property
    def says_nothing(self) -> bool:
        return not (self.content or self.reasoning_content or self.reasoning or self.tool_calls)

    @property
    def is_bare(self) -> bool:
        """No field at all: the closing chunk of servers that put no token into it."""
        return (
            self.content is None and self.reasoning_content is None and self.reasoning is None and not self.tool_calls
        )


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _TokenChoice(_Choice):
    logprobs: object = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: object = None
    kind: str | None = msgspec.field(default=None, name="object")
    message: str | None = None
    detail: object = None


class _TokenChunk(_Chunk):
    choices: list[_TokenChoice] | None = None  # type: ignore[assignment]  # a list is read, never written to


_decode = msgspec.json.Decoder(_Chunk).decode
_decode_tokens = msgspec.json.Decoder(_TokenChunk).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
CHUNK_LIMIT = 1 << 18
"""Token chunks of one answer, and TEXT_LIMIT its characters: a record of more could not be read back as one line (`client.rundir`)."""
TEXT_LIMIT = 1 << 20


def _is_whole(event: bytes) -> bool:
    """Whether the last event of an ended stream is one, or was cut."""
    if event == b"[DONE]":
        return True
    try:
        _decode(event)
    except _UNREADABLE:
        return False
    return True


class ChatStream:
    """What one chat answer said and when. Fed with the body as it comes; all times are the `recv_ns` of the bytes, None before.

    A proper end has a `finish_reason`; `[DONE]` alone (`ended`) proves nothing, since a server also sends it after an error.
    `error` is one line: the server's error object, or, when `bad`, what is wrong with the answer itself. A plain JSON answer
    (not a stream) has no first token: its `last_token_ns` is when its last byte came.
    """

    __slots__ = (
        "_asks_tokens",
        "_decode",
        "_kind",
        "_limit",
        "_reader",
        "_text_size",
        "_texts",
        "_whole",
        "_whole_bytes",
        "answer_bytes",
        "bad",
        "cached_tokens",
        "chunk_ns",
        "completion_tokens",
        "ended",
        "error",
        "finish_reason",
        "first_text_ns",
        "first_token_ns",
        "last_token_ns",
        "logprobs",
        "prompt_tokens",
        "role_ns",
    )

    def __init__(self, limit: int = LINE_LIMIT, *, logprobs: bool = False) -> None:
        self._limit = limit
        self._reader = SseReader(limit)
        self._decode = _decode_tokens if logprobs else _decode
        self._asks_tokens = logprobs
        self.logprobs: list[object] = []
        """Entries of `logprobs.content` of all chunks as the server gave them; looked for only when asked to."""
        self._kind = ""
        self._whole: list[bytes] = []
        self._whole_bytes = 0
        self._texts: list[str] = []
        self._text_size = 0
        self.answer_bytes = 0
        self.role_ns: int | None = None
        self.first_token_ns: int | None = None
        self.first_text_ns: int | None = None
        self.last_token_ns: int | None = None
        self.chunk_ns: list[int] = []
        self.finish_reason: str | None = None
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.error: str | None = None
        self.bad = False
        self.ended = False

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def feed(self, data: bytes, recv_ns: int) -> None:
        """Take a piece of the body that the kernel received at `recv_ns`. Never raises; after `bad` it only counts bytes."""
        self.feed_all(((data, recv_ns, recv_ns),))

    def feed_all(self, pieces: Iterable[tuple[bytes, int, int]]) -> None:
        """The same for several in their order, (data, recv_ns, loop_ns) each."""
        reader = self._reader
        for data, recv_ns, _ in pieces:
            size = len(data)
            self.answer_bytes += size
            if self.bad:
                continue
            if (
                not reader.inside
                and data[:6] == b"data: "
                and data[-2:] == b"\n\n"
                and data.find(b"\n") == size - 2
                and 8 < size <= self._limit
                and b"\r" not in data
            ):  # one event on one line, as nearly every piece is
                self._event(data[6:-2], recv_ns)
            else:
                self._piece(data, recv_ns)

    def _piece(self, data: bytes, recv_ns: int) -> None:
        if self._kind != "sse" and not self._is_stream(data, recv_ns):
            return
        try:
            for event in self._reader.feed(data):
                if not self.bad:
                    self._event(event, recv_ns)
        except LineTooLong as error:
            self._spoil(str(error))

    def close(self, recv_ns: int | None = None) -> None:
        """The body has ended. `recv_ns` of its last piece is only needed when the last event may lack its blank line."""
        if self.bad:
            return
        if self._kind == "json":
            self._answer(b"".join(self._whole))
        elif self._kind == "sse":
            for event in self._reader.close():
                if recv_ns is not None and _is_whole(event):
                    self._event(event, recv_ns)
            if self.role_ns is None and self.last_token_ns is None and self.error is None and not self.ended:
                self._spoil("the answer is neither a stream of events nor JSON")
        self._whole.clear()

    def _is_stream(self, data: bytes, recv_ns: int) -> bool:
        """Tell by the first byte that is no blank: `{` opens JSON, which is kept whole; anything else is left to the reader."""
        if not self._kind:
            first = data.lstrip(b" \t\r\n")[:1]
            if not first:
                return True
            self._kind = "json" if first in b"{[" else "sse"
        if self._kind == "sse":
            return True
        self._whole.append(data)
        self._whole_bytes += len(data)
        self.last_token_ns = recv_ns
        if self._whole_bytes > LINE_LIMIT:
            self._whole.clear()
            self._spoil(f"a JSON answer is longer than {LINE_LIMIT} bytes")
        return False

    def _event(self, event: bytes, recv_ns: int) -> None:
        if event == b"[DONE]":
            self.ended = True
            return
        try:
            chunk = self._decode(event)
        except _UNREADABLE as error:
            self._spoil(f"an event is not a chat chunk: {error}")
            return
        if self.first_text_ns is not None and self._goes_on(chunk, recv_ns):
            return
        choices = chunk.choices
        counted = None if chunk.usage is None else self._usage(chunk.usage)
        if chunk.error is not None or not choices:
            self._error(chunk)
        else:
            for choice in choices:
                if choice.index == 0:
                    self._choice(choice, recv_ns, counted)

    def _goes_on(self, chunk: _Chunk, recv_ns: int) -> bool:
        """Take a chunk that brings more text and nothing else, as nearly all do, the short way; False leaves it as it is."""
        choices = chunk.choices
        if not choices or len(choices) > 1 or chunk.usage is not None or chunk.error is not None or self._asks_tokens:
            return False
        choice = choices[0]
        content = choice.delta.content if choice.delta is not None else None
        if not content or choice.index != 0 or choice.finish_reason is not None:
            return False
        size = self._text_size + len(content)
        if size > TEXT_LIMIT or len(self.chunk_ns) >= CHUNK_LIMIT:
            return False
        self.last_token_ns = recv_ns
        self.chunk_ns.append(recv_ns)
        self._texts.append(content)
        self._text_size = size
        return True

    def _choice(self, choice: _Choice, recv_ns: int, counted: int | None) -> None:
        """`counted` is by how many tokens a running usage rose with this chunk: the server's own word; None without it."""
        delta = choice.delta
        if choice.finish_reason is not None:
            self.finish_reason = choice.finish_reason
        if self._asks_tokens:
            self._keep_logprobs(choice)
        if delta is None:
            return
        content = delta.content
        if not content and not self._is_token(choice, delta, recv_ns, counted):
            return
        if delta.role is not None and self.role_ns is None and self.first_token_ns is None:
            self.role_ns = recv_ns
        if self.first_token_ns is None:
            self.first_token_ns = recv_ns
        self.last_token_ns = recv_ns
        self.chunk_ns.append(recv_ns)
        if content:
            if self.first_text_ns is None:
                self.first_text_ns = recv_ns
            self._keep(content)
        if len(self.chunk_ns) > CHUNK_LIMIT:
            self._spoil(f"the answer has more than {CHUNK_LIMIT:,} token chunks")

    def _keep_logprobs(self, choice: _Choice) -> None:
        given = choice.logprobs if isinstance(choice, _TokenChoice) else None
        content = given.get("content") if isinstance(given, dict) else None
        if isinstance(content, list):
            self.logprobs.extend(content)

    def _is_token(self, choice: _Choice, delta: _Delta, recv_ns: int, counted: int | None) -> bool:
        """Whether a chunk without text carries a token. The role-only first chunk does not: its stamp is kept here."""
        if delta.role is not None and self.role_ns is None and self.first_token_ns is None:
            self.role_ns = recv_ns
            if delta.says_nothing and choice.finish_reason is None and not counted:
                return False
        if counted is not None:
            return counted > 0 or not delta.says_nothing
        return not delta.is_bare

    def _usage(self, usage: _Usage) -> int | None:
        """By how many output tokens the count rose; None when it is not given."""
        if usage.prompt_tokens is not None:
            self.prompt_tokens = usage.prompt_tokens
        details = usage.prompt_tokens_details
        if details is not None and details.cached_tokens is not None:
            self.cached_tokens = details.cached_tokens
        if usage.completion_tokens is None:
            return None
        before, self.completion_tokens = self.completion_tokens or 0, usage.completion_tokens
        return usage.completion_tokens - before

    def _answer(self, body: bytes) -> None:
        """A whole JSON answer: a chat.completion, or an error."""
        try:
            answer = self._decode(body)
        except _UNREADABLE as error:
            self.last_token_ns = None
            self._spoil(f"the answer is not chat JSON: {error}")
            return
        if answer.usage is not None:
            self._usage(answer.usage)
        first = next((choice for choice in answer.choices or () if choice.index == 0), None)
        if first is None or first.message is None:
            self.last_token_ns = None
            self._error(answer)
            return
        self.ended = True
        self._keep_logprobs(first)
        self.finish_reason = first.finish_reason
        if first.message.content:
            self._keep(first.message.content)
        elif self.completion_tokens == 0:
            self.last_token_ns = None

    def _error(self, chunk: _Chunk) -> None:
        """An error object in any of the shapes that servers use; anything else without choices is no error and no news."""
        found: object = None
        if chunk.error is not None:
            found = chunk.error.get("message") or chunk.error if isinstance(chunk.error, dict) else chunk.error
        elif chunk.kind == "error":
            found = chunk.message or "the server gave an error without a message"
        elif chunk.detail is not None:
            found = chunk.detail
        if found is not None and self.error is None:
            self.error = " ".join(str(found).split())[:500]

    def _keep(self, content: str) -> None:
        room = TEXT_LIMIT - self._text_size
        self._texts.append(content[:room])
        self._text_size += len(content)
        if self._text_size > TEXT_LIMIT:
            self._spoil(f"the answer has more than {TEXT_LIMIT:,} characters of text")

    def _spoil(self, why: str) -> None:
        self.bad = True
        if self.error is None:
            self.error = why
