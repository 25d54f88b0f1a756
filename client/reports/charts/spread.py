"""How latencies spread: their order statistics with a long tail in view, and against the size of the prompt."""

from __future__ import annotations

from client.core.findings import Findings
from client.core.series import Series, Tail
from client.reports.charts.chart import Chart
from client.reports.charts.look import Palette, Spec, by_target, marks, panel, quantitative, tip
from client.reports.format import estimate, number

METRICS = (("e2e", "End-to-end latency, ms"), ("ttft", "Time to first token, ms"))
MARKS = (1, 2, 10, 100, 1000, 10_000, 100_000, 1_000_000)
LABELS = "{'1': 'p0', '2': 'p50', '10': 'p90', '100': 'p99', '1000': 'p99.9', '10000': 'p99.99', '100000': 'p99.999'}[toString(datum.value)]"


def tail_chart(findings: Findings, series: Series) -> Chart | None:
    drawn = [tail for tail in series.tails if len(tail.ms) > 1]
    if not drawn:
        return None
    return Chart(
        key="tail",
        title="How latencies spread",
        sentence=_tail_sentence(drawn),
        panels=lambda palette: tuple(
            _tail_panel(findings, [tail for tail in drawn if tail.metric == metric], title, palette, metric == drawn[0].metric)
            for metric, title in METRICS
            if any(tail.metric == metric for tail in drawn)
        ),
        head=("Latency", "Target", "p50", "p95", "p99", "Requests"),
        rows=tuple(
            (title, target.name, *(estimate(target.metrics.get(f"{metric}_ms_{q}")) for q in ("p50", "p95", "p99")), f"{target.requests_ok:,}")
            for metric, title in METRICS
            for target in findings.targets.values()
        ),
    )  # fmt: skip


def _tail_sentence(drawn: list[Tail]) -> str:
    parts = [
        f"the slowest of {tail.of:,} at {tail.target} took {number(tail.ms[-1], 'ms')} ms"
        if tail.one_in[-1] >= tail.of * 0.999
        else f"at {tail.target} the slowest requests timed out, and its line ends before them"
        for tail in drawn
        if tail.metric == "e2e"
    ]
    lead = "; ".join(parts)
    return f"{lead[:1].upper()}{lead[1:]}. Read from left to right: half of the requests lie left of p50, the slowest tenth right of p90; a line that turns up at the right is a heavy tail."


def _tail_panel(findings: Findings, tails: list[Tail], title: str, palette: Palette, first: bool) -> Spec:
    names = tuple(findings.targets)
    values = [
        {"one_in": one_in, "ms": ms, "target": tail.target, "share": 100 * (1 - 1 / one_in)}
        for tail in tails
        for one_in, ms in zip(tail.one_in, tail.ms, strict=True)
    ]
    most = max(one_in for tail in tails for one_in in tail.one_in)
    ticks = [mark for mark in MARKS if mark <= most]
    layer: Spec = {
        "mark": {"type": "line", "strokeWidth": 2.25, "interpolate": "step-after"},
        "encoding": {
            "x": quantitative("one_in", scale={"type": "log", "domain": [1, most], "nice": False}),
            "y": quantitative("ms", scale={"zero": False}),
            "color": by_target(names, palette, legend=first), "strokeDash": by_target(names, palette, "strokeDash", legend=first),
            "tooltip": [tip("target", "Target"), tip("share", "Faster requests, %", ".4~g"), tip("ms", "ms", ",.1f")],
        },
    }  # fmt: skip
    x = {"title": "share of requests that are faster", "values": ticks, "labelExpr": LABELS, "grid": True}
    return panel(title, marks(findings), 220, [layer], x=x, data={"values": values})


def token_chart(findings: Findings, series: Series) -> Chart | None:
    """None when no token counts were given."""
    known = [cloud for cloud in series.clouds if cloud.tokens]
    if not known:
        return None
    low, high = min(min(cloud.tokens) for cloud in known), max(max(cloud.tokens) for cloud in known)
    same = low == high
    told = (
        f"Every prompt had {low:,} tokens, picture included: this run cannot say how the first token depends on the picture's size."
        if same
        else f"Prompts had {low:,} to {high:,} tokens, picture included. Where the cloud rises to the right, larger pictures make the first token late."
    )
    return Chart(
        key="tokens",
        title="First token against picture size",
        sentence=told,
        panels=lambda palette: () if same else (_token_panel(findings, series, palette),),
        head=("Target", "Fewest tokens", "Most tokens", "Time to first token, median"),
        rows=tuple(
            (cloud.target, f"{min(cloud.tokens):,}", f"{max(cloud.tokens):,}", estimate(findings.targets[cloud.target].metrics.get("ttft_ms_p50")))
            for cloud in known
        ),
    )  # fmt: skip


def _token_panel(findings: Findings, series: Series, palette: Palette) -> Spec:
    names = tuple(findings.targets)
    values = [
        {"tokens": tokens, "ms": ms, "target": cloud.target}
        for cloud in series.clouds
        for tokens, ms in zip(cloud.tokens, cloud.ms, strict=True)
    ]
    layer: Spec = {
        "mark": {"type": "point", "filled": True, "size": 26, "opacity": 0.6},
        "encoding": {
            "x": quantitative("tokens", scale={"zero": False}),
            "y": quantitative("ms", scale={"zero": True}),
            "color": by_target(names, palette), "shape": by_target(names, palette, "shape"),
            "tooltip": [tip("target", "Target"), tip("tokens", "Prompt tokens", ",d"), tip("ms", "ms", ",.1f")],
        },
    }  # fmt: skip
    return panel(
        "Time to first token, ms",
        marks(findings),
        240,
        [layer],
        x={"title": "prompt tokens, picture included"},
        data={"values": values},
    )
