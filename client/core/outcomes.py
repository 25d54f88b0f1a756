"""How a finished answer is classed, and how foreign text becomes one short line that may be stored and shown. Pure.

Which exception of the transport means what is in `client.endpoint`; what each class means for the numbers is in docs/reliability.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import msgspec

from client.core.records import Outcome, RequestRecord

LINE_LIMIT = 200
"""Characters of a stored error."""
RETRY_WAIT_LIMIT_S = 30.0
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"',;<>]+")
_TITLE = re.compile(r"(?is)<title[^<>]{0,200}>([^<]{0,1000})")
"""Bounded: pages of a server are foreign, and `.*?` would cost the square of a page that opens a title again and again."""


class Verdict(NamedTuple):
    """An outcome and, unless it is OK, the reason in one line."""

    outcome: Outcome
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What is left of an HTTP 200 answer that came to its end. `error` is the server's, or the reader's when `unreadable`."""

    content_type: str | None
    content_encoding: str | None
    error: str | None
    unreadable: bool
    finish_reason: str | None
    has_token: bool
    chunks: int
    beginning: bytes = b""


def answer_verdict(answer: Answer) -> Verdict:
    """The class of an answer with status 200. The text of the answer is not judged."""
    kind = (answer.content_type or "").partition(";")[0].strip().lower()
    if answer.content_encoding not in (None, "", "identity"):
        return Verdict(Outcome.BAD_ANSWER, f"content-encoding {answer.content_encoding}, though none was asked for")
    if answer.error is not None and not answer.unreadable:
        return Verdict(Outcome.STREAM_ERROR, answer.error)
    if kind not in ("", "text/event-stream", "application/json"):
        return Verdict(Outcome.BAD_ANSWER, f"content type {kind}: {message_of(answer.beginning)}")
    if answer.unreadable:
        return Verdict(Outcome.BAD_ANSWER, f"{answer.error}: {message_of(answer.beginning)}")
    if answer.finish_reason is None:
        if answer.chunks == 0 and answer.beginning.strip():
            return Verdict(Outcome.BAD_ANSWER, f"not a chat completion: {message_of(answer.beginning)}")
        after = f"after {answer.chunks} chunks" if answer.chunks else "and is empty"
        return Verdict(Outcome.TRUNCATED, f"the answer has no finish_reason {after}")
    if not answer.has_token:
        return Verdict(Outcome.EMPTY, f"not one token (finish_reason {answer.finish_reason})")
    return Verdict(Outcome.OK)


def message_of(body: bytes) -> str:
    """The human part of an error body: `error.message`, `error`, `detail` or `message` of JSON, the title of HTML, else its beginning."""
    text = body.decode("utf-8", "replace")
    try:
        parsed = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        title = _TITLE.search(text)
        return f"HTML page: {title.group(1)}" if title else text[: 4 * LINE_LIMIT]
    return _message(parsed) or text[: 4 * LINE_LIMIT]


def _message(parsed: Any) -> str | None:
    if isinstance(parsed, str):
        return parsed
    if isinstance(parsed, dict):
        for key in ("error", "message", "detail"):
            found = _message(parsed.get(key))
            if found:
                return found
    return None


def one_line(text: str, secrets: tuple[str, ...] = ()) -> str:
    """At most 200 printable characters: secrets and credentials masked, control and format characters out, spaces joined."""
    for secret in secrets:
        text = text.replace(secret, "***")
    text = _BEARER.sub(r"\1 ***", text[: 16 * LINE_LIMIT])
    printable = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(printable.split())
    return line if len(line) <= LINE_LIMIT else line[: LINE_LIMIT - 1] + "…"


def safe_to_retry(record: RequestRecord) -> bool:
    """Whether the server certainly did no work for this request: no connection was made, or it declined at the door."""
    if record.outcome is Outcome.HTTP_ERROR:
        return record.status in (429, 503)
    return record.sent_ns is None and record.outcome in (Outcome.REFUSED, Outcome.DNS, Outcome.TIMEOUT_CONNECT)


def retry_wait_s(record: RequestRecord) -> float:
    """Before the next try: what the server asked for, else 0.5 s doubled with each try; 30 s at most."""
    asked = record.retry_after_s
    return min(RETRY_WAIT_LIMIT_S, 0.5 * 2.0**record.attempt if asked is None else asked)


def retry_after_s(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds of a Retry-After header (RFC 9110 §10.2.3: a number or a date); None when there is none that can be read."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())
