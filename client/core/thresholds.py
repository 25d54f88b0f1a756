"""Conditions for CI (`--fail-if`) and objectives (`--slo`), as text that is parsed before a run and judged on intervals after it.

    condition  = sum comparison sum
    comparison = "<" | "<=" | ">" | ">="
    sum        = product { ("+" | "-") product }
    product    = factor { ("*" | "/") factor }
    factor     = [ "-" ] ( number [ unit ] | name | "(" sum ")" )
    name       = target "." metric            e.g. fp8.e2e_p50; metrics as in client.core.names
    unit       = "ms" | "s"                   a number with a unit becomes milliseconds

A condition is linear in its names, which share one unit. It is met (`fail`) only if its whole interval lies on the met side, not met (`pass`) only if its whole
interval lies on the other; in between it is `cannot tell`. Two targets of one comparison are judged on their paired interval.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from client.core.findings import Estimate, Findings, Threshold
from client.core.names import NAMES, estimate_of
from client.core.plan import Slo
from client.errors import UsageError

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?P<unit>ms|s)?(?![\w.])|(?P<name>[A-Za-z_][\w-]*\.\w+)|(?P<sign><=|>=|[<>+\-*/()]))"
)
_UNITS = {"ms": 1.0, "s": 1e3, None: 1.0}
_SLO = re.compile(r"(?P<metric>[a-z0-9_]+)\s*(?:=|<=)\s*(?P<value>\d+(?:\.\d+)?)\s*(?P<unit>ms|s)")
SLO_METRICS = ("ttft", "tpot", "itl", "e2e")
MOST_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Linear:
    """Σ factor · name + constant; a name is (target, metric)."""

    factors: dict[tuple[str, str], float]
    constant: float

    def plus(self, other: Linear, sign: float) -> Linear:
        factors = dict(self.factors)
        for name, factor in other.factors.items():
            factors[name] = factors.get(name, 0.0) + sign * factor
        return Linear(factors, self.constant + sign * other.constant)

    def times(self, by: float) -> Linear:
        return Linear({name: factor * by for name, factor in self.factors.items()}, self.constant * by)


@dataclass(frozen=True, slots=True)
class Condition:
    """`left - right` compared with zero; `above` for > and >=."""

    text: str
    gap: Linear
    above: bool


class _Parser:
    def __init__(self, text: str, targets: tuple[str, ...]) -> None:
        self.text = text
        self.targets = targets
        self.place = 0
        self.depth = 0
        self.units: list[tuple[str, int]] = []
        """Unit of each name, and of each number that has one, with its place."""

    def fault(self, what: str, place: int, hint: str) -> UsageError:
        return UsageError(f"--fail-if {what}\n  {self.text}\n  {' ' * place}^", hint)

    def start_of_next(self) -> int:
        return len(self.text) - len(self.text[self.place :].lstrip())

    def peek(self) -> re.Match[str] | None:
        return _TOKEN.match(self.text, self.place)

    def take(self, *signs: str) -> str | None:
        found = self.peek()
        if found is not None and found["sign"] in signs:
            self.place = found.end()
            return found["sign"]
        return None

    def condition(self) -> Condition:
        left = self.sum()
        place = self.start_of_next()
        sign = self.take("<", "<=", ">", ">=")
        if sign is None:
            raise self.fault("needs a comparison here:", place, "Write one of < <= > >= between two sides.")
        right = self.sum()
        place = self.start_of_next()
        if place < len(self.text):
            raise self.fault(
                "cannot be read from here:", place, "One condition has two sides; give --fail-if again for another."
            )
        gap = left.plus(right, -1.0)
        if not any(gap.factors.values()):
            raise self.fault("names nothing that is measured:", 0, f"Use a name such as {self.targets[0]}.e2e_p50.")
        if not all(map(math.isfinite, (gap.constant, *gap.factors.values()))):
            raise self.fault("has a number beyond all measure:", 0, "Write smaller ones.")
        for unit, place in self.units[1:]:
            if unit != self.units[0][0]:
                told = f"Both sides need one unit; the first is in {self.units[0][0] or 'a plain number'}, this in {unit or 'a plain number'}."
                raise self.fault("compares what has another unit here:", place, told)
        return Condition(self.text, gap, sign.startswith(">"))

    def sum(self) -> Linear:
        found = self.product()
        while sign := self.take("+", "-"):
            found = found.plus(self.product(), 1.0 if sign == "+" else -1.0)
        return found

    def product(self) -> Linear:
        found = self.factor()
        while True:
            place = self.start_of_next()
            sign = self.take("*", "/")
            if sign is None:
                return found
            found = self.scaled(found, self.factor(), sign, place)

    def scaled(self, a: Linear, b: Linear, sign: str, place: int) -> Linear:
        if sign == "*" and a.factors and b.factors:
            raise self.fault("multiplies two measured values here:", place, "Multiply a name by a number only.")
        if sign == "/" and b.factors:
            raise self.fault(
                "divides by a measured value here:", place, "Bring it to the other side: a > b * 0.9, not a / b > 0.9."
            )
        if sign == "/" and b.constant == 0:
            raise self.fault("divides by zero here:", place, "Divide by another number.")
        if sign == "/":
            return a.times(1 / b.constant)
        return a.times(b.constant) if a.factors else b.times(a.constant)

    def factor(self) -> Linear:
        place = self.start_of_next()
        if self.take("-"):
            return self.factor_within().times(-1.0)
        found = self.peek()
        if found is None or found["sign"] not in (None, "("):
            hint = "A side is made of numbers and names such as fp8.e2e_p50."
            raise self.fault("needs a number or a name here:", min(place, len(self.text)), hint)
        self.place = found.end()
        if found["number"] is not None:
            value = float(found["number"]) * _UNITS[found["unit"]]
            if not math.isfinite(value):
                raise self.fault("has a number beyond all measure here:", place, "Write a smaller one.")
            if found["unit"] is not None:
                self.units.append(("ms", place))
            return Linear({}, value)
        if found["name"] is not None:
            return self.named(found["name"], found.start("name"))
        inner = self.inside()
        end = self.start_of_next()
        if self.take(")") is None:
            raise self.fault("needs a closing bracket here:", end, "Close each ( with ).")
        return inner

    def factor_within(self) -> Linear:
        self.deeper()
        found = self.factor()
        self.depth -= 1
        return found

    def inside(self) -> Linear:
        self.deeper()
        found = self.sum()
        self.depth -= 1
        return found

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > 20:
            raise self.fault("is nested too deep here:", self.place, "Write it with fewer brackets.")

    def named(self, name: str, place: int) -> Linear:
        target, _, metric = name.rpartition(".")
        if target not in self.targets:
            raise self.fault(f"knows no target {target!r}:", place, f"Targets of this run: {', '.join(self.targets)}.")
        if metric not in NAMES:
            raise self.fault(f"knows no metric {metric!r}:", place + len(target) + 1, f"Metrics: {', '.join(NAMES)}.")
        self.units.append((NAMES[metric].unit, place))
        return Linear({(target, metric): 1.0}, 0.0)


def parse(text: str, targets: tuple[str, ...]) -> Condition:
    """Raises UsageError with a caret under the fault."""
    if len(text) > MOST_CHARACTERS:
        raise UsageError(f"--fail-if is {len(text)} characters long.", f"Keep it under {MOST_CHARACTERS}.")
    shown = text.translate(dict.fromkeys(range(32), " "))
    return _Parser(shown, targets).condition()


def parse_slo(text: str) -> Slo:
    """`ttft=500ms` or `e2e=2s`. Raises UsageError."""
    found = _SLO.fullmatch(text.strip())
    if found is None:
        raise UsageError(
            f"--slo {text!r} cannot be read.", "Write metric=limit with a unit, for example ttft=500ms or e2e=2s."
        )
    if found["metric"] not in SLO_METRICS:
        raise UsageError(f"--slo knows no metric {found['metric']!r}.", f"Metrics: {', '.join(SLO_METRICS)}.")
    limit = float(found["value"]) * _UNITS[found["unit"]]
    if limit <= 0:
        raise UsageError(f"--slo {text!r} can never be met.", "Give a limit above zero.")
    return Slo(found["metric"], limit)


def judge(condition: Condition, findings: Findings) -> Threshold:
    bounds = _bounds(condition.gap, findings)
    if isinstance(bounds, str):
        return Threshold(
            text=condition.text, result="cannot tell", sentence=f"{condition.text}: cannot tell, {bounds}."
        )
    low, high = bounds
    met, unmet = (low > 0, high <= 0) if condition.above else (high < 0, low >= 0)
    result = "fail" if met else "pass" if unmet else "cannot tell"
    why = {
        "fail": "the whole interval meets the condition",
        "pass": "no part of the interval meets the condition",
        "cannot tell": "the interval lies on both sides; more requests would narrow it",
    }[result]
    return Threshold(
        text=condition.text,
        result=result,
        sentence=f"{condition.text}: {result}, {why} ({_told(condition.gap, findings)}).",
    )


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


def _bounds(gap: Linear, findings: Findings) -> tuple[float, float] | str:
    """The interval of the gap, or why there is none."""
    spoiled = _spoiled(gap, findings)
    if spoiled is not None:
        return spoiled
    paired = _paired_bounds(gap, findings)
    if paired is not None:
        return paired
    value, below, above = gap.constant, 0.0, 0.0
    for (target, metric), factor in gap.factors.items():
        found = _estimate(findings, target, metric)
        if found is None or found.value is None:
            return f"{target}.{metric} was not measured"
        ends = [found.low if found.low is not None else -math.inf, found.high if found.high is not None else math.inf]
        down, up = sorted(factor * (end - found.value) for end in ends)
        value += factor * found.value
        below += down * down  # independent arms: the ends add like standard errors (Zou & Donner 2008)
        above += up * up
    return value - math.sqrt(below), value + math.sqrt(above)


def _spoiled(gap: Linear, findings: Findings) -> str | None:
    for gate in findings.gates:
        if gate.severity == "invalid" and (
            not gate.metrics or any(metric in gate.metrics for _, metric in gap.factors)
        ):
            return f"the evidence is INVALID ({gate.code})"
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
