"""How large each difference is: ratio with its interval, the band of what is too small to matter, and what one server differs from itself by."""

from __future__ import annotations

from client.core.findings import Comparison, Effect, Findings, Word
from client.core.names import NAMES
from client.core.phrases import share
from client.reports.charts.chart import Chart
from client.reports.charts.look import Palette, Spec, marks, panel, quantitative, tip
from client.reports.format import SECONDARY, change
from client.reports.tables import LATENCIES

STEP = 62
LINE = 17
"""How far below the middle of its row the interval stands; its words stand above."""
SHORTS = tuple((short, label) for label, _, short in LATENCIES)
GOOD = (Word.FASTER, Word.BETTER)


def effect_charts(findings: Findings) -> list[Chart]:
    return [found for pair in findings.comparisons if (found := _chart(findings, pair)) is not None]


def _shown(pair: Comparison) -> list[tuple[str, Effect]]:
    found = [(label, pair.effects[short]) for short, label in SHORTS if short in pair.effects]
    if "joules_per_request" in pair.effects:
        found.append(("Energy per request", pair.effects["joules_per_request"]))
    return [
        (label, effect) for label, effect in found
        if effect.word is not Word.INVALID and None not in (effect.ratio.value, effect.ratio.low, effect.ratio.high)
    ]  # fmt: skip


def _chart(findings: Findings, pair: Comparison) -> Chart | None:
    shown = _shown(pair)
    if not shown:
        return None
    values = [_value(label, effect) for label, effect in shown]
    return Chart(
        key=f"effects-{pair.candidate}",
        title=f"How much {pair.candidate} differs from {pair.baseline}",
        sentence=_sentence(findings, pair, shown),
        panels=lambda palette: (_panel(findings, pair, values, palette),),
        head=("Metric", f"{pair.candidate} against {pair.baseline}", f"{pair.baseline} against itself"),
        rows=tuple((label, change(effect), _noise(effect)) for label, effect in shown),
    )


def _noise(effect: Effect) -> str:
    return "not known" if effect.noise_floor is None else f"±{effect.noise_floor:.1%}".replace("%", " %")


def _value(label: str, effect: Effect) -> dict[str, object]:
    ratio, noise = effect.ratio, effect.noise_floor
    assert ratio.value is not None
    assert ratio.low is not None
    assert ratio.high is not None
    return {
        "label": label,
        "title": label + (" (decides)" if effect.primary else ""),
        "text": change(effect),
        "value": round((ratio.value - 1) * 100, 3),
        "low": round((ratio.low - 1) * 100, 3),
        "high": round((ratio.high - 1) * 100, 3),
        "noise": None if noise is None else round(noise * 100, 3),
        "minus": None if noise is None else round(-noise * 100, 3),
        "weight": 4 if effect.primary else 2.5,
    }


def _sentence(findings: Findings, pair: Comparison, shown: list[tuple[str, Effect]]) -> str:
    told = pair.effects.get(findings.primary)
    lead = f"What decides is the {NAMES[findings.primary].words}: {change(told)}. " if told is not None else ""
    sides = [
        f"{word} in {', '.join(NAMES[effect.metric].words for _, effect in items)}"
        for word in ("faster", "higher", "slower", "lower")
        if (items := [(label, effect) for label, effect in shown if str(effect.word) == word])
    ]
    seen = (
        f"{pair.candidate} is {'; '.join(sides)}. " if sides else f"No metric shows a difference of {pair.candidate}. "
    )
    if not sides and told is not None and told.word is Word.INVALID:
        seen = ""  # what the other metrics show of a spoiled run is no news
    band = f"A line inside the shaded band (±{share(findings.min_effect)}) is too small a difference to matter"
    noise = any(effect.noise_floor is not None for _, effect in shown)
    return (
        lead
        + seen
        + band
        + ("; one inside its pale bar is no more than what one server differs from itself by." if noise else ".")
        + (f" {SECONDARY} secondary: it does not decide." if any(not effect.primary for _, effect in shown) else "")
    )


def _panel(findings: Findings, pair: Comparison, values: list[dict[str, object]], palette: Palette) -> Spec:
    band = findings.min_effect * 100
    y: Spec = {
        "field": "label",
        "type": "nominal",
        "sort": None,
        "axis": None,
        "scale": {"paddingInner": 0, "paddingOuter": 0},
    }
    colour = palette.targets[1]
    tips = [tip("label", "Metric"), tip("text", "Effect"), tip("noise", "One server against itself, ± %", ".1f")]
    layers: list[Spec] = [
        {
            "data": {"values": [{"from": -band, "to": band}]},
            "mark": {"type": "rect", "color": palette.shade_strong, "opacity": 0.75},
            "encoding": {"x": quantitative("from"), "x2": {"field": "to"}},
        },
        {"data": {"values": [{"zero": 0}]}, "mark": {"type": "rule", "color": palette.muted}, "encoding": {"x": quantitative("zero")}},
        {
            "mark": {"type": "rule", "strokeWidth": 11, "opacity": 0.28, "color": palette.muted, "yOffset": LINE},
            "transform": [{"filter": "isValid(datum.noise)"}],
            "encoding": {"x": quantitative("minus"), "x2": {"field": "noise"}, "y": y},
        },
        {
            "mark": {"type": "rule", "color": colour, "yOffset": LINE},
            "encoding": {
                "x": quantitative("low"), "x2": {"field": "high"}, "y": y, "tooltip": tips,
                "strokeWidth": {"field": "weight", "type": "quantitative", "scale": None},
            },
        },
        {
            "mark": {"type": "point", "filled": True, "size": 90, "color": colour, "opacity": 1, "yOffset": LINE, "stroke": palette.ink},
            "encoding": {"x": quantitative("value"), "y": y, "tooltip": tips},
        },
        _words("title", -18, palette.ink, y, 600),
        _words("text", -2, palette.muted, y, 400),
    ]  # fmt: skip
    title = f"{pair.candidate} against {pair.baseline}, with {findings.confidence:.0%} intervals"
    return panel(
        title,
        marks(findings),
        STEP * len(values),
        layers,
        x={"title": "change, %", "format": "+,.0f", "labelExpr": "datum.value == 0 ? '0' : datum.label"},
        data={"values": values},
    )


def _words(field: str, dy: int, colour: str, y: Spec, weight: int) -> Spec:
    return {
        "mark": {"type": "text", "align": "left", "dy": dy, "color": colour, "fontWeight": weight},
        "encoding": {"x": {"value": 0}, "y": y, "text": {"field": field}},
    }
