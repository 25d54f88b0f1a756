"""Is a series of latencies in steady state, and from which request on?

MSER-5 (White 1997; White, Cobb & Spratt 2000; `client.core.stats.mser5`) says where warm-up ends, but of a series without any it leaves out
some beginning in one case of three, and calls one in five unsettled. So what it says counts only where a departure from one level is shown: a
step, at the place where two levels explain most (Page 1955; Hawkins 1977), a straight drift, or a bend (the second Legendre polynomial). Each is
held against what remains when it is taken out, spread by the dependence of neighbours, so that a step does not hide in its own variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from client.core import limits
from client.core.stats import Floats, inflation, mser5, t_point

SHORTEST = 10
"""Values of which a beginning can be told apart at all; where it ends cannot be said below LEAST."""
FEW_ALARM = 0.9999
"""At this level of Student's t with n - 4 degrees of freedom one steady series of 10 to 19 values in 1,000 gives a false alarm, whatever place
of its first half looks most like a border (20,000 series of normals each)."""
LEAST = 20
"""Values: MSER-5 wants four batches of five."""
POINTS = 400
"""Longer series are looked at in as many means of neighbours."""
OUTLIER, AROUND = 5.0, 11
"""Robust standard deviations from the median of so many neighbours beyond which a value pulls no further: one slow request is no change
of level."""
ALARM = 1 - 6e-5
"""Confidence at which a departure is shown: four standard errors (limits.SETTLED_Z) of a normal. A series is looked at in many ways."""
FREEDOM = 12.0
"""Least degrees of freedom: what a smooth course leaves when it is fitted by another shape looks like dependence, and is not."""
REACHED = 0.9973
"""Confidence (three standard errors) at which a warm-up that its own requests show is told to reach into those after it."""
DOUBT = 0.5
"""Standard errors of its autocorrelation from which dependence is reckoned with: an alarm that is false costs trust."""


class Course(StrEnum):
    FEW = "few"
    """Too few values to say where it settles. With a `size`: enough to say that it began elsewhere."""
    STEADY = "steady"
    LATE = "late"
    """Steady after a beginning that is told apart from the rest."""
    STEP = "step"
    """Two levels, the second one in the later half."""
    DRIFT = "drift"
    BEND = "bend"


@dataclass(frozen=True, slots=True)
class Settling:
    """`end`: how many first values to leave out; None where no rest is steady, or nobody can say. `size`: of the departure, relative."""

    course: Course
    end: int | None = None
    size: float = 0.0


@dataclass(frozen=True, slots=True)
class _Shape:
    """A departure from one level: its `size` on the log scale, whether it is shown, and what variance it leaves."""

    course: Course
    size: float
    shown: bool
    rest: float
    at: int = 0


def settling(values: Floats) -> Settling:
    """Of positive values in order of time; those that are not finite are left out."""
    known = values[np.isfinite(values) & (values > 0)]
    if len(known) < LEAST:
        return Settling(Course.FEW, None, _beginning_of_few(known))
    width = -(-len(known) // POINTS)
    logs = without_outliers(np.log(known[: len(known) // width * width].reshape(-1, width).mean(axis=1)))
    shapes = (_step(logs), _polynomial(logs, 1), _polynomial(logs, 2), *_beginning(logs))
    shown = [shape for shape in shapes if shape.shown]
    if not shown:
        return Settling(Course.STEADY, 0)
    best = min(shown, key=lambda shape: shape.rest)
    size = abs(math.expm1(best.size))
    if best.course is not Course.STEP:
        return Settling(best.course, None, size)
    if best.at > len(logs) // 2:
        return Settling(Course.STEP, None, size)
    return Settling(Course.LATE, mser5(known) or best.at * width, size)


def settling_after(before: Floats, values: Floats) -> Settling:
    """Of `values`, which come after the warm-up requests `before`: `end` counts among `values`.

    They may show a beginning by themselves. Or the warm-up requests do, and MSER-5 lets it end among `values`: then what it leaves out of
    them must be apart from their rest, at three standard errors. Too few `values` may still not be steady together with `before`.
    """
    found = settling(values)
    known, earlier = (part[np.isfinite(part) & (part > 0)] for part in (values, before))
    if found.course in (Course.STEP, Course.DRIFT, Course.BEND):
        return found
    logs = without_outliers(np.log(known)) if len(known) > AROUND else np.zeros(0)
    whole = settling(np.concatenate([earlier, known])) if len(earlier) else found
    reach = (whole.end or 0) - len(earlier)
    if found.course is Course.FEW and whole.course in (Course.STEP, Course.DRIFT, Course.BEND):
        return replace(found, size=max(found.size, whole.size))
    if whole.course is Course.LATE and (found.end or 0) < reach <= len(logs) // 2:
        shape = _split(logs, reach, REACHED)
        found = Settling(Course.LATE, reach, abs(math.expm1(shape.size))) if shape.shown else found
    return found


def _split(logs: Floats, cut: int, confidence: float) -> _Shape:
    """The first `cut` against the rest, and what varies in the rest alone: a beginning that fades has no level."""
    rest = logs[cut:] - logs[cut:].mean()
    size = float(logs[:cut].mean() - logs[cut:].mean())
    return _shape(Course.STEP, size, 1 / cut + 1 / (len(logs) - cut), rest, cut, confidence)


def without_outliers(logs: Floats) -> Floats:
    around = np.lib.stride_tricks.sliding_window_view(np.pad(logs, AROUND // 2, mode="reflect"), AROUND)
    middle = np.median(around, axis=1)
    spread = 1.4826 * float(np.median(np.abs(logs - middle)))
    return np.clip(logs, middle - OUTLIER * spread, middle + OUTLIER * spread) if spread > 0 else logs


def _shape(course: Course, size: float, share: float, rest: Floats, at: int = 0, confidence: float = ALARM) -> _Shape:
    """`share`: variance of `size` for values of variance 1. What dependence leaves of the degrees of freedom counts, as in Student's t."""
    n, widened = len(rest), inflation(rest, DOUBT)
    variance = float(rest.var())
    error = math.sqrt(variance * share * widened)
    limit = t_point(confidence, max(n / widened - 3, FREEDOM))
    told = abs(size) > limits.SETTLED_EFFECT and abs(size) > limit * error
    return _Shape(course, size, told, variance, at)


def _step(logs: Floats) -> _Shape:
    """Two levels, where they explain most. `size`: the earlier one against the later."""
    n, edge = len(logs), max(3, len(logs) // 20)
    k = np.arange(edge, n - edge + 1)
    before = np.cumsum(logs)[k - 1]
    gap = before / k - (logs.sum() - before) / (n - k)
    at = int(k[np.argmax(gap**2 * k * (n - k))])
    levels = np.where(np.arange(n) < at, logs[:at].mean(), logs[at:].mean())
    return _shape(Course.STEP, float(logs[:at].mean() - logs[at:].mean()), 1 / at + 1 / (n - at), logs - levels, at)


def _beginning(logs: Floats) -> list[_Shape]:
    """What MSER-5 would leave out against the rest, and against what varies in the rest alone: a beginning that fades has no level."""
    cut = mser5(logs)
    if not cut or cut > len(logs) // 2:
        return []
    found = _split(logs, cut, ALARM)
    both = np.concatenate([logs[:cut] - logs[:cut].mean(), logs[cut:] - logs[cut:].mean()])
    return [replace(found, rest=float(both.var()))]


def _beginning_of_few(known: Floats) -> float:
    """How far the beginning of a short series lies from its rest, relative; 0 where none is told apart."""
    n = len(known)
    if n < SHORTEST:
        return 0.0
    logs = without_outliers(np.log(known))
    sizes = {cut: float(logs[:cut].mean() - logs[cut:].mean()) for cut in range(2, n // 2 + 1)}
    errors = {cut: float(logs[cut:].std(ddof=1)) * math.sqrt(1 / cut + 1 / (n - cut)) for cut in sizes}
    best = max(sizes, key=lambda cut: abs(sizes[cut]) / errors[cut] if errors[cut] > 0 else 0.0)
    told = abs(sizes[best]) > max(t_point(FEW_ALARM, n - 4.0) * errors[best], limits.SETTLED_EFFECT)
    return abs(math.expm1(sizes[best])) if told else 0.0


def _polynomial(logs: Floats, degree: int) -> _Shape:
    """A straight line from the first value to the last, or a bend: the ends against the middle."""
    place = np.linspace(-1, 1, len(logs))
    curve = place if degree == 1 else (3 * place**2 - 1) / 2
    curve = curve - curve.mean()
    power = float(curve @ curve)
    factor = float(curve @ (logs - logs.mean())) / power
    reach = float(np.ptp(curve))
    course = Course.DRIFT if degree == 1 else Course.BEND
    return _shape(course, factor * reach, reach**2 / power, logs - logs.mean() - factor * curve)
