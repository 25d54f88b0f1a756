"""Where the card's memory went: one bar for each target, whose parts add up to the card."""

from __future__ import annotations

from client.core.findings import Findings
from client.core.series import Series
from client.reports.charts.chart import Chart
from client.reports.charts.look import Palette, Spec, marks, panel, quantitative, tip

PARTS = (
    "model weights", "KV cache", "activations at peak", "CUDA graphs", "rest of the budget", "beyond the budget",
    "left to others",
)  # fmt: skip
LABEL_SHARE = 0.1


def memory_chart(findings: Findings, series: Series) -> Chart | None:
    if not series.memory:
        return None
    names = tuple(name for name in findings.targets if name in series.memory)
    present = [part for part in PARTS if any(item.name == part for name in names for item in series.memory[name])]
    return Chart(
        key="memory",
        title="Where the GPU memory went",
        sentence=_sentence(findings, series, names),
        panels=lambda palette: (_panel(findings, series, names, present, palette),),
        head=("Target", *present, "whole card"),
        rows=tuple(
            (name, *(_gib({item.name: item.gib for item in series.memory[name]}.get(part, 0.0)) for part in present), _gib(_total(series, name)))
            for name in names
        ),
    )  # fmt: skip


def _gib(value: float) -> str:
    return f"{value:.2f} GiB"


def _total(series: Series, name: str) -> float:
    return sum(item.gib for item in series.memory[name])


def _sentence(findings: Findings, series: Series, names: tuple[str, ...]) -> str:
    story = [sentence for pair in findings.comparisons[:1] for sentence in pair.memory_story[:2]]
    if story:
        return story[-1]
    name = names[0]
    held = {item.name: item.gib for item in series.memory[name]}
    return f"Of {_gib(_total(series, name))}, {name} holds {_gib(held.get('model weights', 0.0))} of weights and {_gib(held.get('KV cache', 0.0))} of KV cache."


def _panel(findings: Findings, series: Series, names: tuple[str, ...], present: list[str], palette: Palette) -> Spec:
    total = max(_total(series, name) for name in names)
    values = [
        {
            "target": name, "part": item.name, "gib": item.gib, "order": PARTS.index(item.name),
            "text": f"{item.gib:.1f}" if item.gib > LABEL_SHARE * total else "",
        }
        for name in names
        for item in series.memory[name]
    ]  # fmt: skip
    y: Spec = {
        "field": "target",
        "type": "nominal",
        "sort": list(names),
        "axis": {"title": None, "labelFontSize": 13, "labelColor": palette.ink},
    }
    colours = [palette.parts[PARTS.index(part)] for part in present]
    x = quantitative("gib", stack="zero", scale={"domain": [0, total], "nice": False})
    order: Spec = {"field": "order", "type": "quantitative"}
    bars: Spec = {
        "mark": {"type": "bar", "height": 34, "stroke": palette.muted, "strokeWidth": 0.5},
        "encoding": {
            "x": x, "y": y, "order": order,
            "color": {
                "field": "part", "type": "nominal", "title": None, "scale": {"domain": present, "range": colours},
                "legend": {"symbolType": "square", "symbolStrokeWidth": 0.5, "labelLimit": 124},
            },
            "tooltip": [tip("target", "Target"), tip("part", "Part"), tip("gib", "GiB", ".2f")],
        },
    }  # fmt: skip
    labels: Spec = {
        "mark": {"type": "text", "color": palette.ink},
        "encoding": {
            "x": {**x, "bandPosition": 0.5}, "y": y, "order": order, "detail": {"field": "part"}, "text": {"field": "text"},
            "color": {"condition": {"test": "datum.order == 6", "value": palette.ink}, "value": palette.on_part},
        },
    }  # fmt: skip
    title = f"{total:,.1f} GiB of one card, server by server"
    return panel(title, marks(findings), 56 * len(names), [bars, labels], x={"title": "GiB"}, data={"values": values})
