"""One line of a server's log -> its message, whoever wrapped it.

A vLLM line may come with ANSI colours (0.11 always), a container's time stamp, a Compose or Kubernetes prefix, `(EngineCore_DP0 pid=7)`,
a `VLLM_LOGGING_PREFIX` of the user's, the `INFO 11-25 00:41:57 [file.py:12]` head, or as JSON (vLLM 0.33's formatter, Docker's json-file).
Every step is a search in a bounded piece of the line, so that no line can take more than linear time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

MAX_LINE = 65_536
"""Characters of a line that are looked at. The longest real line, the engine's configuration, has about 8,000."""

HEAD = 400
"""Characters in which everything before the message must fit."""

_COLOUR = re.compile(r"(?:\x1b|\^\[)?\[[0-9;]{0,12}m|\x1b\[[0-9;?]{0,12}[A-Za-z]")
_STAMP = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)? (?:std(?:out|err) [FP] )?")
_COMPOSE = re.compile(r"[\w.-]{1,64} {0,40}\| ")
_PROCESS = re.compile(
    r"\(([A-Za-z][\w.-]{0,40}(?: (?:rank=\d{1,6}|[A-Z]{2}\d{1,4}))?)(?: pid=\d{1,10})?(?:, ip=[\w.:]{1,60})?\) ?"
)
_RANK = re.compile(r"\[rank\d{1,4}\]: ?")
_LEVEL = r"(DEBUG|INFO|WARNING|ERROR|CRITICAL)"
_PLACE = r"(?:\[?[\w./-]{1,120}:\d{1,6}\]? )"
_FULL = re.compile(rf"\b{_LEVEL} \d\d-\d\d \d\d:\d\d:\d\d(?:[.,]\d{{1,6}})? {_PLACE}")
_BARE = re.compile(rf"{_LEVEL}:? +{_PLACE}?")

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class LogLine(msgspec.Struct, frozen=True):
    """`level` and `process` are empty where the line does not tell. `process` has no pid: it names the same process after a restart."""

    message: str
    level: str = ""
    process: str = ""


class _Json(msgspec.Struct):
    message: str | None = None
    levelname: str = ""
    vllm_process_name: str | None = None
    log: str | None = None


def clean(raw: str) -> LogLine:
    """The message of one raw line. A line of another program comes back as it is, less colours and container prefixes."""
    text = raw[:MAX_LINE].rstrip("\r\n")
    text = _COLOUR.sub("", text) if "[" in text else text
    text, process = _outer(text)
    if text.startswith("{"):
        return _from_json(text, process)
    return _from_text(text, process)


def _outer(text: str) -> tuple[str, str]:
    """Strips what containers and process wrappers put before a line, in any order."""
    process = ""
    for _ in range(4):
        found = _STAMP.match(text) or _COMPOSE.match(text) or _RANK.match(text)
        if not found:
            found = _PROCESS.match(text)
            if not found:
                break
            process = found[1]
        text = text[found.end() :]
    return text, process


def _from_text(text: str, process: str) -> LogLine:
    full = _FULL.search(text, 0, HEAD)
    if full:
        inner = _PROCESS.search(text, 0, full.start()) if not process else None
        return LogLine(text[full.end() :], full[1], inner[1] if inner else process)
    bare = _BARE.match(text)
    return LogLine(text[bare.end() :], bare[1], process) if bare else LogLine(text, "", process)


def _from_json(text: str, process: str) -> LogLine:
    try:
        found = msgspec.json.decode(text, type=_Json)
    except (msgspec.DecodeError, RecursionError):
        return LogLine(text, "", process)
    if found.message is not None:
        return LogLine(found.message, found.levelname, found.vllm_process_name or process)
    if found.log is not None:
        inner, named = _outer(_COLOUR.sub("", found.log.rstrip("\r\n")))
        return _from_text(inner, named or process)
    return LogLine(text, "", process)


def plain(text: str) -> str:
    """Without what a terminal would obey: a log may hold anything, and parts of it are printed."""
    return _CONTROL.sub("", text)


def pieces(line: LogLine) -> Iterator[LogLine]:
    """A JSON record keeps a message of several lines in one: each is looked at by itself."""
    if "\n" not in line.message:
        yield line
        return
    for part in line.message.split("\n"):
        yield LogLine(part, line.level, line.process)
