"""Classes of finished answers, and foreign text made fit to be stored."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.core.outcomes import LINE_LIMIT, Answer, answer_verdict, message_of, one_line, retry_after_s
from client.core.records import Outcome

KEY = "rpa_SECRET-KEY.0123456789"
NOW = datetime(2026, 11, 25, 2, 30, tzinfo=UTC)


def answer(**changes: object) -> Answer:
    good = {
        "content_type": "text/event-stream; charset=utf-8",
        "content_encoding": None,
        "error": None,
        "unreadable": False,
        "finish_reason": "stop",
        "has_token": True,
        "chunks": 3,
        "beginning": b"data: {}",
    }
    return Answer(**(good | changes))  # type: ignore[arg-type]  # of the types above


def test_only_a_whole_answer_is_a_success() -> None:
    assert answer_verdict(answer()) == (Outcome.OK, None)


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"error": "engine died"}, Outcome.STREAM_ERROR),
        ({"error": "engine died", "finish_reason": None, "chunks": 0}, Outcome.STREAM_ERROR),
        ({"error": "an event is not a chat chunk", "unreadable": True}, Outcome.BAD_ANSWER),
        ({"finish_reason": None}, Outcome.TRUNCATED),
        ({"finish_reason": None, "chunks": 0, "beginning": b""}, Outcome.TRUNCATED),
        ({"finish_reason": None, "chunks": 0, "beginning": b'{"status":"IN_QUEUE"}'}, Outcome.BAD_ANSWER),
        ({"has_token": False, "chunks": 0}, Outcome.EMPTY),
        ({"content_type": "text/html"}, Outcome.BAD_ANSWER),
        ({"content_type": "application/json"}, Outcome.OK),
        ({"content_type": None}, Outcome.OK),
        ({"content_type": " Text/Event-Stream "}, Outcome.OK),
        ({"content_encoding": "gzip"}, Outcome.BAD_ANSWER),
        ({"content_encoding": "identity"}, Outcome.OK),
    ],
)
def test_what_is_missing_decides_the_class(changes: dict[str, object], outcome: Outcome) -> None:
    assert answer_verdict(answer(**changes)).outcome is outcome


def test_every_class_but_ok_says_why() -> None:
    for error, unreadable, finish, token, chunks in product(
        (None, "x"), (False, True), (None, "stop"), (False, True), (0, 2)
    ):
        verdict = answer_verdict(
            answer(error=error, unreadable=unreadable, finish_reason=finish, has_token=token, chunks=chunks)
        )
        assert (verdict.outcome is Outcome.OK) == (verdict.error is None)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"no such model","code":404}}', "no such model"),
        (b'{"error":"Unauthorized"}', "Unauthorized"),
        (b'{"detail":"Not Found"}', "Not Found"),
        (b'{"object":"error","message":"m"}', "m"),
        (b'{"error":{"error":{"message":"deep"}}}', "deep"),
        (b'{"error":{"code":5}}', '{"error":{"code":5}}'),
        (b"[1, 2]", "[1, 2]"),
        (b"<html><head><TITLE >502: bad</title></head>", "HTML page: 502: bad"),
        (b"plain words", "plain words"),
        (b"", ""),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b'{"error":"\xff"}', '{"error":"\ufffd"}'),
    ],
)
def test_the_human_part_of_an_error_is_found(body: bytes, message: str) -> None:
    assert message_of(body) == message


@given(body=st.binary(max_size=300))
def test_no_body_breaks_the_reader_of_messages(body: bytes) -> None:
    message_of(body)


def test_a_body_of_brackets_does_not_end_the_process() -> None:
    assert message_of(b"[" * 65_536).startswith("[[")
    assert message_of(b'{"error":' * 7_000).startswith('{"error":')


@pytest.mark.parametrize(
    "piece", [b"<title>", b"<title ", b"<title", b"<TITLE><", b"</title>", b"Bearer ", b"a ", b"\x1b"]
)
def test_no_page_costs_more_than_its_length(piece: bytes) -> None:
    """Eight megabytes of a page that opens a title again and again: with `.*?` it was hours."""
    started = time.process_time()
    assert len(one_line(message_of(piece * ((8 << 20) // len(piece))))) <= LINE_LIMIT
    assert time.process_time() - started < 2


@given(text=st.text(max_size=2_000))
def test_a_line_is_one_printable_line(text: str) -> None:
    line = one_line(text)
    assert len(line) <= LINE_LIMIT
    assert all(c.isprintable() for c in line)
    assert line == " ".join(line.split())


@given(before=st.text(max_size=300), after=st.text(max_size=300))
def test_a_secret_never_stays(before: str, after: str) -> None:
    assert KEY not in one_line(before + KEY + after, (KEY,))
    assert KEY not in one_line(f"{before} Authorization: Bearer {KEY} {after}")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\r\n\tb", "a b"),
        ("\x1b[31mred\x1b[0m", "[31mred [0m"),
        ("a\u202eb\u200bc\u2028d", "a b c d"),
        ("Basic dXNlcjpwYXNz", "Basic ***"),
        ("x" * 300, "x" * 199 + "…"),
    ],
)
def test_foreign_signs_are_taken_out(text: str, line: str) -> None:
    assert one_line(text) == line


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Wed, 25 Nov 2026 02:30:20 GMT", 20.0),
        ("Wed, 25 Nov 2026 02:29:20 GMT", 0.0),
        ("-3", None),
        ("soon", None),
        ("1e9", None),
        ("9" * 400, None),
        ("٣", None),
        ("Wed, 99 Nov 2026 99:99:99 GMT", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, NOW) == seconds
