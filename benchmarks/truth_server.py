"""Builds, starts and asks the truth server (`truth/server.c`)."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent / "truth"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server did for one request, ns of CLOCK_MONOTONIC."""

    first_read_ns: int
    body_done_ns: int
    first_token_ns: int
    last_token_ns: int
    body_bytes: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Truth:
    """A running server."""

    url: str
    port: int

    def take_log(self) -> list[Answer]:
        """All answers since the last call."""
        rows = csv.DictReader(io.StringIO(self._get("/truth/log")))
        return [Answer(**{name: int(value) for name, value in row.items()}) for row in rows]

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            text: str = answer.read().decode()
            return text


def build(name: str, cache: Path) -> Path:
    """The compiled program; compiled anew when its source changed. Needs a C compiler."""
    source = SOURCES / f"{name}.c"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    program = cache / f"{name}-{digest}"
    if not program.exists():
        compiler = next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
        if compiler is None:
            sys.exit("benchmarks: no C compiler was found. Debian/Ubuntu: apt-get install gcc")
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = program.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, "-O2", "-Wall", "-o", unfinished, source], check=True)
        unfinished.rename(program)
    return program


@contextlib.contextmanager
def serving(program: Path, mode: str, cpu: int | None) -> Iterator[Truth]:
    """A truth server in `burst`, `paced` or `tick` mode, on CPU number `cpu`."""
    process = subprocess.Popen(pinned([str(program), mode], cpu), stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        port = json.loads(process.stdout.readline())["port"]
        yield Truth(f"http://127.0.0.1:{port}", port)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def pinned(command: list[str], cpu: int | None) -> list[str]:
    return command if cpu is None else ["taskset", "-c", str(cpu), *command]
