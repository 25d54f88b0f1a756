"""Findings of many runs -> one page: what was measured when, what came out, and how the primary metric moved."""

from __future__ import annotations

from collections.abc import Sequence

from client.core.findings import Action, Findings, Word
from client.reports.charts import Chart
from client.reports.charts.look import ON_PAGE, Palette, Spec, by_target, config, panel, quantitative, tip
from client.reports.format import change
from client.reports.html import cell
from client.reports.page import DRAW, data_block, figure, page, safe, spec_blocks, table

Run = tuple[str, Findings]
"""Folder name, findings."""


def render(runs: Sequence[Run], passed_over: Sequence[str], drawn: Chart | None, script: str) -> str:
    head = ["Started (UTC)", "Verdict", "Change", "What was run"]
    rows = [_row(name, findings) for name, findings in reversed(runs)]
    parts = [
        '<header><p class="meta brand"><span><b>Halfweight</b></span></p><h1>All runs</h1>',
        f'<p class="meta">{len(runs):,} run{"s" if len(runs) != 1 else ""}, newest first. Runs that differ in load or pictures do not compare.</p></header>',
        '<main id="main">',
        table(head, rows, label="All runs", unbroken=(1, 2), markup=True)
        if rows
        else "<p>No finished run is here yet.</p>",
        f'<p class="note">Without readable findings: {safe(", ".join(passed_over))}.</p>' if passed_over else "",
    ]
    specs: tuple[Spec, ...] = ()
    if drawn is not None:
        specs = drawn.panels(ON_PAGE)
        numbers = table(drawn.head, drawn.rows, label="Trend, in numbers")
        more = f"<details><summary>In numbers</summary>{numbers}</details>"
        parts.append(f"<section><h2>Trend</h2>{figure(drawn, specs, more)}</section>")
    parts.append("</main>")
    if drawn is not None:
        parts += [
            data_block("chart-config", config(ON_PAGE)),
            spec_blocks(drawn.key, [{**spec, "title": None} for spec in specs]),
        ]
    return page("Halfweight: all runs", "\n".join(part for part in parts if part), (script, DRAW) if drawn else ())


def _row(name: str, findings: Findings) -> list[str]:
    """When, what came out, by how much, and what was run: the answer first, so that it shows on a small screen."""
    link = f'<a href="{safe(_address(name))}">{safe(findings.started_utc.replace("T", " ").removesuffix("Z"))}</a>'
    told = findings.comparison.effects.get(findings.primary) if findings.comparison is not None else None
    moved = cell(change(told)) if told is not None and findings.valid else ""
    return [
        link,
        _verdict(findings),
        f'<span class="i">{safe(findings.primary)}</span> {moved}' if moved else "",
        _what(findings),
    ]


def _what(findings: Findings) -> str:
    first = next(iter(findings.targets.values()), None)
    gpu = next((t.gpu_name for t in findings.targets.values() if t.gpu_name), None)
    versions = sorted({t.server_version for t in findings.targets.values() if t.server_version})
    model = (first.model if first is not None else None) or "unknown model"
    facts = [
        " and ".join(findings.targets),
        "SIMULATED GPU" if findings.simulated else gpu or "unknown GPU",
        f"server {', '.join(versions) or 'unknown'}",
        findings.load,
    ]
    return f'{safe(model)}<br><span class="i">{safe(" · ".join(facts))}</span>'


def _address(name: str) -> str:
    from urllib.parse import quote

    return f"{quote(name)}/report.html"


def _verdict(findings: Findings) -> str:
    if not findings.valid:
        return '<span class="bad">INVALID</span>'
    pair = findings.comparison
    words = {
        Action.USE: f"use {pair.candidate}" if pair else "",
        Action.KEEP: f"keep {pair.baseline}" if pair else "",
        Action.DEPENDS: "it depends",
        Action.NONE: "no recommendation",
    }
    interrupted = " (interrupted)" if findings.interrupted else ""
    return safe(words[findings.recommendation.action] + interrupted)


def _points(runs: Sequence[Run]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for name, findings in runs:
        for pair in findings.comparisons if findings.valid else ():
            effect = pair.effects.get(findings.primary)
            if effect is None or effect.word is Word.INVALID or effect.ratio.value is None:
                continue
            low, high = effect.ratio.low, effect.ratio.high
            if low is None or high is None:
                continue
            found.append(
                {
                    "run": name, "when": findings.started_utc, "target": f"{pair.candidate}: {findings.primary}{' · SIMULATED' if findings.simulated else ''}", "text": change(effect),
                    "value": 100 * (effect.ratio.value - 1), "low": 100 * (low - 1), "high": 100 * (high - 1),
                }
            )  # fmt: skip
    return found


def trend(runs: Sequence[Run]) -> Chart | None:
    """The primary metric of each valid run, candidate against baseline; None with fewer than two."""
    points = _points(runs)
    if len(points) < 2:
        return None
    simulated = any(findings.simulated for _, findings in runs if findings.valid)
    return Chart(
        key="trend",
        title="Candidate against baseline, run by run",
        sentence=f"{len(points)} comparisons of valid runs, each with its interval; the newest is {points[-1]['text']}. Runs that differ in load or pictures stand side by side and do not compare.",
        panels=lambda palette: (_panel(points, "SIMULATED · " if simulated else "", palette),),
        head=("Run", "Metric", "Change"),
        rows=tuple((str(p["run"]), str(p["target"]), str(p["text"])) for p in points),
    )


def _panel(points: list[dict[str, object]], mark: str, palette: Palette) -> Spec:
    names = tuple(dict.fromkeys(str(point["target"]) for point in points))
    x: Spec = {
        "field": "run",
        "type": "ordinal",
        "sort": None,
        "axis": {"labels": False, "ticks": False, "title": "runs, oldest first"},
    }
    colour = by_target(names, palette)
    tips = [tip("run", "Run"), tip("when", "Started"), tip("text", "Change")]
    layers: list[Spec] = [
        {
            "data": {"values": [{"zero": 0}]},
            "mark": {"type": "rule", "color": palette.muted},
            "encoding": {"y": quantitative("zero")},
        },
        {
            "mark": {"type": "rule", "strokeWidth": 2},
            "encoding": {"x": x, "y": quantitative("low"), "y2": {"field": "high"}, "color": colour},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
            "encoding": {"x": x, "y": quantitative("value"), "color": colour, "shape": by_target(names, palette, "shape"), "tooltip": tips},
        },
    ]  # fmt: skip
    return panel("Change, %", mark, 220, layers, x={}, y={"title": None, "format": "+,.0f"}, data={"values": points})
