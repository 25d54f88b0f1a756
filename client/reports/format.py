"""Numbers as a reader wants them: sensible digits, the interval beside the number, and a word where there is no number."""

from __future__ import annotations

from client.core.findings import Effect, Estimate, Findings, Word
from client.core.phrases import at_least

MINUS = "−"
SECONDARY = "°"
"""Behind the word of whatever was not named before the run; a footnote says what it means."""
NOT_MEASURED = "not measured"


def digits_of(value: float, unit: str = "") -> int:
    """Decimal places for about three significant digits; none for counts."""
    size = abs(value)
    if unit in ("requests", "tokens", "count") or size >= 100:
        return 0
    return 1 if size >= 10 else 2 if size >= 1 else 3


def number(value: float, unit: str = "", places: int | None = None) -> str:
    """Thousands grouped, a true minus sign. `places` makes a bound as precise as the value that it stands beside."""
    text = f"{abs(value):,.{digits_of(value, unit) if places is None else places}f}"
    return (MINUS if value < 0 and float(text.replace(",", "")) != 0 else "") + text


def percent(ratio_minus_one: float, digits: int | None = None) -> str:
    """0.05 -> '+5.0 %'; always signed, because it is a change."""
    value = ratio_minus_one * 100
    places = digits if digits is not None else (0 if abs(value) >= 20 else 1)
    text = f"{abs(value):.{places}f}"
    if float(text) == 0:
        return f"{text} %"
    return f"{'+' if value > 0 else MINUS}{text} %"


def torn_told(findings: Findings) -> str:
    """'1 torn line was'."""
    return f"{findings.torn_lines:,} torn {'line was' if findings.torn_lines == 1 else 'lines were'}"


def estimate(item: Estimate | None, *, interval: bool = True) -> str:
    """'243 [240, 246] ms', or the note that says why there is no number."""
    if item is None:
        return NOT_MEASURED
    if item.value is None:
        return short(item.note) if item.note else NOT_MEASURED
    text = number(item.value, item.unit)
    if interval and item.low is not None and item.high is not None and item.low != item.high:
        places = digits_of(item.value, item.unit)
        text += f" [{number(item.low, item.unit, places)}, {number(item.high, item.unit, places)}]"
    if at_least(item):
        text = f"≥ {text}"
    unit = {"1/s": "/s"}.get(item.unit, item.unit)
    return text if unit in ("", "iou") else f"{text}{'' if unit == '/s' else ' '}{unit}"


def short(note: str) -> str:
    """The first words of a note, for a table cell; the whole of it stands in findings.json."""
    return note.partition(":")[0].partition(",")[0].partition(";")[0]


def change(effect: Effect | None) -> str:
    """The word first; a percentage never stands without its interval."""
    if effect is None or effect.word is Word.NOT_MEASURED:
        return NOT_MEASURED
    if effect.word is Word.INVALID:
        return str(effect.word)
    word = str(effect.word) + ("" if effect.primary else SECONDARY)
    if effect.ratio.value is None:
        return word
    return f"{word} {percent_interval(effect.ratio)}"


def percent_interval(ratio: Estimate) -> str:
    """Of a ratio: '−24 % [−26, −22]'."""
    assert ratio.value is not None
    digits = 0 if abs(ratio.value - 1) >= 0.2 else 1
    text = percent(ratio.value - 1, digits)
    if ratio.low is None or ratio.high is None or ratio.low == ratio.high:
        return text
    low, high = (percent(bound - 1, digits).removesuffix(" %") for bound in (ratio.low, ratio.high))
    return f"{text} [{low}, {high}]"


def gib(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f} GiB"


def exact_change(before: float | None, after: float | None) -> str:
    """Of a figure that carries no sampling error, such as bytes."""
    if before is None or after is None or before == 0:
        return NOT_MEASURED
    return percent(after / before - 1)
