"""Findings and their series -> report.html: one file that needs no network, and no script for anything but its charts."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence

import msgspec

from client.core.findings import Findings, Severity, TargetFindings
from client.core.names import NAMES
from client.core.phrases import share
from client.core.series import Series
from client.reports.accuracy import accuracy_notes, accuracy_rows
from client.reports.charts import Chart, charts
from client.reports.charts.look import ON_PAGE, config
from client.reports.format import estimate, torn_told
from client.reports.page import DRAW, bullets, data_block, figure, page, safe, spec_blocks, table
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

REASONS = 4
"""Those that stand in the open; the rest is one click away."""
GOOD, BAD = ("faster", "better", "non-inferior"), ("slower", "worse", "less accurate")
INTERVAL = re.compile(r" (\[[^\]]*\])((?:/s| ?[A-Za-z%]+)?)")
"""With the unit, which goes to the number: on a narrow screen the interval has a line of its own."""


class Photo(msgspec.Struct, frozen=True, kw_only=True):
    """One picture of the gallery: `image` is WebP, `told` what it shows in words, `file` the full picture beside the report."""

    image: bytes
    told: str
    file: str


class Gallery(msgspec.Struct, frozen=True, kw_only=True):
    """`note` says why there is none, or what was left out."""

    photos: tuple[Photo, ...] = ()
    note: str = ""


def render(findings: Findings, series: Series, gallery: Gallery, script: str) -> str:
    """The page. `script` draws the charts (`client.reports.charts.script`). Same arguments, same bytes."""
    drawn = charts(findings, series)
    panels = {chart.key: chart.panels(ON_PAGE) for chart in drawn}
    untitled = {key: [{**spec, "title": None} for spec in specs] for key, specs in panels.items()}
    body = "\n".join(
        part for part in (
            '<a class="skip" href="#main">Skip to the answer</a>',
            _header(findings, bool(drawn), bool(gallery.photos or gallery.note)),
            '<main id="main">',
            _results(findings), _not_measured(findings), _trust(findings), _advice(findings), _accuracy(findings), _memory(findings), _levels(findings),
            _charts(drawn, panels), _gallery(gallery), _details(findings),
            "</main>", _footer(findings),
            data_block("chart-config", config(ON_PAGE)) if drawn else "",
            *(spec_blocks(key, specs) for key, specs in untitled.items()),
        ) if part
    )  # fmt: skip
    mark = "SIMULATED · " if findings.simulated else ""
    return page(f"{mark}{findings.question or 'Halfweight'}", body, (script, DRAW) if drawn else ())


def _header(findings: Findings, has_charts: bool, has_photos: bool) -> str:
    verdict = findings.headline.removeprefix("SIMULATED. ")
    lines = [
        f'<p class="meta brand"><span><b>Halfweight</b></span> <span>run {safe(findings.run_id)} · {safe(findings.started_utc)}</span></p>',
        f"<h1>{safe(findings.question or 'Halfweight')}</h1>",
    ]
    if findings.simulated:
        note = findings.simulated_note or "these numbers come from a simulated server, not from a GPU."
        lines.append(f'<p class="banner"><strong>SIMULATED</strong> {safe(note)}</p>')
    if findings.interrupted:
        lines.append('<p class="banner"><strong>INTERRUPTED</strong> This is what was measured until then.</p>')
    if not findings.valid:
        first, *others = findings.invalid_reasons
        count = f"{len(others)} more reason{'s' if len(others) > 1 else ''}"
        more = f' <a href="#trust">{count}</a>' if others else ""
        lines.append(
            f'<p class="banner"><strong>INVALID</strong> These numbers must not decide. {safe(first)}{more}</p>'
        )
    else:
        lines.append(f'<p class="verdict">{safe(verdict)}</p>')
    lines.append(f'<p class="meta">Load: {safe(findings.load)}. Pictures: {safe(findings.workload)}.</p>')
    places = [
        ("trust", "Can it be trusted?", bool(findings.gates)),
        ("advice", "Recommendation", bool(findings.comparisons)),
    ]
    places += [
        ("memory", "Memory", bool(memory_rows(findings))),
        ("charts", "Charts", has_charts),
        ("pictures", "Pictures", has_photos),
        ("details", "Details", True),
    ]
    links = "".join(f'<li><a href="#{where}">{text}</a></li>' for where, text, there in places if there)
    return f'<header>\n{chr(10).join(lines)}\n<nav aria-label="On this page"><ul>{links}</ul></nav>\n</header>'


def cell(text: str) -> str:
    """A cell of the main table as markup: the interval is quieter than the number and follows its unit, a word of praise or blame is set apart."""
    marked = INTERVAL.sub(lambda found: f'{found[2]} <span class="i">{found[1]}</span>', safe(text)).replace(
        " %", "&nbsp;%"
    )
    word = next((word for word in GOOD + BAD if text.startswith(word)), None)
    if word is None:
        return marked
    return f'<span class="{"good" if word in GOOD else "bad"}">{word}</span>{marked[len(word) :]}'


def _results(findings: Findings) -> str:
    head = [safe(name) for name in headers(findings)]
    rows = [[cell(text) for text in row] for row in main_rows(findings)]
    of = len(findings.targets)
    found = table(head, rows, label="Results", numbers=range(1, 1 + of), unbroken=range(1 + of, len(head)), markup=True)
    note = f"Brackets hold {findings.confidence:.0%} intervals."
    if findings.comparisons:
        note += f" Decided by the {safe(NAMES[findings.primary].words)}, named before the run; the smallest effect worth having is {share(findings.min_effect)}."
    for more in (secondary_note(findings), floorless(findings), unsupported(findings)):
        note += f" {safe(more)}." if more else ""
    return f'<section id="results">\n{found}\n<p class="note">{note}</p>\n</section>'


def _not_measured(findings: Findings) -> str:
    if not findings.not_measured:
        return ""
    return f"<p><strong>Not measured:</strong> {safe('; '.join(findings.not_measured))}.</p>"


def _trust(findings: Findings) -> str:
    if not findings.gates:
        return ""
    items = []
    for gate in findings.gates:
        mark = "<strong>INVALID</strong>" if gate.severity is Severity.INVALID else "Note"
        of = f" ({safe(spoiled(gate))})" if gate.metrics else ""
        items.append(f'<li>{mark}{of}: {safe(gate.fact)} <span class="i">Next: {safe(gate.next_step)}</span></li>')
    return f'<section id="trust">\n<h2>Can these numbers be trusted?</h2>\n<ul class="plain">{"".join(items)}</ul>\n</section>'


def _advice(findings: Findings) -> str:
    if not findings.comparisons:
        return ""
    told = findings.recommendation
    parts = [f"<p>{safe(told.sentence)}</p>"]
    if told.reasons:
        parts.append(f"<h3>Because</h3>{bullets(told.reasons[:REASONS])}")
    if len(told.reasons) > REASONS:
        parts.append(
            f"<details><summary>{len(told.reasons) - REASONS} more reasons</summary>{bullets(told.reasons[REASONS:])}</details>"
        )
    if told.would_change:
        parts.append(f"<h3>What would change it</h3>{bullets(told.would_change)}")
    if findings.thresholds:
        parts.append(
            "<h3>Thresholds</h3>"
            + bullets(f"{item.text}: {item.result}. {item.sentence}" for item in findings.thresholds)
        )
    return f'<section id="advice">\n<h2>Recommendation</h2>\n{chr(10).join(parts)}\n</section>'


def _accuracy(findings: Findings) -> str:
    rows, notes = accuracy_rows(findings), accuracy_notes(findings)
    parts = [bullets(notes)] if notes else []
    if rows:
        scores = table(["", *findings.targets], rows, label="Scores", numbers=range(1, 1 + len(findings.targets)))
        parts.append(f"<details><summary>Every score</summary>{scores}</details>")
    return f'<section id="accuracy">\n<h2>Accuracy</h2>\n{chr(10).join(parts)}\n</section>' if parts else ""


def _memory(findings: Findings) -> str:
    story = [sentence for pair in findings.comparisons for sentence in pair.memory_story]
    story += [f"{target.name}: {note}" for target in findings.targets.values() for note in target.memory.notes]
    rows, kernels = memory_rows(findings), kernel_lines(findings)
    parts = [bullets(story)] if story else []
    if kernels:
        parts.append(f"<h3>How the weights are multiplied</h3>{bullets(kernels)}")
    if rows:
        parts_table = table(["", *findings.targets], rows, label="Parts of the memory")
        parts.append(f"<details><summary>Every part, and where it was read</summary>{parts_table}</details>")
    return f'<section id="memory">\n<h2>Where the memory went</h2>\n{chr(10).join(parts)}\n</section>' if parts else ""


def _levels(findings: Findings) -> str:
    if not findings.levels:
        return ""
    head, rows = level_rows(findings)
    found = table(head, rows, label="Load by load", numbers=range(2, len(head)))
    note = levels_note(findings)
    told = f'\n<p class="note">{safe(note)}.</p>' if note else ""
    return f'<section id="levels">\n<h2>Load by load</h2>\n{found}{told}\n</section>'


def _charts(drawn: Sequence[Chart], panels: dict[str, tuple[dict[str, object], ...]]) -> str:
    if not drawn:
        return ""
    parts = []
    for chart in drawn:
        numbers = table(chart.head, chart.rows, label=f"{chart.title}, in numbers", numbers=())
        more = f"<details><summary>In numbers</summary>{numbers}</details>"
        parts.append(figure(chart, panels[chart.key], more))
    lead = '<noscript><p class="note">Charts are drawn by a script, which is off. Their sentences and numbers are here.</p></noscript>'
    return f'<section id="charts">\n<h2>Charts</h2>\n{lead}\n{chr(10).join(parts)}\n</section>'


def _gallery(gallery: Gallery) -> str:
    if not gallery.photos and not gallery.note:
        return ""
    figures = "".join(
        f'<figure><a href="{safe(photo.file)}"><img alt="{safe(photo.told)}" src="data:image/webp;base64,{base64.b64encode(photo.image).decode()}"></a>'
        f"<figcaption>{safe(photo.told)}</figcaption></figure>\n"
        for photo in gallery.photos
    )
    note = f'<p class="note">{safe(gallery.note)}</p>' if gallery.note else ""
    photos = f'<div class="photos">\n{figures}</div>' if figures else ""
    return f'<section id="pictures">\n<h2>Where they differ most</h2>\n{note}\n{photos}\n</section>'


def _details(findings: Findings) -> str:
    names = sorted({metric for target in findings.targets.values() for metric in target.metrics})
    rows = [[name, *(estimate(target.metrics.get(name)) for target in findings.targets.values())] for name in names]
    every = table(
        ["metric", *findings.targets], rows, label="Every metric", numbers=range(1, 1 + len(findings.targets))
    )
    facts = table(
        ["", *findings.targets],
        [[label, *(show(target) for target in findings.targets.values())] for label, show in FACTS],
        label="The targets",
    )
    notes = [f"{target.name}: {note}" for target in findings.targets.values() for note in target.notes]
    notes += [note for pair in findings.comparisons for note in pair.notes]
    return (
        f'<section id="details">\n<h2>Details</h2>\n{facts}\n{bullets(notes) if notes else ""}\n'
        f"<details><summary>Every metric</summary>{every}</details>\n</section>"
    )


FACTS: tuple[tuple[str, Callable[[TargetFindings], str]], ...] = (
    ("Precision", lambda t: t.precision),
    ("Model", lambda t: t.model or "unknown"),
    ("Server", lambda t: t.server_version or "unknown"),
    ("GPU", lambda t: "simulated" if t.simulated else t.gpu_name or "unknown"),
    ("Matrix kernel", lambda t: t.kernel.kind),
    ("Requests", lambda t: f"{t.requests_ok:,} of {t.requests_sent:,} answered"),
    ("Different pictures", lambda t: f"{t.distinct_images:,}"),
    ("Settled after", lambda t: _settled(t)),
)  # fmt: skip


def _settled(target: TargetFindings) -> str:
    if target.warm_up_end is None:
        return target.warm_up_note or "never"
    return f"{target.warm_up_end:,} requests" if target.warm_up_end else "at once"


def _footer(findings: Findings) -> str:
    facts = "; ".join(f"{key} {value}" for key, value in sorted({**findings.host, **findings.versions}.items()))
    torn = f" {torn_told(findings)} set aside." if findings.torn_lines else ""
    return (
        f"<footer><p>{safe(facts)}.{torn}</p>"
        f"<p>Made from the raw records of run {safe(findings.run_id)}; the same records give this page again, byte for byte.</p></footer>"
    )
