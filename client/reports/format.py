"""Numbers as a reader wants them: sensible digits, the interval beside the number, and a word where there is no number."""

from __future__ import annotations

from client.core.findings import Effect, Estimate, Word

MINUS = "−"
NOT_MEASURED = "not measured"
_UNIT_DIGITS = {"": 4, "ratio": 3}


def number(value: float, unit: str = "") -> str:
    """Four significant digits at most, thousands grouped, a true minus sign."""
    size = abs(value)
    if size == 0:
        text = "0"
    elif unit in ("requests", "tokens", "count") or size >= 1000:
        text = f"{size:,.0f}"
    elif size >= 100:
        text = f"{size:.1f}" if unit == "ms" and size < 200 else f"{size:.0f}"
    elif size >= 10:
        text = f"{size:.1f}"
    elif size >= 1:
        text = f"{size:.2f}"
    else:
        text = f"{size:.3f}"
    return (MINUS if value < 0 and float(text.replace(",", "")) != 0 else "") + text


def percent(ratio_minus_one: float, digits: int | None = None) -> str:
    """0.05 -> '+5.0 %'; always signed, because it is a change."""
    value = ratio_minus_one * 100
    places = digits if digits is not None else (0 if abs(value) >= 20 else 1)
    text = f"{abs(value):.{places}f}"
    if float(text) == 0:
        return f"{text} %"
    return f"{'+' if value > 0 else MINUS}{text} %"


def estimate(item: Estimate | None, *, interval: bool = True) -> str:
    """'243 ms [240, 246]', or the note that says why there is no number."""
    if item is None:
        return NOT_MEASURED
    if item.value is None:
        return item.note or NOT_MEASURED
    scale, unit = (100.0, "%") if item.unit == "share" else (1.0, item.unit)
    text = number(item.value * scale, unit)
    if unit and unit != "iou":
        text += f" {unit}"
    if interval and item.low is not None and item.high is not None and item.low != item.high:
        text += f" [{number(item.low * scale, unit)}, {number(item.high * scale, unit)}]"
    return text


def change(effect: Effect | None) -> str:
    """The word first; a percentage never stands without its interval."""
    if effect is None or effect.word is Word.NOT_MEASURED:
        return NOT_MEASURED
    word = str(effect.word)
    if effect.word is Word.INVALID or effect.ratio.value is None:
        return word
    text = f"{word}: {percent(effect.ratio.value - 1)}"
    if effect.ratio.low is not None and effect.ratio.high is not None:
        digits = 0 if abs(effect.ratio.value - 1) >= 0.2 else 1
        text += f" [{percent(effect.ratio.low - 1, digits)}, {percent(effect.ratio.high - 1, digits)}]"
    if effect.word is Word.INCONCLUSIVE and effect.needs_requests:
        text += f", needs about {effect.needs_requests:,} requests"
    return text


def gib(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f} GiB"


def exact_change(before: float | None, after: float | None) -> str:
    """Of a figure that carries no sampling error, such as bytes."""
    if before is None or after is None or before == 0:
        return NOT_MEASURED
    return percent(after / before - 1)
