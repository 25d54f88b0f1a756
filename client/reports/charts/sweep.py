"""Latency and throughput against load, and where the gain of more load ends."""

from __future__ import annotations

from client.core.cut import label_of
from client.core.findings import Findings
from client.reports.charts.chart import Chart
from client.reports.charts.look import Palette, Spec, by_target, marks, panel, quantitative, tip
from client.reports.format import estimate

METRICS = (
    ("e2e_ms_p50", "End-to-end latency, median, ms"), ("requests_per_s", "Throughput, requests per second"),
    ("goodput_per_s", "Goodput, requests per second that met every objective"),
)  # fmt: skip


def sweep_chart(findings: Findings) -> Chart | None:
    if not findings.levels:
        return None
    shown = [item for item in METRICS if _values(findings, item[0])]
    if not shown:
        return None
    return Chart(
        key="sweep",
        title="Latency and throughput against load",
        sentence=_sentence(findings),
        panels=lambda palette: tuple(
            _panel(findings, key, title, palette, key == shown[-1][0]) for key, title in shown
        ),
        head=("Load", "Target", *(title for _, title in shown)),
        rows=tuple(
            (label_of(level), name, *(estimate(level.metrics.get(name, {}).get(key)) for key, _ in shown))
            for level in findings.levels
            for name in findings.targets
        ),
    )


def _sentence(findings: Findings) -> str:
    told = [
        _no_knee(findings, name) if at is None else f"{name} stops gaining throughput after {at} (dashed line)"
        for name, at in findings.knees.items()
    ]  # fmt: skip
    if not told:
        return "No level was measured."
    beyond = " Beyond it more load only adds waiting." if any(findings.knees.values()) else ""
    return f"{'; '.join(told)}.{beyond}{_most_goodput(findings)}"


def _no_knee(findings: Findings, name: str) -> str:
    """The run may have ended before it came to the highest load that was asked."""
    whole = [level.label for level in findings.levels if name in level.metrics and not level.cut_short]
    if not whole:
        return f"{name} was measured whole at no load"
    which = "asked" if len(whole) == len(findings.levels) else "measured whole"
    return f"{name} gains throughput up to {whole[-1]}, the highest load that was {which}"


def _most_goodput(findings: Findings) -> str:
    """Where each target met its objectives most often; '' without objectives."""
    told = []
    for name in findings.targets:
        known = [
            (level.metrics[name].get("goodput_per_s"), level.label)
            for level in findings.levels
            if name in level.metrics
        ]
        best = max(
            ((item, label) for item, label in known if item is not None and item.value is not None),
            key=lambda pair: pair[0].value or 0.0,
            default=None,
        )
        if best is not None:
            told.append(f"{name} {estimate(best[0], interval=False)} at {best[1]}" if best[0].value else f"{name} none")
    return f" Most goodput: {', '.join(told)}." if told else ""


def _values(findings: Findings, key: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for level in findings.levels:
        for name in findings.targets:
            item = level.metrics.get(name, {}).get(key)
            if item is not None and item.value is not None:
                found.append({"load": level.value, "label": level.label, "target": name, "value": item.value, "low": item.low, "high": item.high,
                              "text": estimate(item)})  # fmt: skip
    return found


def _panel(findings: Findings, key: str, title: str, palette: Palette, last: bool) -> Spec:
    names = tuple(findings.targets)
    loads = sorted(level.value for level in findings.levels)
    wide = loads[0] > 0 and loads[-1] >= 8 * loads[0]
    knob = "requests in flight" if findings.levels[0].knob == "concurrency" else "requests per second offered"
    x = quantitative("load", scale={"type": "log", "base": 2, "nice": False} if wide else {"zero": False})
    shared: Spec = {"x": x, "color": by_target(names, palette)}
    tips = [tip("target", "Target"), tip("label", "Load"), tip("text", title)]
    layers: list[Spec] = [
        {
            "mark": {"type": "line", "strokeWidth": 2},
            "encoding": {**shared, "y": quantitative("value", scale={"zero": True}), "strokeDash": by_target(names, palette, "strokeDash")},
        },
        {"mark": {"type": "rule", "strokeWidth": 2.5}, "encoding": {**shared, "y": quantitative("low"), "y2": {"field": "high"}}},
        {
            "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
            "encoding": {**shared, "y": quantitative("value"), "shape": by_target(names, palette, "shape"), "tooltip": tips},
        },
    ]  # fmt: skip
    at = {level.label: level.value for level in findings.levels}
    knees = [{"load": at[label], "target": name} for name, label in findings.knees.items() if label in at]
    if knees:
        layers.insert(
            0, {"data": {"values": knees}, "mark": {"type": "rule", "strokeDash": [3, 3]}, "encoding": shared}
        )
    axis = {"title": knob if last else None, "values": loads, "format": "~g"}
    return panel(title, marks(findings), 200, layers, x=axis, data={"values": _values(findings, key)})
