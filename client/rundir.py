"""The only writer and the only reader of run directories.

A line is one write call on a file opened for appending, so that a kill -9 at any moment leaves whole lines and at most one torn
one, and several processes may append to files of their own. Nothing is ever rewritten, except `manifest.json` (whole, by rename).
"""

from __future__ import annotations

import heapq
import os
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from client.core.container import ContainerFacts, StartMarks
from client.core.evidence import Evidence, GpuEvidence, ServerEvidence
from client.core.plan import RunPlan
from client.core.records import (
    ClockAnchor,
    GpuSample,
    ImageFact,
    PhaseWindow,
    ServerSnapshot,
    TokenAnswer,
    WorkerHealth,
)
from client.core.secrets import NO_MASK, Mask
from client.core.table import RecordTable
from client.errors import RunDirError

MANIFEST_VERSION = 1
MAX_WHOLE_BYTES = 64 * 1024 * 1024
"""Of a file that is read whole (a manifest, a log, a page) so much; start-ups and counters stand at the beginning."""
MAX_LINE_BYTES = 16 * 1024 * 1024
"""A longer line is no record of ours: set aside without being read into memory."""

Line = TypeVar("Line", bound=msgspec.Struct)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Written when the run starts, and once more with `ended` when it ends: a run without it was cut off."""

    version: int = MANIFEST_VERSION
    run_id: str
    started_utc: str
    plan: RunPlan
    anchor: ClockAnchor | None = None
    host: dict[str, str] = {}
    versions: dict[str, str] = {}
    command: tuple[str, ...] = ()
    pictures: str = ""
    """Where the pictures came from, in a sentence."""
    distinct_pictures: int | None = None
    """How many different originals; the others are variants of them."""
    ended_utc: str | None = None
    interrupted: bool = False
    complete: bool = False


class JsonLines:
    """Appends one JSON line per call, unbuffered. Not for concurrent use of one instance by several threads."""

    def __init__(self, path: Path, mask: Mask = NO_MASK) -> None:
        self._path = path
        self._mask = mask
        self._encode = msgspec.json.Encoder().encode
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _cannot_write(path, error) from error

    def append(self, item: Any) -> None:
        line = self._mask.data(self._encode(item)) + b"\n"
        try:
            if os.fstat(self._fd).st_nlink == 0:
                raise _gone(self._path.parent)
            written = os.write(self._fd, line)
            while written < len(line):  # a full disk or a signal may cut a write short
                written += os.write(self._fd, line[written:])
        except OSError as error:
            raise _cannot_write(self._path, error) from error

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _gone(folder: Path) -> RunDirError:
    return RunDirError(
        f"the run directory {folder} was removed while the run was going on: its records are lost.",
        "Keep it until the run has ended, or choose another place with --out.",
    )


def _cannot_write(path: Path, error: OSError) -> RunDirError:
    return RunDirError(
        f"cannot write {path}: {error.strerror or error}.",
        "What was written before is kept. Free some space or choose another folder with --out.",
    )


class RunDir:
    """One run on disk. `RunDir.create` starts one; `read_run` reads one back. What `mask` covers is written nowhere."""

    def __init__(self, path: Path, mask: Mask = NO_MASK) -> None:
        self.path = path
        self._mask = mask
        self._files: dict[str, JsonLines] = {}

    @classmethod
    def create(cls, base: Path, *, now: datetime | None = None, mask: Mask = NO_MASK) -> Self:
        """Makes `base/<UTC time>-<short id>/`. Raises RunDirError when the folder cannot be written."""
        stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
        path = base / f"{stamp}-{os.urandom(3).hex()}"
        try:
            (path / "servers").mkdir(parents=True)
        except OSError as error:
            raise RunDirError(
                f"cannot make the run directory {path}: {error.strerror or error}.",
                "Choose a writable folder with --out.",
            ) from error
        return cls(path, mask)

    @property
    def run_id(self) -> str:
        return self.path.name

    def write_manifest(self, manifest: Manifest) -> None:
        text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
        self.write_file("manifest.json", text)

    def write_file(self, name: str, data: bytes | str) -> Path:
        """Writes a whole file so that a reader sees the old one or the new one, never half of it."""
        path = self.path / name
        half = path.with_name(f".{path.name}.half")
        if not self.path.exists():
            raise _gone(self.path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            half.write_bytes(self._mask.data(data.encode() if isinstance(data, str) else data))
            half.replace(path)
        except OSError as error:
            raise _cannot_write(path, error) from error
        return path

    def append(self, name: str, item: Any) -> None:
        """Appends a line to `<name>.jsonl`."""
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = JsonLines(self.path / f"{name}.jsonl", self._mask)
        file.append(item)

    def server_dir(self, target: str) -> Path:
        if not self.path.exists():
            raise _gone(self.path)
        path = self.path / "servers" / re.sub(r"[^A-Za-z0-9._-]", "_", target)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def write_server(self, evidence: ServerEvidence) -> None:
        """Keeps what a target told of itself; pages and logs stay plain text files that a person can read."""
        folder = self.server_dir(evidence.target).relative_to(self.path)
        for name, snapshot in (("metrics-before.txt", evidence.before), ("metrics-after.txt", evidence.after)):
            if snapshot is not None and snapshot.text is not None:
                self.write_file(f"{folder}/{name}", snapshot.text)
        if evidence.log_text is not None and not (self.path / folder / "server.log").exists():
            self.write_file(f"{folder}/server.log", evidence.log_text)
        slim = msgspec.structs.replace(
            evidence, log_text=None, before=_without_text(evidence.before), after=_without_text(evidence.after)
        )
        self.write_file(f"{folder}/server.json", msgspec.json.format(msgspec.json.encode(slim), indent=1))

    def write_container(self, facts: ContainerFacts) -> None:
        folder = self.server_dir(facts.target).relative_to(self.path)
        self.write_file(f"{folder}/container.json", msgspec.json.format(msgspec.json.encode(facts), indent=1))

    def discard_if_empty(self) -> bool:
        """Takes the folder away again when not one request was recorded: a run that never began leaves nothing to explain."""
        self.close()
        if any(file.stat().st_size for file in self.path.glob("requests*.jsonl")):
            return False
        shutil.rmtree(self.path, ignore_errors=True)
        return True

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


def _without_text(snapshot: ServerSnapshot | None) -> ServerSnapshot | None:
    return None if snapshot is None else msgspec.structs.replace(snapshot, text=None)


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a file without their ends; one over MAX_LINE_BYTES comes out cut short, so that it counts as torn."""
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES):
            if line.endswith(b"\n"):
                yield line[:-1]
                continue
            while rest := file.readline(MAX_LINE_BYTES):
                if rest.endswith(b"\n"):
                    break
            yield line


def read_whole(path: Path) -> bytes:
    """The beginning of a regular file, up to MAX_WHOLE_BYTES. Anything else there, a pipe say, would make a reader wait. Raises OSError."""
    if path.exists() and not path.is_file():
        raise OSError(f"{path.name} is no file")
    with path.open("rb") as file:
        return file.read(MAX_WHOLE_BYTES)


def read_lines(path: Path, kind: type[Line]) -> tuple[tuple[Line, ...], int]:
    """All readable lines of one kind, and how many were set aside. A missing file has none of either."""
    if not path.is_file():
        return (), int(path.exists())
    decoder = msgspec.json.Decoder(kind)
    items, torn = [], 0
    for line in lines_of(path):
        if not line.strip():
            continue
        try:
            items.append(decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            torn += 1
    return tuple(items), torn


def read_manifest(path: Path) -> Manifest:
    file = path / "manifest.json"
    try:
        return msgspec.json.decode(read_whole(file), type=Manifest)
    except FileNotFoundError:
        hint = "Give the folder of one run, for example results/20261125T020230Z-a1b2c3."
        raise RunDirError(f"{path} is no run directory: it has no manifest.json.", hint) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OSError) as error:
        raise RunDirError(f"{file} cannot be read: {error}.", "The other files of the run are untouched.") from error


def read_run(path: Path) -> Evidence:
    """Everything that a run left behind. Raises RunDirError when there is no readable manifest."""
    manifest = read_manifest(path)
    files = [file for file in sorted(path.glob("requests*.jsonl")) if file.is_file()]
    records, torn = RecordTable.from_lines(_in_order(files))
    images, torn_images = read_lines(path / "images.jsonl", ImageFact)
    # Only where they were asked for: a file of mere texts holds nothing that the records do not.
    tokens, torn_tokens = read_lines(path / "answers.jsonl", TokenAnswer) if manifest.plan.logprobs else ((), 0)
    windows, torn_windows = read_lines(path / "phases.jsonl", PhaseWindow)
    health, torn_health = read_lines(path / "health.jsonl", WorkerHealth)
    gpu, torn_gpu = _read_gpu(path)
    return Evidence(
        run_id=manifest.run_id,
        started_utc=manifest.started_utc,
        plan=manifest.plan,
        anchor=manifest.anchor,
        distinct_pictures=manifest.distinct_pictures,
        records=records,
        tokens=tokens,
        images={image.image_id: image for image in images},
        windows=windows,
        health=health,
        servers={target.name: _read_server(path, target.name) for target in manifest.plan.targets},
        gpu=gpu,
        torn_lines=torn + torn_images + torn_windows + torn_health + torn_gpu + torn_tokens,
        interrupted=manifest.interrupted,
        complete=manifest.complete,
        host=manifest.host,
        versions=manifest.versions,
    )


class _End(msgspec.Struct):
    done_ns: int | None = None


def _in_order(files: list[Path]) -> Iterator[bytes]:
    """The lines of all workers in the order in which their requests ended, as each file has its own. A line without an end, or a torn
    one, comes as soon as it is met."""
    if len(files) == 1:
        return lines_of(files[0])
    decode = msgspec.json.Decoder(_End).decode

    def end(line: bytes) -> int:
        try:
            return decode(line).done_ns or 0
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return 0

    return heapq.merge(*map(lines_of, files), key=end)


def _read_gpu(path: Path) -> tuple[tuple[GpuEvidence, ...], int]:
    """One header `gpu-<k>.json` for each sidecar, its samples beside it."""
    found: list[GpuEvidence] = []
    torn = 0
    for header in sorted(path.glob("gpu*.json")):
        try:
            evidence = msgspec.json.decode(read_whole(header), type=GpuEvidence)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OSError):
            torn += 1
            continue
        samples, cut = read_lines(header.with_suffix(".jsonl"), GpuSample)
        torn += cut
        found.append(msgspec.structs.replace(evidence, samples=samples))
    return tuple(found), torn


def _read_server(path: Path, target: str) -> ServerEvidence:
    folder = path / "servers" / re.sub(r"[^A-Za-z0-9._-]", "_", target)
    try:
        evidence = msgspec.json.decode(read_whole(folder / "server.json"), type=ServerEvidence)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OSError):
        evidence = ServerEvidence(target=target)
    container = _container_of(folder / "container.json")
    return msgspec.structs.replace(
        evidence,
        container=container.id,
        starts=container.starts,
        log_text=_text_of(folder / "server.log"),
        before=_with_text(evidence.before, folder / "metrics-before.txt"),
        after=_with_text(evidence.after, folder / "metrics-after.txt"),
    )


class _Container(msgspec.Struct):
    id: str | None = None
    starts: tuple[StartMarks, ...] = ()


def _container_of(path: Path) -> _Container:
    try:
        return msgspec.json.decode(read_whole(path), type=_Container)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OSError):
        return _Container()


def _with_text(snapshot: ServerSnapshot | None, path: Path) -> ServerSnapshot | None:
    text = None if snapshot is None else _text_of(path)
    return snapshot if snapshot is None or text is None else msgspec.structs.replace(snapshot, text=text)


def _text_of(path: Path) -> str | None:
    try:
        return read_whole(path).decode(errors="replace")
    except OSError:
        return None
