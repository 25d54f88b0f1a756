"""How an effect is told: the numbers of both arms, then the word with its interval and what it was judged against."""

from __future__ import annotations

import math
from dataclasses import dataclass

from client.core.findings import Estimate, Word
from client.core.names import Name


def percent(ratio: float) -> str:
    """Signed change: 0.631 -> `−36.9 %`."""
    value = (ratio - 1) * 100
    sign = "−" if round(value, 1) < 0 else "+" if round(value, 1) > 0 else "±"
    return f"{sign}{abs(value):,.1f} %"


def share(value: float) -> str:
    """0.03 -> `3%`, 0.005 -> `0.5%`."""
    return f"{value * 100:.3g}%"


def number(estimate: Estimate) -> str:
    value = estimate.value
    if value is None:
        return estimate.note or "not measured"
    whole = abs(value) >= 10_000 or (abs(value) >= 100 and float(value).is_integer())
    digits = f"{value:,.0f}" if whole else f"{value:,.1f}" if abs(value) >= 10 else f"{value:,.3g}"
    if not whole and abs(value) < 10 and not float(value).is_integer():
        digits = f"{value:#,.3g}"  # 4.10 beside 6.15, not 4.1
    least = "≥ " if at_least(estimate) else ""
    return f"{least}{digits}/s" if estimate.unit == "1/s" else f"{least}{digits} {estimate.unit}".strip()


def at_least(estimate: Estimate) -> bool:
    """A quantile that timed out: its value is the limit, and it is that or more."""
    return estimate.high is None and estimate.note is not None and estimate.note.startswith("≥")


@dataclass(frozen=True, slots=True)
class Told:
    """What a sentence is made of. `who` is (baseline, candidate)."""

    name: Name
    who: tuple[str, str]
    a: Estimate
    b: Estimate
    ratio: Estimate
    floor: float | None
    needs: int | None
    min_effect: float
    primary: bool
    drift: float = 0.0
    """Inside each side of the interval, as a log: what the baseline drifted between its two runs."""
    alone: Word | None = None
    """Inconclusive only through Holm's correction: the word that it would have without it, `among` so many others."""
    among: str = ""
    other_load: bool = False
    """The primary metric, at another load than the one that decides."""

    @property
    def interval(self) -> str:
        assert self.ratio.value is not None
        if self.ratio.low is None or self.ratio.high is None or self.ratio.low == self.ratio.high:
            return percent(self.ratio.value)
        return f"{percent(self.ratio.value)} [{percent(self.ratio.low)}, {percent(self.ratio.high)}]"


def effect_sentence(word: Word, told: Told) -> str:
    role = "" if told.primary else " (secondary, another load)" if told.other_load else " (secondary)"
    if word is Word.NOT_MEASURED:
        return f"{told.name.words}{role}: not measured ({told.a.note or told.b.note or 'no numbers'})."
    head = f"{told.name.words}{role}: {told.who[0]} {number(told.a)}, {told.who[1]} {number(told.b)}"
    if told.ratio.value is None and word not in (Word.INCONCLUSIVE, Word.EQUIVALENT, Word.NO_DIFFERENCE):
        ends = [end for end in (told.ratio.low, told.ratio.high) if end is not None]
        far = f": by {percent(ends[0])} or more" if ends else ", which has none"
        return f"{head}; {told.who[1]} is {word} than {told.who[0]}{far}."
    if told.a.value == 0 and told.b.value == 0:
        return f"{head}; inconclusive, there is none of it on either side."
    if told.ratio.value is None or told.ratio.low is None or told.ratio.high is None:
        notes = [note for note in (told.a.note, told.b.note) if note]
        return f"{head}; inconclusive, the ratio has no bounded interval ({'; '.join(notes) or 'too few requests'})."
    tail = {
        Word.EQUIVALENT: _equivalent,
        Word.NO_DIFFERENCE: _no_difference,
        Word.INCONCLUSIVE: _inconclusive,
    }.get(word)
    return f"{head}; {tail(told) if tail is not None else _directed(word, told)}."


def _equivalent(told: Told) -> str:
    return f"equivalent: {told.interval} lies inside ±{share(told.min_effect)}, the smallest effect worth having"


def _no_difference(told: Told) -> str:
    size = abs((told.ratio.value or 1.0) - 1)
    if told.floor is not None and size <= told.floor:
        noise = f"which is inside what the same server differed from itself by in this run (±{told.floor * 100:.1f} %)"
        return f"no difference shown: {told.interval}, {noise}"
    low, high = told.ratio.low or 0.0, told.ratio.high or 0.0
    if low > 1 or high < 1:
        return f"no difference worth having shown: {told.interval}, its middle is within ±{share(told.min_effect)}"
    return f"no difference shown: {told.interval} holds zero, and its middle is within ±{share(told.min_effect)}"


def _inconclusive(told: Told) -> str:
    if told.alone is not None:
        lost = f"among {told.among} it does not survive Holm's correction"
        return f"inconclusive: {told.interval} would be {told.alone} on its own, but {lost}"
    if told.needs:
        more = f"; about {told.needs:,} requests per arm would probably settle it"
    elif told.drift:
        more = f"; the baseline drifted between its two runs (±{math.expm1(told.drift):.1%} of this), which more requests do not narrow: measure a live pair (--design interleaved) or a steadier machine"
    else:
        more = "; no number of requests up to a million would settle it here"
    return f"inconclusive: {told.interval} does not settle whether it is more than ±{share(told.min_effect)}{more}"


def _directed(word: Word, told: Told) -> str:
    ends = [abs(end - 1) for end in (told.ratio.low, told.ratio.high) if end is not None]
    small = f", perhaps by less than the {share(told.min_effect)} worth having" if min(ends) < told.min_effect else ""
    return f"{told.who[1]} is {word} than {told.who[0]}: {told.interval}{small}"
