"""Opens what a person saved of a server: logs of any size and encoding, pages, configs."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from client.core.facts import TargetFacts, read_lines
from client.core.loglines import MAX_LINE
from client.errors import UsageError

_HOW = "Save a log from its beginning with: docker logs NAME > FILE 2>&1"


def read_facts(path: str) -> TargetFacts:
    """Facts of a log file, or of standard input for `-`. Raises UsageError when it cannot be read or holds no start-up."""
    if path == "-":
        facts = read_lines(bounded_lines(sys.stdin))
    else:
        try:
            with Path(path).open(encoding=_encoding(path), errors="replace", newline="\n") as file:
                facts = read_lines(bounded_lines(file))
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}.", _HOW) from None
    if facts.starts == 0:
        name = "Standard input" if path == "-" else path
        raise UsageError(f"{name} holds no line of a vLLM start-up.", _HOW)
    return facts


def read_text(path: str, most: int) -> str:
    """A whole file of at most `most` characters."""
    try:
        with Path(path).open(encoding=_encoding(path), errors="replace") as file:
            text = file.read(most + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from None
    if len(text) > most:
        raise UsageError(f"{path} is longer than {most >> 20} MiB.", "Give the right file.")
    return text


def bounded_lines(file: IO[str]) -> Iterator[str]:
    """Lines of at most MAX_LINE characters; what is longer is passed over without being kept in memory."""
    whole = True
    while piece := file.readline(MAX_LINE):
        if whole:
            yield piece
        whole = piece.endswith("\n")


def _encoding(path: str) -> str:
    """UTF-8, or UTF-16 where a byte order mark says so: redirections in PowerShell write that."""
    with Path(path).open("rb") as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8"
