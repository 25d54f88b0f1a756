"""RunPod as seen from outside: a pod behind its proxy, and a serverless endpoint with a queue and workers that start late.

Times are shortened: the proxy's 100 s are `patience_s`, a cold start of minutes is `start_s`.
"""

from __future__ import annotations

import threading
import time

from peer import Talk
from raw_server import CHUNKED, GOOD, ROLE, chunk, event
from rig import Byzantine, json_answer

ENDPOINT = "e7x9k2"
KEY = "rpa_Zq8Xw2bN0vTtK5yR"
HTML_524 = b"<!DOCTYPE html><html><head><title>runpod.net | 524: A timeout occurred</title></head><body></body></html>"
HTML_502 = b"<html><head><title>502 Bad Gateway</title></head><body>cloudflare</body></html>"
WORKER_ERROR = {
    "error": {"message": 'vLLM returned HTTP 400: {"error": ...}', "type": "worker_error", "code": None},
}


def html(status: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-type: text/html\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def recut(data: bytes, size: int = 11) -> bytes:
    """A stream as the worker passes it on: pieces have nothing to do with events."""
    return CHUNKED + b"".join(chunk(data[i : i + size]) for i in range(0, len(data), size)) + b"0\r\n\r\n"


def cut_stream(talk: Talk) -> None:
    """What a proxy does to a stream that lasts too long: it ends in the middle of an event."""
    talk.send(CHUNKED + chunk(ROLE + event("[0.1")) + chunk(event(", 0.2")[:20]))
    time.sleep(0.2)
    talk.sock.close()


class Pod(Byzantine):
    """The proxy in front of one server: `slow` requests get its 524, `down` ones its 502."""

    def __init__(self, patience_s: float = 0.5, slow: frozenset[int] = frozenset(), down: frozenset[int] = frozenset()):
        super().__init__(self.play)
        self._patience_s, self._slow, self._down = patience_s, slow, down

    def play(self, talk: Talk, number: int, request: bytes) -> None:
        if number in self._slow:
            time.sleep(self._patience_s)
            talk.send(html("524 <none>", HTML_524))
        elif number in self._down:
            talk.send(html("502 Bad Gateway", HTML_502))
        elif number % 5 == 4:
            cut_stream(talk)
        else:
            talk.send(recut(GOOD))


class Serverless(Byzantine):
    """`/v2/<id>/…`: a key is needed, workers start with the first job, /health counts them, /metrics is not passed on."""

    def __init__(self, start_s: float = 1.0, answers: dict[int, bytes] | None = None, late_worker_at: int = 0) -> None:
        super().__init__(self.play, model="Qwen/Qwen2-VL-7B-Instruct")
        self.paths: list[str] = []
        self.polls = 0
        self._start_s = start_s
        self._answers = answers or {}
        self._late_worker_at = late_worker_at
        self._asked_at: float | None = None
        self._guard = threading.Lock()
        self.workers = 0

    def _allowed(self, request: bytes) -> bool:
        return f"authorization: bearer {KEY}".lower().encode() in request.lower()

    def __call__(self, talk: Talk) -> None:
        while request := talk.request():
            head = request.partition(b"\r\n\r\n")[0]
            path = head.split(b" ", 2)[1].decode()
            with self._guard:
                self.paths.append(path)
            if not self._allowed(head):
                talk.send(json_answer({"error": "unauthorized"}, "401 Unauthorized"))
            elif path == f"/v2/{ENDPOINT}/health":
                talk.send(self._health())
            elif path == f"/v2/{ENDPOINT}/openai/v1/models":
                self._wake()
                talk.send(json_answer({"data": [{"id": self.model}]}))
            elif path == f"/v2/{ENDPOINT}/openai/v1/chat/completions":
                with self._guard:
                    self.asked += 1
                    number = self.asked
                self.play(talk, number, request)
            else:
                talk.send(json_answer({"detail": "endpoint not found"}, "404 Not Found"))

    def _wake(self) -> None:
        with self._guard:
            if self._asked_at is None:
                self._asked_at = time.monotonic()
            ready = self._asked_at + self._start_s
        time.sleep(max(0.0, ready - time.monotonic()))
        with self._guard:
            self.workers = max(1, self.workers)

    def _health(self) -> bytes:
        with self._guard:
            self.polls += 1
            starting = int(self._asked_at is not None and self.workers == 0)
            counts = {"idle": self.workers, "initializing": starting, "ready": self.workers, "running": 0}
        jobs = {"completed": 0, "failed": 0, "inProgress": 0, "inQueue": starting, "retried": 0}
        return json_answer({"jobs": jobs, "workers": counts | {"throttled": 0, "unhealthy": 0}})

    def play(self, talk: Talk, number: int, request: bytes) -> None:
        self._wake()
        if number == self._late_worker_at:
            self.workers += 1
        if number in self._answers:
            talk.send(self._answers[number])
        else:
            talk.send(recut(GOOD, 9))
