"""How every chart looks: one config, two palettes. On a page the colours are CSS variables, so that light, dark and print are the page's."""

from __future__ import annotations

from typing import Any

import msgspec

from client.core.findings import Findings

Spec = dict[str, Any]
FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
SHAPES = ("circle", "triangle-up", "square", "diamond", "cross")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4])
SIZE = 720
"""Width of a PNG in pixels before scaling."""


class Palette(msgspec.Struct, frozen=True):
    """Targets in the order of the plan; Okabe and Ito's hues, which people with any common colour blindness tell apart."""

    ink: str
    muted: str
    rule: str
    shade: str
    shade_strong: str
    targets: tuple[str, ...]
    parts: tuple[str, ...]
    on_part: str


LIGHT = Palette(
    "#1c1d20", "#5d6068", "#e3e4e8", "#f0f0f3", "#dcdde3",
    ("#0072b2", "#c2570c", "#00815d", "#a03f79", "#5d6068"),
    ("#7fb3d5", "#8fcbb0", "#e6c76b", "#d9a3c3", "#c3c6cf", "#a9adb8", "#ececf0"), "#1c1d20",
)  # fmt: skip
DARK = Palette(
    "#eceae4", "#a9a8a2", "#35363b", "#222328", "#34353c",
    ("#5cb3e8", "#f0a04b", "#4cc49c", "#dd8fbb", "#a9a8a2"),
    ("#6ca6cc", "#7cbfa2", "#d6b658", "#cb92b4", "#8b8e98", "#73767f", "#2c2d32"), "#121315",
)  # fmt: skip


def css(palette: Palette) -> str:
    """The palette as CSS custom properties."""
    pairs = [("ink", palette.ink), ("muted", palette.muted), ("rule", palette.rule), ("shade", palette.shade)]
    pairs += [("shade-strong", palette.shade_strong), ("on-part", palette.on_part)]
    pairs += [(f"t{k}", colour) for k, colour in enumerate(palette.targets)]
    pairs += [(f"p{k}", colour) for k, colour in enumerate(palette.parts)]
    return "".join(f"--{name}:{colour};" for name, colour in pairs)


ON_PAGE = Palette(
    "var(--ink)", "var(--muted)", "var(--rule)", "var(--shade)", "var(--shade-strong)",
    tuple(f"var(--t{k})" for k in range(len(LIGHT.targets))), tuple(f"var(--p{k})" for k in range(len(LIGHT.parts))), "var(--on-part)",
)  # fmt: skip


def config(palette: Palette, background: str | None = None) -> Spec:
    axis = {
        "labelColor": palette.muted, "titleColor": palette.muted, "gridColor": palette.rule, "domainColor": palette.rule,
        "tickColor": palette.rule, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "titlePadding": 8,
        "labelPadding": 6, "tickSize": 4, "labelFlush": True, "titleLimit": 270,
    }  # fmt: skip
    return {
        "background": background,
        "font": FONT,
        "padding": 4 if background is None else 20,
        "view": {"stroke": None},
        "axis": axis,
        "axisY": {"domain": False, "ticks": False, "tickCount": 5, "labelFlush": False, "minExtent": 38, "labelLimit": 100},
        "axisX": {"grid": False, "tickCount": 6},
        "title": {
            "anchor": "start", "frame": "bounds", "color": palette.ink, "fontSize": 13, "fontWeight": 600, "offset": 10,
            "subtitleColor": palette.muted, "subtitleFontSize": 12,
        },
        "legend": {
            "orient": "top", "direction": "horizontal", "title": None, "labelColor": palette.ink, "labelFontSize": 12, "labelLimit": 118, "columns": 2,
            "symbolSize": 80, "symbolStrokeWidth": 2, "offset": 8, "columnPadding": 16, "padding": 0, "symbolOpacity": 1,
        },
        "rule": {"color": palette.muted},
        "text": {"color": palette.ink, "fontSize": 12},
        "aria": False,
    }  # fmt: skip


def by_target(names: tuple[str, ...], palette: Palette, what: str = "color", *, legend: bool = True) -> Spec:
    """An encoding channel that tells targets apart: colour, and beside it shape or dash, so that colour is never alone."""
    ranges: dict[str, list[Any]] = {
        "color": [palette.targets[k % len(palette.targets)] for k in range(len(names))],
        "shape": [SHAPES[k % len(SHAPES)] for k in range(len(names))],
        "strokeDash": [DASHES[k % len(DASHES)] for k in range(len(names))],
    }
    found: Spec = {
        "field": "target",
        "type": "nominal",
        "scale": {"domain": list(names), "range": ranges[what]},
        "title": None,
    }
    return found if legend else {**found, "legend": None}


def marks(findings: Findings) -> str:
    """What must stand over every chart, wherever it is copied to."""
    return ("SIMULATED · " if findings.simulated else "") + ("" if findings.valid else "INVALID · ")


def panel(
    title: str, mark: str, height: int, layers: list[Spec], *, x: Spec, y: Spec | None = None, **other: Any
) -> Spec:
    """Layers on shared axes: `x` and `y` describe the axes once, so that no layer's idea of a title wins over another's."""
    for layer in layers:
        for channel, axis in (("x", x), ("y", {"title": None} if y is None else y)):
            if layer["encoding"].get(channel, {}).get("type") == "quantitative":
                layer["encoding"][channel] = {**layer["encoding"][channel], "axis": axis}
    whole = {"title": {"text": mark + title}, "width": "container", "height": height, "layer": layers, **other}
    return {**whole, "autosize": {"type": "fit-x", "contains": "padding"}}


def quantitative(field: str, **other: Any) -> Spec:
    return {"field": field, "type": "quantitative", **other}


def tip(field: str, title: str, form: str | None = None) -> Spec:
    """One line of a tooltip."""
    if form is None:
        return {"field": field, "type": "nominal", "title": title}
    return {"field": field, "type": "quantitative", "title": title, "format": form}
