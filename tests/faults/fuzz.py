"""Coverage-guided fuzzing of everything that reads foreign bytes, in the standard library alone.

    python tests/faults/fuzz.py [--seconds 60] [--grow] [READER …]

An input that reaches a line of `client/` from a line it was never reached from is kept for this session and changed further; with `--grow`
it joins the seeds of `tests/faults/seeds/<reader>/`, which `test_fuzz.py` replays on each run. What breaks a reader is written to
`crash-<reader>` in the working directory: mend the reader, and keep the file as a seed.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)] if str(ROOT) not in sys.path else []

from client.core import counters, facts, greeting, runpod, sidecar  # noqa: E402
from client.core.boxes import written_boxes  # noqa: E402
from client.core.outcomes import message_of, one_line  # noqa: E402
from client.core.records import ServerSnapshot  # noqa: E402
from client.core.stream import ChatStream  # noqa: E402
from client.errors import HalfweightError  # noqa: E402
from client.rundir import read_run  # noqa: E402

SEEDS = Path(__file__).parent / "seeds"
LONGEST = 4096
"""Bytes of a kept input: seeds are read by people, too."""
SLOW_S = 2.0
"""No reader may take so long for one small input, tracing included."""
FILES = ("manifest.json", "requests.jsonl", "phases.jsonl", "health.jsonl", "images.jsonl", "servers/bf16/server.json", "gpu-0.json", "gpu-0.jsonl")  # fmt: skip
WORDS = {
    "stream": [b"data: ", b"data:", b"\n\n", b"\r\n", b"\r", b"[DONE]", b'"choices":[', b'"delta":{', b'"content":"', b'"finish_reason":"stop"', b'"usage":{"completion_tokens":', b'"error":', b"event: x\n", b": ping\n", b"\xef\xbb\xbf"],
    "answer": [b"[", b"]", b"(", b"),(", b"0.5", b"1000", b"<|box_start|>", b"<|box_end|>", b'"bbox_2d"', b"x_min", b"y_max:", b"-", b"e9", b".", b"```json", b"to", b","],
    "log": [b"INFO ", b"(EngineCore pid=1) ", b"Model loading took ", b" GiB", b"non-default args: {", b"GPU KV cache size: ", b" tokens", b"\x1b[36m", b"ERROR ", b"Traceback", b"'api_key': '", b"Available KV cache memory: ", b"|", b'{"levelname":"INFO","message":"'],
    "page": [b"# TYPE ", b"vllm:prefix_cache_hits_total", b"{", b"}", b'model_name="m"', b"1.0", b"NaN", b"+Inf", b"_created", b"\\", b" # {}", b"1e999", b"\n"],
    "first": [b'{"data":[{"id":"', b'"max_model_len":', b'{"version":"', b'"workers":{"ready":', b"<title>", b"</title>", b'{"error":{"message":"', b'"detail":'],
    "run": [b'{"target":"', b'"chunk_ns":[', b'"outcome":"ok"', b"null", b"-1", b"9223372036854775808", b"1e400", b"[[", b"\\ud800", b"\n", b"true", b'"plan":{', b'"bf16"'],
}  # fmt: skip


def stream(data: bytes) -> None:
    """Whole or in small pieces: the same text, the same number of marks, the same end."""
    seen = []
    for size in (len(data) or 1, 1 if len(data) < 300 else 29, 7 if len(data) < 300 else 173):
        chat = ChatStream()
        for at in range(0, len(data), size):
            chat.feed(data[at : at + size], at + 1)
        chat.close(len(data))
        seen.append((chat.text, len(chat.chunk_ns), chat.finish_reason, chat.bad, chat.completion_tokens))
    assert seen[0] == seen[1] == seen[2], seen


def answer(data: bytes) -> None:
    text = data.decode(errors="replace")
    for complete in (True, False):
        for box in written_boxes(text, complete=complete):
            assert len(box) == 4


def log(data: bytes) -> None:
    facts.read_log(data.decode(errors="replace"))


def page(data: bytes) -> None:
    text = data.decode(errors="replace")
    half = len(text) // 2
    pages = [ServerSnapshot(target="t", mono_ns=n, wall_ns=n, text=part) for n, part in enumerate((text[:half], text))]
    counters.difference(*pages)
    facts.read_cache_config(text)
    greeting.birth_marks(pages[1])


def first(data: bytes) -> None:
    greeting.read_models(data)
    greeting.read_version(data)
    runpod.read_workers(data, 0)
    sidecar.read_lines(data)
    assert one_line(message_of(data)).isprintable()


_home = tempfile.TemporaryDirectory()


def run(data: bytes) -> None:
    """The first byte says which file of a real run directory the rest takes the place of."""
    place = Path(_home.name) / "run"
    if not place.exists():
        shutil.copytree(
            ROOT / "docs/results/h100/repeated", place, ignore=shutil.ignore_patterns("charts", "*.md", "*.html")
        )
        for file in place.rglob("*.jsonl"):
            file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:3]))
    file = place / FILES[(data[0] if data else 0) % len(FILES)]
    before = file.read_bytes()
    try:
        file.write_bytes(data[1:])
        with suppress(HalfweightError):
            read_run(place)
    finally:
        file.write_bytes(before)


READERS: dict[str, Callable[[bytes], None]] = {
    "stream": stream, "answer": answer, "log": log, "page": page, "first": first, "run": run,
}  # fmt: skip


def seeds_of(name: str) -> list[bytes]:
    return [file.read_bytes() for file in sorted((SEEDS / name).glob("*"))]


class Coverage:
    """The pairs of lines, one after the other, that `client/` was seen to go through."""

    def __init__(self) -> None:
        self.seen: set[tuple[int, int, int]] = set()

    def new(self, reader: Callable[[bytes], None], data: bytes) -> bool:
        """Whether this input goes a way that none before it went. Passes on what the reader raises."""
        found: set[tuple[int, int, int]] = set()

        def enter(frame: FrameType, event: str, arg: Any) -> Any:
            if "/client/" not in frame.f_code.co_filename:
                return None
            last = 0
            code = hash(frame.f_code.co_qualname)

            def step(frame: FrameType, event: str, arg: Any) -> Any:
                nonlocal last
                found.add((code, last, frame.f_lineno))
                last = frame.f_lineno
                return step

            return step

        before = sys.gettrace()
        sys.settrace(enter)
        try:
            reader(data)
        finally:
            sys.settrace(before)
        fresh = not found <= self.seen
        self.seen |= found
        return fresh


def changed(data: bytes, others: list[bytes], words: list[bytes], dice: random.Random) -> bytes:
    """One to four small changes: a bit, a byte, a word of the format, a piece cut out, doubled, repeated, or taken from another input."""
    out = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randint(0, len(out))
        to = min(len(out), at + dice.choice((1, 2, 4, 16, 64)))
        kind = dice.randrange(7)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << dice.randrange(8)
        elif kind == 1:
            out[at:at] = bytes([dice.randrange(256)])
        elif kind == 2:
            out[at:to] = dice.choice(words)
        elif kind == 3:
            out[at:at] = dice.choice(words)
        elif kind == 4:
            del out[at:to]
        elif kind == 5:
            out[at:at] = bytes(out[at:to]) * dice.choice((1, 3, 20))
        else:
            other = dice.choice(others)
            start = dice.randint(0, len(other))
            out[at:] = other[start : start + LONGEST]
    return bytes(out[:LONGEST])


def fuzz(name: str, seconds: float, seed: int, grow: bool = False) -> tuple[int, int]:
    """Inputs tried, and how many of them went a new way. Raises what a reader raises, with the input written down."""
    reader, dice, coverage = READERS[name], random.Random(seed), Coverage()
    pool = seeds_of(name) or [b""]
    for data in pool:
        coverage.new(reader, data)
    tried = fresh = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        data = changed(dice.choice(pool), pool, WORDS[name], dice)
        tried += 1
        started = time.process_time()
        try:
            new = coverage.new(reader, data)
            assert time.process_time() - started < SLOW_S, f"{name}: slow"
        except Exception:
            Path(f"crash-{name}").write_bytes(data)
            raise
        if new:
            fresh += 1
            pool.append(data)
            if grow:
                (SEEDS / name).mkdir(parents=True, exist_ok=True)
                (SEEDS / name / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)
    return tried, fresh


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("readers", nargs="*", default=[], choices=[*READERS, []], metavar="READER")
    asked.add_argument("--seconds", type=float, default=60.0, help="for each reader")
    asked.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    asked.add_argument("--grow", action="store_true", help="keep what goes a new way as a seed")
    arguments = asked.parse_args()
    for name in arguments.readers or READERS:
        tried, fresh = fuzz(name, arguments.seconds, arguments.seed, arguments.grow)
        print(f"{name}: {tried} inputs, {fresh} went a new way (seed {arguments.seed})", flush=True)


if __name__ == "__main__":
    main()
