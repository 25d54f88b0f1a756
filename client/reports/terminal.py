"""Findings -> the text that ends a run in a terminal."""

from __future__ import annotations

import re
import textwrap

from tabulate import tabulate

from client.core.findings import Findings, Gate, Severity
from client.core.phrases import share
from client.reports.accuracy import frame_warnings
from client.reports.tables import (
    Row,
    floorless,
    headers,
    level_rows,
    levels_note,
    main_rows,
    secondary_note,
    unsupported,
)

WIDTH = 100
"""Columns of running text, and of everything where nobody says how wide the terminal is."""
LABEL = 18
"""Columns of a row's name in a table that has to be narrow."""
HELD = "\u00a0"
"""In the place of a space at which a line must not break: '95' and '%' belong together."""
_UNITS = re.compile(r"(?<=[0-9]) (?=(?:%|ms|GiB|J)(?![A-Za-z]))")


def plain(text: str) -> str:
    """Text from outside without control characters: a model's answer must not steer the reader's terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


_INTERVAL = re.compile(r"^(.*?) (\[[^\]]*\])(.*)$")


def _stacked(cell: str) -> str:
    """'233 [231, 234] ms' as '233 ms' above '[231, 234]'; a remark in brackets goes below what it is about."""
    found = _INTERVAL.match(cell)
    return f"{found[1]}{found[3]}\n{found[2]}" if found else cell.replace(" (", "\n(", 1)


class _Page:
    """Paragraphs and tables for so many columns."""

    def __init__(self, width: int | None) -> None:
        self.table_width = width
        self.width = WIDTH if width is None else max(40, min(width, WIDTH))

    def wrap(self, text: str, first: str = "", rest: str | None = None) -> str:
        held = _UNITS.sub(HELD, plain(text))
        after = first if rest is None else rest
        lines = textwrap.fill(held, self.width, initial_indent=first, subsequent_indent=after, break_on_hyphens=False)
        return lines.replace(HELD, " ")

    def table(self, rows: list[Row], head: list[str], align: list[str]) -> str:
        """Where it is too wide, an interval or a remark goes below its number."""
        text = tabulate(rows, headers=head, tablefmt="simple", disable_numparse=True, colalign=align)
        if self.table_width is None or max(map(len, text.splitlines())) <= self.table_width:
            return text
        stacked = [[textwrap.fill(row[0], LABEL), *(_stacked(cell) for cell in row[1:])] for row in rows]
        return tabulate(stacked, headers=head, tablefmt="simple", disable_numparse=True, colalign=align)


def render(findings: Findings, width: int | None = None) -> str:
    """`width` None: nobody's terminal, a file or a pipe; the same text everywhere."""
    page = _Page(width)
    parts = [_top(findings, page), _table(findings, page), _levels(findings, page), _foot(findings, page)]
    return "\n\n".join(part for part in parts if part)


def _top(findings: Findings, page: _Page) -> str:
    lines = []
    if findings.simulated:
        lines.append(page.wrap(f"SIMULATED: {findings.simulated_note or 'a simulated server, not a GPU'}"))
    if findings.interrupted:
        lines.append("INTERRUPTED: this is what was measured until then.")
    if findings.headline:
        lines.append(page.wrap(findings.headline))
    lines.append(page.wrap(f"Load: {findings.load}. Pictures: {findings.workload}."))
    return "\n".join(line for line in lines if line)


def _table(findings: Findings, page: _Page) -> str:
    head = [plain(name) for name in headers(findings)]
    align = ["left", *["right"] * len(findings.targets), *["left"] * len(findings.comparisons)]
    table = page.table(main_rows(findings), head, align)
    note = f"[…] {findings.confidence:.0%} interval"
    if findings.comparisons:
        note += f" · decided by {findings.primary} · smallest effect worth having {share(findings.min_effect)}"
    if findings.simulated:
        note += " · SIMULATED"
    notes = [page.wrap(note)]
    notes += [
        page.wrap(more) for more in (secondary_note(findings), floorless(findings), unsupported(findings)) if more
    ]
    return "\n".join([table, *notes])


def _levels(findings: Findings, page: _Page) -> str:
    if not findings.levels:
        return ""
    head, rows = level_rows(findings)
    rows = [[row[0], plain(row[1]), *row[2:]] for row in rows]
    align = ["left", "left", "right", "right", "right", "left"]
    note = levels_note(findings)
    return "\n".join([page.table(rows, head, align), *([page.wrap(note)] if note else [])])


def spoiled(gate: Gate) -> str:
    """The metrics that a gate spoils, few enough to read. Where only their tails are spoiled, that is said."""
    stats = sorted({name.rpartition("_")[2] for name in gate.metrics})
    tails = " and ".join(stats) + " of " if stats and set(stats) <= {"p95", "p99"} else ""
    names = list(dict.fromkeys(name.partition("_p")[0].removesuffix("_mean") for name in gate.metrics))
    return tails + ", ".join(names[:4]) + (" and others" if len(names) > 4 else "")


def _foot(findings: Findings, page: _Page) -> str:
    lines = []
    if findings.not_measured:
        lines.append(page.wrap("Not measured: " + "; ".join(findings.not_measured) + "."))
    for gate in findings.gates:
        mark = "note"
        if gate.severity is Severity.INVALID:
            mark = "INVALID" if not gate.metrics or findings.primary in gate.metrics else f"invalid for {spoiled(gate)}"
        lines.append(page.wrap(f"{mark}: {gate.fact} {gate.next_step}", "", "  "))
    lines.extend(page.wrap(note, "", "  ") for note in frame_warnings(findings))
    lines.extend(page.wrap(f"threshold {item.result}: {item.sentence}", "", "  ") for item in findings.thresholds)
    for pair in findings.comparisons:
        lines.extend(page.wrap(item) for item in pair.memory_story[:2])
    if findings.comparisons:
        lines.append("")
        lines.append(page.wrap(f"=> {findings.recommendation.sentence}", "", "   "))
        lines.extend(page.wrap(reason, "   · ", "     ") for reason in findings.recommendation.reasons[:4])
    return "\n".join(lines)
