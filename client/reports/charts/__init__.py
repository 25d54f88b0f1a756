"""Findings and series -> charts, each described once in Vega-Lite and drawn twice: interactive on the page, and as PNG.

vl-convert carries the Vega-Lite that draws both, so no browser and no network is needed. It is imported when something is drawn:
a run without a report does not pay for it.
"""

from __future__ import annotations

import importlib.util
import io

from PIL import Image

from client.core.findings import Findings
from client.core.series import Series
from client.reports.charts.boxes import box_charts
from client.reports.charts.chart import Chart
from client.reports.charts.effects import effect_charts
from client.reports.charts.look import LIGHT, SIZE, Spec, config
from client.reports.charts.memory import memory_chart
from client.reports.charts.spread import tail_chart, token_chart
from client.reports.charts.sweep import sweep_chart
from client.reports.charts.times import gpu_chart, latency_chart

__all__ = ["IN_MARKDOWN", "Chart", "available", "charts", "png", "script"]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
IN_MARKDOWN = ("effects", "latency", "memory", "sweep")
"""Charts that a pull request can take; the page has all."""


def charts(findings: Findings, series: Series) -> tuple[Chart, ...]:
    """All that the data allows, in the order in which a reader asks."""
    found = [
        *effect_charts(findings),
        sweep_chart(findings),
        latency_chart(findings, series),
        tail_chart(findings, series),
        memory_chart(findings, series),
        gpu_chart(findings, series),
        token_chart(findings, series),
        *box_charts(findings, series),
    ]
    return tuple(chart for chart in found if chart is not None)


def available() -> bool:
    """Whether the charting library is installed. A host that only measures can do without: its runs are drawn elsewhere."""
    return importlib.util.find_spec("vl_convert") is not None


def png(chart: Chart) -> bytes:
    """The chart at twice its size on white, so that it reads on any background. The same chart gives the same bytes."""
    import vl_convert

    panels = [{**spec, "width": SIZE} for spec in chart.panels(LIGHT)]
    whole: Spec = (
        panels[0]
        if len(panels) == 1
        else {"vconcat": panels, "resolve": {"scale": {"color": "independent", "strokeDash": "independent"}}}
    )
    spec = {"$schema": SCHEMA, "config": config(LIGHT, "#ffffff"), **whole}
    drawn = vl_convert.vegalite_to_png(spec, scale=2, allowed_base_urls=[])
    # The same pixels in a third of the bytes: white is opaque, and a run directory is kept, mailed and committed.
    smaller = io.BytesIO()
    Image.open(io.BytesIO(drawn)).convert("RGB").save(smaller, "PNG", optimize=True)
    return smaller.getvalue()


def script() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that needs no network and no `eval`."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
