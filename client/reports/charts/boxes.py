"""Accuracy picture by picture: the IoU of one target's boxes with the truth against the other's."""

from __future__ import annotations

from client.core.findings import Findings
from client.core.overlaps import Overlaps
from client.core.series import Series
from client.reports.charts.chart import Chart
from client.reports.charts.look import Palette, Spec, marks, panel, quantitative, tip


def box_charts(findings: Findings, series: Series) -> list[Chart]:
    return [_chart(findings, item) for item in series.overlaps if item.image_ids]


def _chart(findings: Findings, item: Overlaps) -> Chart:
    told = next((pair.parity.sentence for pair in findings.comparisons if pair.candidate == item.candidate), "")
    above = f"Points below the diagonal are pictures on which {item.candidate} finds the box less well than {item.baseline}."
    return Chart(
        key=f"boxes-{item.candidate}",
        title=f"Accuracy, picture by picture: {item.candidate} and {item.baseline}",
        sentence=f"{told} {above}".strip(),
        panels=lambda palette: (_panel(findings, item, palette),),
        head=(
            "Picture on which they differ most",
            f"IoU of {item.baseline}",
            f"IoU of {item.candidate}",
            "IoU of the two",
        ),
        rows=tuple((w.image_id, _iou(w.baseline_iou), _iou(w.candidate_iou), _iou(w.between)) for w in item.worst),
        narrow=True,
        note=""
        if item.of == len(item.image_ids)
        else f"{len(item.image_ids):,} of {item.of:,} pairs are drawn, evenly chosen.",
    )


def _iou(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f}"


def _panel(findings: Findings, item: Overlaps, palette: Palette) -> Spec:
    values = [
        {"id": image_id, "a": a, "b": b}
        for image_id, a, b in zip(item.image_ids, item.baseline_iou, item.candidate_iou, strict=True)
    ]
    low = max(0.0, int(min([*item.baseline_iou, *item.candidate_iou]) * 10 - 0.5) / 10)
    scale = {"domain": [low, 1.0], "nice": False, "zero": False}
    points: Spec = {
        "data": {"values": values},
        "mark": {"type": "point", "filled": True, "size": 44, "opacity": 0.7 if len(values) < 300 else 0.4, "color": palette.targets[1]},
        "encoding": {
            "x": quantitative("a", scale=scale),
            "y": quantitative("b", scale=scale),
            "tooltip": [tip("id", "Picture"), tip("a", item.baseline, ".3f"), tip("b", item.candidate, ".3f")],
        },
    }  # fmt: skip
    diagonal: Spec = {
        "data": {"values": [{"a": low, "b": low}, {"a": 1, "b": 1}]},
        "mark": {"type": "line", "color": palette.muted, "strokeDash": [4, 4], "strokeWidth": 1},
        "encoding": {"x": quantitative("a", scale=scale), "y": quantitative("b", scale=scale)},
    }
    return panel(
        f"IoU of {item.candidate} with the truth",
        marks(findings),
        320,
        [diagonal, points],
        x={"title": f"IoU of {item.baseline} with the truth", "grid": True},
    )
