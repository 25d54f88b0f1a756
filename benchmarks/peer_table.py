"""The peers' table for a terminal of 100 columns: the figures, then the same as multiples of our own row, then what is to be said of a row."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Protocol

WIDTH = 100
COLUMNS = {
    "burst_rps": "burst\nreq/s",
    "paced_rps": "paced\nof 510",
    "cpu_ms": "CPU ms\n/request",
    "ttft_off_p50_ms": "TTFT off\np50 ms",
    "ttft_off_p99_ms": "TTFT off\np99 ms",
    "start_s": "start\ns",
    "memory_mb": "memory\nMB",
    "body_kb": "body\nKB",
}
LEGEND = (
    "burst: the server answers at once. paced: first token after 50 ms, then one every 5 ms; 510 req/s is all that 64 in flight can "
    "ask for, and a tool that stays far below was not under this load.",
    "TTFT off: what the tool reports minus what the server did. Nobody is warmed up: p99 holds the start, 64 requests at once.",
    "CPU: user and system time of all processes; what a run of few requests costs is taken off. start: process start to first "
    "request sent. memory: peak PSS of all processes. body: bytes on the wire for a request with a JPEG of 110 KB.",
)


class Figures(Protocol):
    """A row; `figures` by the names in COLUMNS."""

    title: str
    remarks: list[str]

    def figures(self) -> dict[str, float | None]: ...


def text(rows: Sequence[Figures]) -> str:
    """Our own row is the first."""
    own = rows[0].figures()
    values = [[row.title, *(number(row.figures()[name]) for name in COLUMNS)] for row in rows]
    ratios = [[row.title, *(ratio(row.figures()[name], own[name]) for name in COLUMNS)] for row in rows[1:]]
    parts = ["64 requests in flight, 16 tokens each; one CPU for each tool, another for the server", _table(values)]
    if ratios:
        parts += ["The same as multiples of Halfweight's:", _table(ratios)]
    said = [*LEGEND, *(f"{row.title}: {remark}" for row in rows for remark in row.remarks)]
    return "\n\n".join([*parts, "\n".join(map(_wrapped, said))])


def one_line(row: Figures) -> str:
    """A row as soon as it is there, for the progress on stderr."""
    found = row.figures()
    told = [f"{' '.join(COLUMNS[name].split())} {number(found[name])}" for name in COLUMNS]
    return "; ".join([", ".join(told), *row.remarks])


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio(value: float | None, own: float | None) -> str:
    """Empty of sense, and so a dash, where one is not there or ours is not above zero."""
    return "-" if value is None or own is None or own <= 0 else f"{number(value / own)}x"


def _table(rows: list[list[str]]) -> str:
    """Not by tabulate, which keeps two columns free beside each header: it would be 110 wide."""
    upper, lower = zip(*(name.split("\n") for name in COLUMNS.values()), strict=True)
    cells = [["", *upper], ["", *lower], *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(2, ["-" * width for width in widths])
    return "\n".join("  ".join(_padded(line, widths)).rstrip() for line in cells)


def _padded(line: list[str], widths: list[int]) -> list[str]:
    return [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]


def _wrapped(line: str) -> str:
    """A path stays in one piece, to be copied."""
    return textwrap.fill(line, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
