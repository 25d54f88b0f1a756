"""Findings -> the text that ends a run in a terminal."""

from __future__ import annotations

import textwrap

from tabulate import tabulate

from client.core.findings import Findings, Gate, Severity
from client.reports.tables import headers, level_rows, main_rows, unsupported

WIDTH = 100


def plain(text: str) -> str:
    """Text from outside without control characters: a model's answer must not steer the reader's terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def _wrap(text: str, first: str = "", rest: str | None = None) -> str:
    after = first if rest is None else rest
    return textwrap.fill(plain(text), WIDTH, initial_indent=first, subsequent_indent=after, break_on_hyphens=False)


def render(findings: Findings) -> str:
    parts = [_top(findings), _table(findings), _levels(findings), _foot(findings)]
    return "\n\n".join(part for part in parts if part)


def _top(findings: Findings) -> str:
    lines = []
    if findings.simulated:
        lines.append(_wrap(f"SIMULATED: {findings.simulated_note or 'a simulated server, not a GPU'}"))
    if findings.interrupted:
        lines.append("INTERRUPTED: this is what was measured until then.")
    if findings.headline:
        lines.append(_wrap(findings.headline))
    lines.append(_wrap(f"Load: {findings.load}. Pictures: {findings.workload}."))
    return "\n".join(line for line in lines if line)


def _table(findings: Findings) -> str:
    head = [plain(name) for name in headers(findings)]
    align = ["left", *["right"] * len(findings.targets), *["left"] * len(findings.comparisons)]
    table = tabulate(main_rows(findings), headers=head, tablefmt="simple", disable_numparse=True, colalign=align)
    note = f"[…] {findings.confidence:.0%} interval"
    if findings.comparisons:
        note += f" · decided by {findings.primary} · smallest effect worth having {findings.min_effect:.0%}"
    if findings.simulated:
        note += " · SIMULATED"
    if lacking := unsupported(findings):
        note += f"\n{lacking}"
    return f"{table}\n{note}"


def _levels(findings: Findings) -> str:
    if not findings.levels:
        return ""
    head, rows = level_rows(findings)
    rows = [[row[0], plain(row[1]), *row[2:]] for row in rows]
    align = ["left", "left", "right", "right", "right", "left"]
    return tabulate(rows, headers=head, tablefmt="simple", disable_numparse=True, colalign=align)


def spoiled(gate: Gate) -> str:
    """The metrics that a gate spoils, few enough to read."""
    names = list(dict.fromkeys(name.partition("_p")[0].removesuffix("_mean") for name in gate.metrics))
    return ", ".join(names[:4]) + (" and others" if len(names) > 4 else "")


def _foot(findings: Findings) -> str:
    lines = []
    if findings.not_measured:
        lines.append(_wrap("Not measured: " + "; ".join(findings.not_measured) + "."))
    for gate in findings.gates:
        mark = "note"
        if gate.severity is Severity.INVALID:
            mark = "INVALID" if not gate.metrics or findings.primary in gate.metrics else f"invalid for {spoiled(gate)}"
        lines.append(_wrap(f"{mark}: {gate.fact} {gate.next_step}", "", "  "))
    lines.extend(_wrap(f"threshold {item.result}: {item.sentence}", "", "  ") for item in findings.thresholds)
    for pair in findings.comparisons:
        lines.extend(_wrap(item) for item in pair.memory_story[:2])
    if findings.comparisons:
        lines.append("")
        lines.append(_wrap(f"=> {findings.recommendation.sentence}", "", "   "))
        lines.extend(_wrap(reason, "   · ", "     ") for reason in findings.recommendation.reasons[:4])
    return "\n".join(lines)
