"""Everything that a server can do to one request, one fault a request, in one run of the command over real sockets.

The server is fine for the first request and then plays one fault after another. What is asserted: one record for each request that it
saw, each with its class and its sentence; the report's first screen shows the classes; memory stays bounded; nothing of what the
server sent reaches the terminal as a control character.
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from peer import Talk
from raw_server import CHUNKED, DONE, GOOD, ROLE, chunk, event, usage
from rig import FINE, at, bench, byzantine, holds, json_answer, records_of, streamed, the_run

from client.core.records import Outcome

O = Outcome  # noqa: E741  (a table is read by its columns)
LIMITS = ["--timeout", "first-byte=1", "--timeout", "idle=1", "--timeout", "total=2.5"]
HTML = b"<!DOCTYPE html><html><head><title>524: A timeout occurred</title></head><body><script>alert(1)</script></body></html>"
Play = Callable[[Talk], None]


def says(*data: bytes, close: bool = False) -> Play:
    def play(talk: Talk) -> None:
        for piece in data:
            talk.send(piece)
        if close:
            talk.sock.close()

    return play


def page(status: str, body: bytes, kind: str = "text/html", *more: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(body)}", *more]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def bytewise(talk: Talk) -> None:
    for byte in FINE:
        talk.send(bytes([byte]))


def reset(data: bytes = b"") -> Play:
    def play(talk: Talk) -> None:
        if data:
            talk.send(data)
            time.sleep(0.05)
        talk.reset()

    return play


def then_nothing(data: bytes) -> Play:
    def play(talk: Talk) -> None:
        talk.send(data)
        talk.stop.wait(4)
        talk.sock.close()

    return play


def without_end(head: bytes, piece: bytes, pause_s: float = 0.0, seconds: float = 5.0) -> Play:
    """The same piece again and again, until the client has had enough."""

    def play(talk: Talk) -> None:
        with suppress(OSError):
            talk.send(head)
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                talk.send(piece)
                if pause_s:
                    time.sleep(pause_s)
        talk.sock.close()

    return play


@dataclass(frozen=True)
class Fault:
    name: str
    play: Play
    outcome: Outcome
    words: str = ""
    status: int | None = 200


WORKER_ERROR = {"error": {"message": "vLLM returned HTTP 400: too long", "type": "worker_error", "code": None}}
SPLIT = FINE + b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
TEXT = ROLE + event("\x1b[2J\x1b]0;owned\x07<script>alert(1)</script>\u202e\x00 [0.1, 0.2, 0.3, 0.4]", finish="stop")
EVENT_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
ENDLESS_LINE = b"data: " + b"x" * 1_000_000

FAULTS = (
    Fault("fine", says(FINE), O.OK),
    Fault("byte at a time", bytewise, O.OK),
    Fault("one event in many chunks", says(streamed(*(GOOD[i : i + 7] for i in range(0, len(GOOD), 7)))), O.OK),
    Fault("not a stream", says(json_answer({"choices": [{"message": {"content": "[1]"}, "finish_reason": "stop"}]})), O.OK),
    Fault("lines end in CR LF", says(streamed(GOOD.replace(b"\n", b"\r\n"))), O.OK),
    Fault("interim answer", says(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + FINE), O.OK),
    Fault("escapes and HTML in the text", says(streamed(TEXT + b"\n\n" + DONE)), O.OK),
    Fault("events after the end", says(streamed(GOOD + event("more") + DONE)), O.OK),
    Fault("http 500", says(json_answer({"error": {"message": "CUDA error"}}, "500 Oops")), O.HTTP_ERROR, "CUDA error", 500),
    Fault("http 502 in HTML", says(page("502 Bad Gateway", HTML)), O.HTTP_ERROR, "HTML page", 502),
    Fault("http 524 in HTML", says(page("524 A Timeout", HTML)), O.HTTP_ERROR, "524: A timeout occurred", 524),
    Fault("http 429", says(json_answer({"detail": "slow down"}, "429 Too Many", "retry-after: 7")), O.HTTP_ERROR, "slow down", 429),
    Fault("http 401", says(json_answer({"error": "Unauthorized"}, "401 Unauthorized")), O.HTTP_ERROR, "Unauthorized", 401),
    Fault("http 413, unread", says(page("413 Too Large", b"", "text/plain", "connection: close"), close=True), O.HTTP_ERROR, "413", 413),
    Fault("http 204", says(b"HTTP/1.1 204 No Content\r\n\r\n"), O.HTTP_ERROR, "204", 204),
    Fault("redirect", says(page("307 Temporary", b"", "text/plain", "location: http://other.example/v1")), O.HTTP_ERROR, "redirect to http://other.example/v1 not followed", 307),
    Fault("error in the stream", says(streamed(ROLE, event("a"), b'data: {"error": {"message": "engine died"}}\n\n', DONE)), O.STREAM_ERROR, "engine died"),
    Fault("200 with worker_error", says(json_answer(WORKER_ERROR)), O.STREAM_ERROR, "vLLM returned HTTP 400"),
    Fault("IN_QUEUE", says(json_answer({"id": "x-1", "status": "IN_QUEUE"})), O.BAD_ANSWER, "not a chat completion"),
    Fault("no finish_reason", says(streamed(ROLE, event("a"))), O.TRUNCATED, "no finish_reason"),
    Fault("cut inside the body", says(CHUNKED + chunk(ROLE + event("a")), close=True), O.TRUNCATED, "closed"),
    Fault("shorter than its length", says(EVENT_STREAM + b"content-length: 9000\r\n\r\n" + ROLE, close=True), O.TRUNCATED, "closed"),
    Fault("reset inside the body", reset(CHUNKED + chunk(ROLE + event("a"))), O.RESET, "broke"),
    Fault("reset before the answer", reset(), O.RESET, "broke", None),
    Fault("closed before the answer", says(close=True), O.RESET, "before its answer", None),
    Fault("closed inside the headers", says(b"HTTP/1.1 200 OK\r\ncont", close=True), O.RESET, "inside the headers", None),
    Fault("not one token", says(streamed(event(role="assistant", content=""), event(finish="stop"), usage(completion=0), DONE)), O.EMPTY, "not one token"),
    Fault("no body", says(EVENT_STREAM + b"content-length: 0\r\n\r\n"), O.TRUNCATED, "is empty"),
    Fault("garbage", says(b"\x16\x03\x01\x00\xff\x00garbage\r\n\r\n", close=True), O.BAD_ANSWER, "proper HTTP", None),
    Fault("another protocol", says(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"), O.BAD_ANSWER, "protocol", None),
    Fault("HTML with status 200", says(page("200 OK", HTML)), O.BAD_ANSWER, "content type text/html"),
    Fault("gzip, unasked", says(page("200 OK", gzip.compress(GOOD), "text/event-stream", "content-encoding: gzip")), O.BAD_ANSWER, "content-encoding gzip"),
    Fault("events that are no JSON", says(streamed(b"data: {oops\n\n", DONE)), O.BAD_ANSWER, "oops"),
    Fault("deeply nested JSON", says(streamed(b"data: " + b"[" * 100_000 + b"\n\n", DONE)), O.BAD_ANSWER),
    Fault("not UTF-8", says(streamed(b'data: {"choices":[{"delta":{"content":"\xff\xfe"}}]}\n\n', DONE)), O.BAD_ANSWER),
    Fault("header of a megabyte", says(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 1_000_000 + b"\r\n\r\n", close=True), O.BAD_ANSWER, "", None),
    Fault("headers without end", without_end(b"HTTP/1.1 200 OK\r\n", b"x-a: b\r\n" * 500), O.BAD_ANSWER, "headers", None),
    Fault("chunk size that lies", says(CHUNKED + b"5\r\ndata: this is longer\r\n0\r\n\r\n"), O.BAD_ANSWER, "proper HTTP"),
    Fault("chunk size that is none", says(CHUNKED + b"-1\r\nx\r\n"), O.BAD_ANSWER, "proper HTTP"),
    Fault("chunk size without end", says(CHUNKED + b"f" * 40 + b"\r\n"), O.BAD_ANSWER, "proper HTTP"),
    Fault("two lengths", says(EVENT_STREAM + b"content-length: 2\r\ncontent-length: 3\r\n\r\nhi!"), O.BAD_ANSWER, "proper HTTP", None),
    Fault("two answers", says(SPLIT), O.BAD_ANSWER, "more than one answer"),
    Fault("a line without end", without_end(EVENT_STREAM + b"connection: close\r\n\r\n", ENDLESS_LINE), O.BAD_ANSWER, ""),
    Fault("a stream without end", without_end(CHUNKED, chunk(event("word ")), 0.05), O.TIMEOUT_TOTAL, "more than 2.5 s"),
    Fault("comments without end", without_end(CHUNKED, chunk(b": ping\n\n"), 0.05), O.TIMEOUT_TOTAL, "more than 2.5 s"),
    Fault("no answer", then_nothing(b""), O.TIMEOUT_FIRST_BYTE, "no byte", None),
    Fault("headers alone", then_nothing(CHUNKED), O.TIMEOUT_FIRST_BYTE, "no byte"),
    Fault("pauses for too long", then_nothing(CHUNKED + chunk(ROLE + event("a"))), O.TIMEOUT_IDLE, "paused"),
    Fault("fine again", says(FINE), O.OK),
)  # fmt: skip


def test_each_fault_leaves_one_record_of_its_class(tmp_path: Path) -> None:
    def chat(talk: Talk, number: int, request: bytes) -> None:
        if 1 < number <= len(FAULTS) + 1:
            FAULTS[number - 2].play(talk)
        else:
            talk.send(FINE)

    with byzantine(chat) as (server, url):
        done = bench(*at(url), *LIMITS, "--requests", str(len(FAULTS)), out=tmp_path, limit_s=150)
    run = the_run(tmp_path)
    records = holds(done, run)
    assert len(records) == server.asked >= len(FAULTS) + 1
    assert done.code == 4, "a run with so many failures is not to be believed"
    wrong = [
        (fault.name, str(record.outcome), record.status, record.error)
        for fault, record in zip(FAULTS, records[1:], strict=False)
        if (record.outcome, record.status) != (fault.outcome, fault.status)
        or fault.words not in (record.error or "")
        or (record.outcome is not O.OK and not record.error)
    ]
    assert wrong == []
    first_screen(done.out)


def first_screen(out: str) -> None:
    (row,) = [line for line in out.splitlines() if line.startswith("Failed requests")]
    for kind in ("bad_answer", "http_524", "http_429", "stream_error", "truncated", "empty", "reset", "timeout_total"):
        assert kind in row, row
    assert all(char.isprintable() or char == "\n" for char in out), "control characters reached the terminal"


def test_a_stored_answer_is_text_and_nothing_else(tmp_path: Path) -> None:
    """What a model says is kept as JSON, and no report lets it act."""
    with byzantine(lambda talk, number, request: talk.send(streamed(TEXT + b"\n\n" + DONE))) as (_, url):
        done = bench(*at(url), "--requests", "3", out=tmp_path)
    run = the_run(tmp_path)
    holds(done, run)
    assert all(record.text and "\x1b[2J" in record.text for record in records_of(run))
    for file in ("requests.jsonl", "report.md", "findings.json"):
        assert b"\x1b" not in (run / file).read_bytes(), file
    assert b"<script" not in (run / "report.md").read_bytes()
    assert json.loads((run / "findings.json").read_text())["targets"]["t"]["requests_ok"] == 3
