"""A server that is fine until its Nth chat request, the command as a user runs it, and what must hold whatever happened."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peer import Peer, Talk, peer
from raw_server import CHUNKED, GOOD, chunk

from client.core.analysis import analyse
from client.core.findings import Findings
from client.core.measured import measured_in
from client.core.records import RequestRecord
from client.rundir import read_lines, read_run

ROOT = Path(__file__).parents[2]
RSS_LIMIT_MIB = 600
"""A run of this size with its analysis takes about 200: a reader that keeps what it is sent passes this soon."""
SMALL = ("--warmup", "0", "--image-size", "64x64", "--sidecar", "none")
Chat = Callable[[Talk, int, bytes], None]


def json_answer(value: object, status: str = "200 OK", *more: str) -> bytes:
    body = json.dumps(value).encode()
    head = [f"HTTP/1.1 {status}", "content-type: application/json", f"content-length: {len(body)}", *more]
    return ("\r\n".join(head) + "\r\n\r\n").encode() + body


def streamed(*events: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return CHUNKED + b"".join(chunk(event) for event in events) + end


FINE = streamed(GOOD)


class Byzantine:
    """Answers what the preflight asks; `chat` plays each chat request by its number, from 1."""

    def __init__(self, chat: Chat, model: str = "m") -> None:
        self.chat = chat
        self.model = model
        self.heads: list[bytes] = []
        self.asked = 0
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def __call__(self, talk: Talk) -> None:
        while request := talk.request():
            head = request.partition(b"\r\n\r\n")[0]
            with self._lock:
                self.heads.append(head)
            if not head.startswith(b"POST "):
                talk.send(self.page(head.split(b" ", 2)[1].decode()))
                continue
            with self._lock:
                number = next(self._numbers)
                self.asked = number
            self.chat(talk, number, request)

    def page(self, path: str) -> bytes:
        if path.endswith("/v1/models"):
            return json_answer({"data": [{"id": self.model, "max_model_len": 4096}]})
        if path.endswith("/health"):
            return b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
        return json_answer({"detail": "Not Found"}, "404 Not Found")


def fine(talk: Talk, number: int, request: bytes) -> None:
    talk.send(FINE)


@contextmanager
def byzantine(
    chat: Chat, *, context: ssl.SSLContext | None = None, family: socket.AddressFamily = socket.AF_INET
) -> Iterator[tuple[Byzantine, str]]:
    """The server and its base URL."""
    played = Byzantine(chat)
    with peer(played, context=context, family=family) as server:
        yield played, base_of(server)


def base_of(server: Peer) -> str:
    return server.url.removesuffix("/v1/chat/completions")


@dataclass
class Done:
    code: int
    out: str
    err: str
    seconds: float
    rss_mib: float

    @property
    def all(self) -> str:
        return self.out + self.err

    @property
    def line(self) -> str:
        """The one line that says why it ended."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("halfweight:")]
        return line


@dataclass
class Bench:
    """`python -m client.bench`, running."""

    process: subprocess.Popen[str]
    out: Path
    started: float
    files: list[Any] = field(default_factory=list)

    @property
    def run(self) -> Path:
        (found,) = self.out.iterdir()
        return found

    def lines(self) -> int:
        return sum(file.read_bytes().count(b"\n") for file in self.out.glob("*/requests*.jsonl"))

    def wait_for_lines(self, count: int, limit_s: float = 60) -> None:
        deadline = time.monotonic() + limit_s
        while self.lines() < count:
            assert self.process.poll() is None, self.end()
            assert time.monotonic() < deadline, f"{self.lines()} records after {limit_s} s"
            time.sleep(0.01)

    def said(self) -> str:
        """Its standard error so far; the process's own place in the file is left alone."""
        return os.pread(self.files[1].fileno(), 1 << 20, 0).decode(errors="replace")

    def end(self, limit_s: float = 90) -> Done:
        """Waits for the process, no longer than `limit_s` from now; its memory peak comes with its exit status."""
        deadline = time.monotonic() + limit_s
        while True:
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                self.process.send_signal(signal.SIGABRT)
                os.wait4(self.process.pid, 0)
                raise AssertionError(f"still running after {limit_s} s: {self._read(1)[-2000:]}")
            time.sleep(0.02)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        out, err = self._read(0), self._read(1)
        return Done(self.process.returncode, out, err, time.monotonic() - self.started, usage.ru_maxrss / 1024)

    def _read(self, number: int) -> str:
        self.files[number].seek(0)
        text: str = self.files[number].read()
        return text


def start(*argv: str, out: Path, env: dict[str, str] | None = None, before: tuple[str, ...] = ()) -> Bench:
    """`before` is put in front of the command, `prlimit …` say."""
    # Files, not pipes: nobody has to read while the process runs. They end with the test.
    files = [tempfile.TemporaryFile("w+", errors="replace") for _ in range(2)]  # noqa: SIM115
    process = subprocess.Popen(
        [*before, sys.executable, "-m", "client.bench", "--out", str(out), *argv],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=files[0], stderr=files[1], text=True,
        env={**os.environ, **(env or {})}, process_group=0,
    )  # fmt: skip
    return Bench(process, out, time.monotonic(), files)


def bench(
    *argv: str, out: Path, env: dict[str, str] | None = None, limit_s: float = 90, before: tuple[str, ...] = ()
) -> Done:
    return start(*argv, out=out, env=env, before=before).end(limit_s)


def at(url: str, name: str = "t") -> list[str]:
    return ["--target", name, "--url", f"{name}={url}", *SMALL]


def the_run(out: Path) -> Path:
    (found,) = out.iterdir()
    return found


def records_of(run: Path) -> list[RequestRecord]:
    found: list[RequestRecord] = []
    for file in sorted(run.glob("requests*.jsonl")):
        found += read_lines(file, RequestRecord)[0]
    return found


def classes(run: Path) -> dict[str, int]:
    return dict(Counter(str(record.outcome) for record in records_of(run)))


def holds(done: Done, run: Path) -> list[RequestRecord]:
    """What must hold after any fault: no traceback, bounded memory, a readable run directory, no request counted twice."""
    assert "Traceback" not in done.all, done.all
    assert done.rss_mib < RSS_LIMIT_MIB, done.rss_mib
    read_run(run)
    records = records_of(run)
    places = Counter((r.target, r.phase, r.index, r.attempt) for r in records)
    assert max(places.values(), default=1) == 1, places.most_common(3)
    return records


def analysed(run: Path) -> Findings:
    """What any report of that run would say, made again from its files."""
    evidence = read_run(run)
    return analyse(evidence, measured_in(evidence))


def reported(run: Path) -> subprocess.CompletedProcess[str]:
    """The reports of that run, made again from its files."""
    return subprocess.run(
        [sys.executable, "-m", "client.report", str(run)], cwd=ROOT, capture_output=True, text=True, timeout=90
    )
