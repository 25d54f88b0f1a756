"""Findings -> report.md: fits a model card, a README or a pull request."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from tabulate import tabulate

from client.core.findings import Findings, Severity
from client.core.phrases import share
from client.reports.accuracy import accuracy_notes, accuracy_rows
from client.reports.format import estimate, torn_told
from client.reports.tables import (
    floorless,
    headers,
    kernel_lines,
    level_rows,
    levels_note,
    main_rows,
    memory_rows,
    secondary_note,
    unsupported,
)
from client.reports.terminal import spoiled


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """A chart beside the report: its file, and what to see in it."""

    file: str
    title: str
    sentence: str


def render(findings: Findings, images: Sequence[Image] = ()) -> str:
    """The whole report. Same arguments, same bytes."""
    parts = [
        _top(findings),
        _table(findings),
        _levels(findings),
        _not_measured(findings),
        _gates(findings),
        _reasons(findings),
        _accuracy(findings),
        *(_image(image) for image in images),
        _memory(findings),
        _details(findings),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def safe(text: str) -> str:
    """Text that came from outside, made harmless: no control characters, no HTML, no table or link syntax."""
    cleaned = "".join(char if char.isprintable() else " " for char in text)
    for char, entity in (
        ("&", "&amp;"),
        ("<", "&lt;"),
        (">", "&gt;"),
        ("|", "&#124;"),
        ("`", "'"),
        ("[", "&#91;"),
        ("]", "&#93;"),
    ):
        cleaned = cleaned.replace(char, entity)
    return cleaned


def _image(image: Image) -> str:
    return f"### {safe(image.title)}\n\n{safe(image.sentence)}\n\n![{safe(image.title)}]({image.file})"


def _top(findings: Findings) -> str:
    lines = [f"# {safe(findings.question)}" if findings.question else "# Halfweight"]
    if findings.simulated:
        note = findings.simulated_note or "these numbers come from a simulated server, not from a GPU"
        lines.append(f"> **SIMULATED**: {safe(note)}")
    if findings.interrupted:
        lines.append("> **Interrupted**: what was measured until then is below.")
    if not findings.valid:
        reasons = "\n".join(f"> - {safe(reason)}" for reason in findings.invalid_reasons)
        lines.append(f"> **INVALID**: these numbers must not decide.\n{reasons}")
    lines.append(f"**{safe(findings.headline)}**" if findings.headline else "")
    lines.append(safe(f"Load: {findings.load}. Pictures: {findings.workload}."))
    return "\n\n".join(line for line in lines if line)


def _table(findings: Findings) -> str:
    head = [safe(name) for name in headers(findings)]
    rows = [[cell.replace("|", "&#124;") for cell in row] for row in main_rows(findings)]
    title = "## Results (SIMULATED)" if findings.simulated else "## Results"
    table = tabulate(
        rows, headers=head, tablefmt="pipe", disable_numparse=True, colalign=["left", *["right"] * (len(head) - 1)]
    )
    note = f"Brackets hold {findings.confidence:.0%} intervals. Primary metric, named before the run: `{findings.primary}`. "
    note += f"Smallest effect worth having: {share(findings.min_effect)}."
    for more in (secondary_note(findings), floorless(findings), unsupported(findings)):
        note += f" {more}." if more else ""
    return f"{title}\n\n{table}\n\n{note}"


def _levels(findings: Findings) -> str:
    if not findings.levels:
        return ""
    head, rows = level_rows(findings)
    rows = [[row[0], safe(row[1]), *row[2:]] for row in rows]
    align = ["left", "left", "right", "right", "right", "left"]
    whole = " that was measured whole" if any(level.cut_short for level in findings.levels) else ""
    knees = "; ".join(
        f"{safe(name)}: "
        + (f"throughput grew to the last level{whole}" if at is None else f"throughput stops growing after {at}")
        for name, at in findings.knees.items()
    )
    table = tabulate(rows, headers=head, tablefmt="pipe", disable_numparse=True, colalign=align)
    note = levels_note(findings)
    return f"## Load by load\n\n{table}\n\n{f'{note}. ' if note else ''}Knee: {knees}."


def _not_measured(findings: Findings) -> str:
    if not findings.not_measured:
        return ""
    return "## Not measured\n\n" + "\n".join(f"- {safe(item)}" for item in findings.not_measured)


def _gates(findings: Findings) -> str:
    if not findings.gates:
        return ""
    lines = []
    for gate in findings.gates:
        mark = "**INVALID**" if gate.severity is Severity.INVALID else "Note"
        of = f" ({spoiled(gate)})" if gate.metrics else ""
        lines.append(f"- {mark}{of}: {safe(gate.fact)} *Next:* {safe(gate.next_step)}")
    return "## Can these numbers be trusted?\n\n" + "\n".join(lines)


def _reasons(findings: Findings) -> str:
    told = findings.recommendation
    lines = [f"## Recommendation\n\n{safe(told.sentence)}"]
    for title, items in (("Because", told.reasons), ("What would change it", told.would_change)):
        if items:
            lines.append(f"{title}:\n\n" + "\n".join(f"- {safe(item)}" for item in items))
    lines.extend(
        f"- Threshold `{safe(threshold.text)}`: **{threshold.result}**. {safe(threshold.sentence)}"
        for threshold in findings.thresholds
    )
    return "\n\n".join(lines)


def _accuracy(findings: Findings) -> str:
    rows = accuracy_rows(findings)
    notes = [f"- {safe(note)}" for note in accuracy_notes(findings)]
    parts = ["\n".join(notes)] if notes else []
    if rows:
        parts.append(tabulate(rows, headers=["", *map(safe, findings.targets)], tablefmt="pipe", disable_numparse=True))
    return "## Accuracy\n\n" + "\n\n".join(parts) if parts else ""


def _memory(findings: Findings) -> str:
    rows = [[safe(cell) for cell in row] for row in memory_rows(findings)]
    story = [f"- {safe(item)}" for pair in findings.comparisons for item in pair.memory_story]
    notes = [f"- {safe(f'{t.name}: {note}')}" for t in findings.targets.values() for note in t.memory.notes]
    kernels = [f"- {safe(line)}" for line in kernel_lines(findings)]
    parts = ["\n".join(story)] if story else []
    if rows:
        parts.append(tabulate(rows, headers=["", *map(safe, findings.targets)], tablefmt="pipe", disable_numparse=True))
    parts += ["\n".join(notes)] if notes else []
    parts += ["How the weights are multiplied:\n\n" + "\n".join(kernels)] if kernels else []
    return "## Where the memory went\n\n" + "\n\n".join(parts) if parts else ""


def _details(findings: Findings) -> str:
    names = sorted({metric for target in findings.targets.values() for metric in target.metrics})
    rows = [[name, *(estimate(target.metrics.get(name)) for target in findings.targets.values())] for name in names]
    table = tabulate(rows, headers=["metric", *map(safe, findings.targets)], tablefmt="pipe", disable_numparse=True)
    facts = []
    for target in findings.targets.values():
        version = f", server {safe(target.server_version)}" if target.server_version else ""
        facts.append(f"- **{safe(target.name)}**: {safe(target.precision)}, model {safe(target.model or 'unknown')}{version}, "
                     f"{target.requests_ok} of {target.requests_sent} requests ok, {target.distinct_images} distinct images")  # fmt: skip
        facts.extend(f"  - {safe(note)}" for note in target.notes)
    host = "; ".join(
        f"{safe(key)} {safe(value)}" for key, value in sorted({**findings.host, **findings.versions}.items())
    )
    torn = f"\n\n{torn_told(findings)} set aside." if findings.torn_lines else ""
    return f"## Details\n\n{chr(10).join(facts)}\n\n{table}\n\nRun `{safe(findings.run_id)}`, started {findings.started_utc}. {host}{torn}"
