"""Conditions for CI (`--fail-if`), judged on intervals after a run. Their grammar: `client.core.conditions`.

A condition is met (`fail`) only if its whole interval lies on the met side, not met (`pass`) only if its whole interval lies on the other;
in between it is `cannot tell`. Two targets of one comparison are judged on their paired interval.
"""

from __future__ import annotations

import math

from client.core.conditions import Condition, Linear
from client.core.findings import Estimate, Findings, Threshold, Word
from client.core.names import NAMES, estimate_of
from client.core.parity_words import selected
from client.core.verdict import spoils

ROUNDING = 1e-12
"""Relative: less than this is what binary fractions make of a decimal."""


def judge(condition: Condition, findings: Findings) -> Threshold:
    bounds = _bounds(condition.gap, findings)
    if isinstance(bounds, str):
        return Threshold(
            text=condition.text, result="cannot tell", sentence=f"{condition.text}: cannot tell, {bounds}."
        )
    result = _result(condition, *(_exact_zero(end, condition.gap, findings) for end in bounds))
    why = {
        "fail": "the whole interval meets the condition",
        "pass": "no part of the interval meets the condition",
        "cannot tell": "the interval lies on both sides; more requests would narrow it",
    }[result]
    if result == "cannot tell" and not all(map(math.isfinite, bounds)):
        why = "a value in it has no interval"
    return Threshold(
        text=condition.text,
        result=result,
        sentence=f"{condition.text}: {result}, {why} ({_told(condition.gap, findings)}).",
    )


def _result(condition: Condition, low: float, high: float) -> str:
    """For the gap's interval. At an end that is exactly zero, >= and <= are met, > and < are not."""
    if condition.above:
        met, unmet = (low >= 0, high < 0) if condition.equal else (low > 0, high <= 0)
    else:
        met, unmet = (high <= 0, low > 0) if condition.equal else (high < 0, low >= 0)
    return "fail" if met else "pass" if unmet else "cannot tell"


def _exact_zero(end: float, gap: Linear, findings: Findings) -> float:
    """Zero for what is only the rounding of binary fractions: 3 * 1.1 is 3.3 here."""
    size = abs(gap.constant)
    for (target, metric), factor in gap.factors.items():
        found = _estimate(findings, target, metric)
        size += abs(factor * found.value) if found is not None and found.value is not None else 0.0
    return 0.0 if abs(end) <= ROUNDING * size else end


def _told(gap: Linear, findings: Findings) -> str:
    parts = []
    for target, metric in gap.factors:
        found = _estimate(findings, target, metric)
        if found is not None and found.value is not None:
            low = "?" if found.low is None else f"{found.low:.4g}"
            high = "?" if found.high is None else f"{found.high:.4g}"
            parts.append(f"{target}.{metric} = {found.value:.4g} [{low}, {high}]")
    return ", ".join(parts)


def _estimate(findings: Findings, target: str, metric: str) -> Estimate | None:
    arm = findings.targets.get(target)
    return None if arm is None else estimate_of(arm, NAMES[metric])


def _why(findings: Findings, target: str, metric: str) -> str:
    """The note that stands where the number would."""
    arm, name = findings.targets.get(target), NAMES[metric]
    holder = getattr(arm, name.place) if arm is not None else None
    found = holder.get(name.key) if isinstance(holder, dict) else None
    return f" ({found.note})" if found is not None and found.note not in (None, "not measured") else ""


def _bounds(gap: Linear, findings: Findings) -> tuple[float, float] | str:
    """The interval of the gap, or why there is none."""
    spoiled = _spoiled(gap, findings)
    if spoiled is not None:
        return spoiled
    untold = _accuracy_untold(gap, findings)
    if untold is not None:
        return untold
    paired = _paired_bounds(gap, findings)
    if paired is not None:
        return paired
    value, below, above = gap.constant, 0.0, 0.0
    for (target, metric), factor in gap.factors.items():
        found = _estimate(findings, target, metric)
        if found is None or found.value is None:
            return f"{target}.{metric} was not measured{_why(findings, target, metric)}"
        ends = [found.low if found.low is not None else -math.inf, found.high if found.high is not None else math.inf]
        down, up = sorted(factor * (end - found.value) for end in ends)
        value += factor * found.value
        below += down * down  # independent arms: the ends add like standard errors (Zou & Donner 2008)
        above += up * up
    return value - math.sqrt(below), value + math.sqrt(above)


def _spoiled(gap: Linear, findings: Findings) -> str | None:
    for gate in findings.gates:
        if any(spoils(gate, metric) for _, metric in gap.factors):
            return f"the evidence is INVALID ({gate.code})"
    return None


def _accuracy_untold(gap: Linear, findings: Findings) -> str | None:
    """Why the accuracy of two compared targets cannot be told, whatever their interval: an equal nothing is no pass, a few images acquit
    nobody, and what the same server may differ from itself condemns nobody. An interval on both sides of the run's own margin may still
    lie on one side of the condition's."""
    targets = {target for target, metric in gap.factors if NAMES[metric].place == "quality"}
    for comparison in findings.comparisons:
        parity, found = comparison.parity, comparison.parity.iou_difference
        pair = {comparison.baseline, comparison.candidate}
        if pair & targets and selected(parity.failed, parity.pairs):
            return f"as the run itself of {comparison.candidate} against {comparison.baseline}: {parity.sentence.rstrip('.')}"
        unsettled = parity.word is Word.INCONCLUSIVE or parity.nothing_to_lose
        if not unsettled or not pair <= targets:
            continue
        open_ = found.low is not None and found.high is not None and found.low <= -parity.margin and found.high >= 0
        if parity.nothing_to_lose or not open_:
            return f"as the run itself of {comparison.candidate} against {comparison.baseline}: {parity.sentence.rstrip('.')}"
    return None


def _paired_bounds(gap: Linear, findings: Findings) -> tuple[float, float] | None:
    """Where the gap is a ratio or a difference of two compared targets: their own interval, in the unit of the gap."""
    if len(gap.factors) != 2:
        return None
    (first, f), (second, g) = gap.factors.items()
    if first[1] != second[1] or f * g >= 0:
        return None
    for comparison in findings.comparisons:
        if {first[0], second[0]} != {comparison.baseline, comparison.candidate}:
            continue
        candidate, baseline = (f, g) if first[0] == comparison.candidate else (g, f)
        effect = comparison.effects.get(first[1])
        if gap.constant == 0 and effect is not None and effect.ratio.low is not None and effect.ratio.high is not None:
            ends = sorted(candidate * end + baseline for end in (effect.ratio.low, effect.ratio.high))
            return ends[0], ends[1]
        difference = (
            comparison.parity.iou_difference if first[1] == "mean_iou" else effect.difference if effect else None
        )
        if (
            candidate == -baseline
            and difference is not None
            and difference.low is not None
            and difference.high is not None
        ):
            ends = sorted(candidate * end + gap.constant for end in (difference.low, difference.high))
            return ends[0], ends[1]
    return None
