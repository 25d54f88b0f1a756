"""What happened when: each request's latency, and the GPU, on the same time axis."""

from __future__ import annotations

from client.core.findings import Findings, TargetFindings
from client.core.records import Phase
from client.core.series import Dots, GpuLine, Series
from client.reports.charts.chart import Chart, Row
from client.reports.charts.look import Palette, Spec, by_target, marks, panel, quantitative, tip
from client.reports.format import estimate, number

PHASES = {Phase.COLD: "first request (cold)", Phase.WARMUP: "warm-up", Phase.QUALITY: "accuracy pass (not timed)"}
QUANTITIES = (
    ("power_w", "Power, W", "W"),
    ("memory_gib", "Memory used, GiB", "GiB"),
    ("sm_mhz", "SM clock, MHz", "MHz"),
)
FAILED = "failed"
TIME: Spec = {"title": "seconds since the start of the run"}


def _end(series: Series) -> float:
    ends = [s.end_s for s in series.stretches] + [max(d.t_s) for d in series.latency if d.t_s]
    return max([*ends, 1.0])


def _x(series: Series) -> Spec:
    return {"scale": {"domain": [0, _end(series)], "nice": False, "zero": False}}


def _shading(series: Series, palette: Palette, legend: bool) -> Spec | None:
    """Where the load did not count, in two shades and named."""
    values = [
        {"from": s.start_s, "to": s.end_s, "phase": PHASES[s.phase], "target": s.target}
        for s in series.stretches
        if s.phase in PHASES
    ]
    if not values:
        return None
    names = [name for name in PHASES.values() if any(value["phase"] == name for value in values)]
    shades = dict(zip(PHASES.values(), (palette.shade_strong, palette.shade, palette.shade), strict=True))
    return {
        "data": {"values": values},
        "mark": {"type": "rect"},
        "encoding": {
            "x": quantitative("from", **_x(series)),
            "x2": {"field": "to"},
            "fill": {
                "field": "phase", "type": "nominal", "title": None, "legend": {"symbolType": "square", "symbolStrokeWidth": 0, "orient": "bottom", "offset": 4, "labelLimit": 200} if legend else None,
                "scale": {"domain": names, "range": [shades[name] for name in names]},
            },
            "tooltip": [tip("phase", "Phase"), tip("target", "Target")],
        },
    }  # fmt: skip


# ---------------------------------------------------------------- latency


def latency_chart(findings: Findings, series: Series) -> Chart | None:
    if not any(dots.t_s for dots in series.latency):
        return None
    return Chart(
        key="latency",
        title="Latency over time",
        sentence=_latency_sentence(findings, series),
        panels=lambda palette: (_latency_panel(findings, series, palette),),
        head=("Target", "First request (cold)", "Warm-up", "Measured, median", "Failed"),
        rows=tuple(_latency_row(target) for target in findings.targets.values()),
        note=_drawn(series.latency),
    )


def _drawn(all_dots: tuple[Dots, ...]) -> str:
    shown, of = sum(len(dots.t_s) for dots in all_dots), sum(dots.of for dots in all_dots)
    if shown == of:
        return ""
    return f"{shown:,} of {of:,} requests are drawn: of each stretch the fastest, the slowest and some in between."


def _latency_row(target: TargetFindings) -> Row:
    return (
        target.name,
        estimate(target.cold_start.get("e2e_ms")),
        estimate(target.warm_up.get("e2e_ms")),
        estimate(target.metrics.get("e2e_ms_p50")),
        f"{sum(target.errors.values()):,} of {target.requests_sent:,}",
    )


def _latency_sentence(findings: Findings, series: Series) -> str:
    parts = []
    for target in findings.targets.values():
        median, cold = target.metrics.get("e2e_ms_p50"), target.cold_start.get("e2e_ms")
        if median is None or median.value is None:
            parts.append(f"{target.name}: no median ({estimate(median)})")
            continue
        first = f" after a first request of {estimate(cold)}" if cold is not None and cold.value is not None else ""
        parts.append(f"{target.name} answers in {estimate(median)} (median){first}")
    failed = sum(sum(target.errors.values()) for target in findings.targets.values())
    crosses = (
        f" {failed:,} measured request{'s' if failed != 1 else ''} failed: crosses, at the time each took to fail."
        if failed
        else ""
    )
    shaded = " Shaded stretches are not measured." if any(s.phase in PHASES for s in series.stretches) else ""
    return "; ".join(parts) + "." + crosses + shaded


def _latency_panel(findings: Findings, series: Series, palette: Palette) -> Spec:
    names = tuple(findings.targets)
    values = [
        {"t": t, "ms": ms, "target": dots.target, "how": FAILED if failed else "ok"}
        for dots in series.latency
        for t, ms, failed in zip(dots.t_s, dots.ms, dots.failed, strict=True)
    ]
    taken = sorted(float(ms) for dots in series.latency for ms in dots.ms if ms > 0)
    wide = taken and taken[-1] > 4 * taken[len(taken) // 2]
    log = {"type": "log", "nice": False, "domain": [0.9 * taken[0], 1.1 * taken[-1]]} if wide else {"zero": True}
    y = quantitative("ms", scale=log)
    tips = [
        tip("target", "Target"),
        tip("t", "Sent after, s", ",.2f"),
        tip("ms", "Took, ms", ",.0f"),
        tip("how", "Outcome"),
    ]
    points: Spec = {
        "transform": [{"filter": "datum.how == 'ok'" + (" && datum.ms > 0" if wide else "")}],
        "mark": {"type": "point", "filled": True, "size": 34 if len(values) < 400 else 14, "opacity": 0.8 if len(values) < 400 else 0.5},
        "encoding": {
            "x": quantitative("t", **_x(series)),
            "y": y, "color": by_target(names, palette), "shape": by_target(names, palette, "shape"), "tooltip": tips,
        },
    }  # fmt: skip
    crosses: Spec = {
        "transform": [{"filter": f"datum.how == '{FAILED}'" + (" && datum.ms > 0" if wide else "")}],
        "mark": {"type": "text", "text": "×", "fontSize": 16, "fontWeight": "bold"},
        "encoding": {"x": quantitative("t", **_x(series)), "y": y, "color": by_target(names, palette), "tooltip": tips},
    }  # fmt: skip
    shading = _shading(series, palette, True)
    layers = [shading] if shading else []
    layers += [layer for layer, how in ((points, "ok"), (crosses, FAILED)) if any(v["how"] == how for v in values)]
    scale = " (logarithmic)" if wide else ""
    return panel(
        f"End-to-end latency of each request, ms{scale}",
        marks(findings),
        280,
        layers,
        x=TIME,
        data={"values": values},
    )


# ---------------------------------------------------------------- the GPU


def gpu_chart(findings: Findings, series: Series) -> Chart | None:
    if not series.gpu:
        return None
    shown = tuple(item for item in QUANTITIES if any(line.quantity == item[0] for line in series.gpu))
    return Chart(
        key="gpu",
        title="What the GPU did",
        sentence=_gpu_sentence(series),
        panels=lambda palette: tuple(_gpu_panel(findings, series, key, title, palette, key == shown[0][0]) for key, title, _ in shown),
        head=("GPU", "Quantity", "Lowest", "Mean", "Highest", "Readings"),
        rows=tuple(
            (_owner(line), title, number(line.low, unit), number(line.mean, unit), number(line.high, unit), f"{line.of:,}")
            for key, title, unit in shown
            for line in series.gpu
            if line.quantity == key
        ),
        note="Long recordings are drawn as means of equal stretches." if any(line.of > len(line.t_s) for line in series.gpu) else "",
    )  # fmt: skip


def _owner(line: GpuLine) -> str:
    name = f"GPU {line.gpu}" if line.target is None else line.target
    return f"{name}, GPU {line.gpu}" if line.target is not None and line.gpu else name


def _gpu_sentence(series: Series) -> str:
    parts = [
        f"{_owner(line)} drew {number(line.low, 'W')} to {number(line.high, 'W')} W"
        for line in series.gpu
        if line.quantity == "power_w"
    ]
    clocks = [line for line in series.gpu if line.quantity == "sm_mhz"]
    if clocks:
        low, high = min(line.low for line in clocks), max(line.high for line in clocks)
        parts.append(
            f"the clock stayed at {high:,.0f} MHz"
            if low == high
            else f"the clock lay between {low:,.0f} and {high:,.0f} MHz"
        )
    return ("; ".join(parts) or "Memory readings only") + ", over the whole run."


def _gpu_panel(findings: Findings, series: Series, key: str, title: str, palette: Palette, first: bool) -> Spec:
    lines = [line for line in series.gpu if line.quantity == key]
    owners = tuple(findings.targets) if all(line.target for line in lines) else tuple(dict.fromkeys(map(_owner, lines)))
    values = [
        {"t": t, "v": v, "target": line.target or _owner(line), "line": f"{_owner(line)}"}
        for line in lines
        for t, v in zip(line.t_s, line.value, strict=True)
    ]
    line_spec: Spec = {
        "mark": {"type": "line", "strokeWidth": 1.4, "interpolate": "linear"},
        "encoding": {
            "x": quantitative("t", **_x(series)),
            "y": quantitative("v", scale={"zero": key != "sm_mhz"}),
            "color": by_target(owners, palette, legend=first), "strokeDash": by_target(owners, palette, "strokeDash", legend=first), "detail": {"field": "line"},
            "tooltip": [tip("line", "GPU"), tip("t", "After, s", ",.1f"), tip("v", title, ",.1f")],
        },
    }  # fmt: skip
    shading = _shading(series, palette, False)
    layers = [*([shading] if shading else []), line_spec]
    return panel(
        title, marks(findings), 130, layers, x=TIME if key == "sm_mhz" else {"title": None}, data={"values": values}
    )
