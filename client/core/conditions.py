"""Conditions for CI (`--fail-if`) and objectives (`--slo`) as text, parsed before a run. `client.core.thresholds` judges them after it.

    condition  = sum comparison sum
    comparison = "<" | "<=" | ">" | ">="
    sum        = product { ("+" | "-") product }
    product    = factor { ("*" | "/") factor }      at most one factor of a product has a unit
    factor     = [ "-" ] ( number [ unit ] | name | "(" sum ")" )
    name       = target "." metric                  e.g. fp8.e2e_p50; metrics as in client.core.names
    unit       = "ms" | "s" | "%" | "GiB" | ...     seconds become milliseconds, 5% is 0.05

A condition is linear in its names, which share one unit. A percentage scales, or stands beside a metric that is a share itself.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from client.core.names import NAMES
from client.core.plan import Slo
from client.errors import UsageError

_NUMBER = r"(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)"
_UNITS: dict[str, tuple[str, float]] = {
    "ms": ("ms", 1.0), "s": ("ms", 1e3), "GiB": ("GiB", 1.0), "tokens": ("tokens", 1.0), "J": ("J", 1.0), "kJ": ("kJ", 1.0), "W": ("W", 1.0),
    "USD": ("USD", 1.0),
}  # fmt: skip
"""A number's unit -> the unit that names have, and how many of it one is."""
_REST = re.compile(rf"\s*{_NUMBER}\s*(?P<rest>[A-Za-z_,][\w,.]*)")
"""A number with something behind it that is no unit."""
_SLO = re.compile(r"(?P<metric>[a-z0-9_]+)\s*(?:=|<=)\s*(?P<value>\d+(?:\.\d+)?|\.\d+)\s*(?P<unit>ms|s)")
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
    """`left - right` compared with zero; `above` for > and >=, `equal` for >= and <=."""

    text: str
    gap: Linear
    above: bool
    equal: bool = False


def _tokens(targets: tuple[str, ...]) -> re.Pattern[str]:
    """Names of these targets come first: they may hold dots and hyphens, and begin with a digit."""
    known = "|".join(re.escape(name) for name in sorted(targets, key=len, reverse=True)) or "(?!)"
    units = "|".join(sorted(_UNITS, key=len, reverse=True))
    return re.compile(
        rf"\s*(?:(?P<name>(?:{known})\.\w+|[A-Za-z_][\w.-]*\.\w+)"
        rf"|{_NUMBER}(?:\s*(?P<unit>{units}|%))?(?![\w.,%])|(?P<sign><=|>=|[<>+\-*/()]))"
    )


class _Parser:
    def __init__(self, text: str, targets: tuple[str, ...]) -> None:
        self.text = text
        self.targets = targets
        self.place = 0
        self.depth = 0
        self._token = _tokens(targets)
        self.units: list[tuple[str, int]] = []
        """Unit of each name, and of each number that has one, with its place."""
        self.shares: list[bool] = []
        """Of each of `units`: whether it is a share, which a percentage may be added to."""
        self.percents: list[tuple[int, float]] = []
        """Percentages, with their place, that scale nothing so far."""

    def fault(self, what: str, place: int, hint: str) -> UsageError:
        return UsageError(f"--fail-if {what}\n  {self.text}\n  {' ' * place}^", hint)

    def start_of_next(self) -> int:
        return len(self.text) - len(self.text[self.place :].lstrip())

    def peek(self) -> re.Match[str] | None:
        return self._token.match(self.text, self.place)

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
        self.refuse_percents(0, 0)
        gap = left.plus(right, -1.0)
        if not any(gap.factors.values()):
            raise self.fault("names nothing that is measured:", 0, f"Use a name such as {self.targets[0]}.e2e_p50.")
        if not all(map(math.isfinite, (gap.constant, *gap.factors.values()))):
            raise self.fault("has a number beyond all measure:", 0, "Write smaller ones.")
        for unit, place in self.units[1:]:
            if unit != self.units[0][0]:
                told = f"Both sides need one unit; the first is in {self.units[0][0] or 'a plain number'}, this in {unit or 'a plain number'}."
                raise self.fault("compares what has another unit here:", place, told)
        return Condition(self.text, gap, sign.startswith(">"), sign.endswith("="))

    def sum(self) -> Linear:
        units, percents = len(self.units), len(self.percents)
        found = self.product()
        while sign := self.take("+", "-"):
            before = len(self.percents)
            found = found.plus(self.product(), 1.0 if sign == "+" else -1.0)
            if sign == "-":
                self.percents[before:] = [(place, -value) for place, value in self.percents[before:]]
        self.refuse_percents(units, percents)
        return found

    def refuse_percents(self, units: int, percents: int) -> None:
        """Of those read since: beside what is no share, a percentage would count as so many hundredths of its unit."""
        if not self.percents[percents:] or all(self.shares[units:]):
            return
        place, value = self.percents[percents]
        unit = next(unit for (unit, _), share in zip(self.units[units:], self.shares[units:], strict=True) if not share)
        hint = f"A percentage is of something: write * {1 + value:g}, or the amount in {unit or 'plain numbers'}."
        raise self.fault("adds or compares a percentage to what is no share here:", place, hint)

    def product(self) -> Linear:
        begun, percents = len(self.units), len(self.percents)
        found = self.factor()
        while True:
            place = self.start_of_next()
            sign = self.take("*", "/")
            if sign is None:
                if len(self.units) > begun:
                    del self.percents[percents:]  # they scale
                return found
            before = len(self.units)
            other = self.factor()
            found = self.scaled(found, other, sign, place)
            if begun < before < len(self.units) or (sign == "/" and before < len(self.units)):
                what = (
                    "multiplies two values with a unit here:" if sign == "*" else "divides by a value with a unit here:"
                )
                raise self.fault(what, place, "Scale by a plain number: fp8.e2e_p50 * 0.9.")

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
            raise self.no_factor(min(place, len(self.text)))
        self.place = found.end()
        if found["number"] is not None:
            return self.number(float(found["number"]), found["unit"], place)
        if found["name"] is not None:
            return self.named(found["name"], found.start("name"))
        inner = self.inside()
        end = self.start_of_next()
        if self.take(")") is None:
            raise self.fault("needs a closing bracket here:", end, "Close each ( with ).")
        return inner

    def no_factor(self, place: int) -> UsageError:
        rest = _REST.match(self.text, self.place)
        if rest is not None and rest["rest"].startswith(","):
            return self.fault("has a comma in a number here:", rest.start("rest"), "Write 1000, not 1,000.")
        if rest is not None:
            known = f"Units: {', '.join(_UNITS)}, %."
            return self.fault(f"knows no unit {rest['rest']!r}:", rest.start("rest"), known)
        hint = f"A side is made of numbers and names such as {self.targets[0]}.e2e_p50."
        return self.fault("needs a number or a name here:", place, hint)

    def number(self, value: float, unit: str | None, place: int) -> Linear:
        kind, size = (None, 0.01) if unit == "%" else (None, 1.0) if unit is None else _UNITS[unit]
        if not math.isfinite(value * size):
            raise self.fault("has a number beyond all measure here:", place, "Write a smaller one.")
        if kind is not None:
            self.units.append((kind, place))
            self.shares.append(False)
        if unit == "%":
            self.percents.append((place, value * size))
        return Linear({}, value * size)

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
        self.shares.append(NAMES[metric].unit == "" and metric != "requests_at_once")
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
    limit = float(found["value"]) * _UNITS[found["unit"]][1]
    if limit <= 0:
        raise UsageError(f"--slo {text!r} can never be met.", "Give a limit above zero.")
    return Slo(found["metric"], limit)
