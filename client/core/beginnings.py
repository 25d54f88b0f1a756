"""A warm-up that may reach into the measured requests: not beyond doubt, and enough to move what is compared.

What is beyond doubt is left out (`client.core.warmup`). A warm-up of one server that is small, or fades, is hardly told from noise by the
same few requests whose ratio it moves. So it is not decided: the interval is averaged over courses of the pairs' log ratio. It stays on one
level; or it begins elsewhere and steps to its level after any number of requests of the stay; or it approaches it exponentially. Each is
weighed by its likelihood (a linear model with the unit-information g-prior: Kass & Wasserman 1995; Liang et al. 2008, equation 6; averaged as in
Hoeting et al. 1999). Warm-up requests count among the pairs where both servers were sent the same pictures, and tell most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from client.core.bootstrap import Contrast
from client.core.metrics import Arm
from client.core.observed import Series, Shares
from client.core.stats import Floats, Interval, inflation, mixture_ends, normal_point
from client.core.steady import AROUND, DOUBT, without_outliers
from client.core.table import Ints

ONE_LEVEL = 0.6
"""How likely it is beforehand that the ratio of the servers is on one level from the first request on. Chosen among 0.5 to 0.8 on stored
campaigns of other seeds than `benchmarks/coverage` has: for it steady servers pay 3 % of width at n = 30, 0.5 % at n = 120."""
FADING = (2.0, 4.0, 8.0, 16.0, 32.0)
"""Requests after which a departure has faded to 1 / e. Beforehand they are together as likely as all steps together."""
SEEN_FADE = 1.5
"""How many times that a series must be long: the level to which a slower one fades was never seen, and would be guessed."""
FEWEST = 6
"""Pairs of a look, warm-up included, below which nothing is read from it."""
EVERY, FURTHER = 64, 1.1
"""Steps after up to so many requests are all looked at, later ones each a tenth further."""
LEAST_LIKELY = 0.003
"""Courses that are less likely are let go: together they move an end by less than resampling does."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """What was sent ahead of the compared pairs of one stay of the baseline, in order of time: warm-up requests, then those left out."""

    candidate: tuple[Arm, ...] = ()
    baseline: tuple[Arm, ...] = ()

    @property
    def many(self) -> int:
        return sum(map(len, self.baseline))

    def pairs(self, metric: str) -> tuple[Floats, Ints]:
        """Log ratios, candidate over baseline, of the pictures that both were sent, and their places in the stay."""
        images, times = zip(*(_together(arms, metric) for arms in (self.candidate, self.baseline)), strict=True)
        _, mine, yours = np.intersect1d(*images, return_indices=True)
        order = np.argsort(yours)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(times[0][mine[order]] / times[1][yours[order]])
        known = np.isfinite(logs)
        return logs[known], yours[order][known].astype(np.int64)


def _together(arms: tuple[Arm, ...], metric: str) -> tuple[Floats, Floats]:
    image = np.concatenate([np.zeros(0), *(arm.image for arm in arms)])
    return image, np.concatenate([np.zeros(0), *(arm.latency.get(metric, np.full(len(arm), np.nan)) for arm in arms)])


@dataclass(frozen=True, slots=True)
class Look:
    """Pairs of one stay of the baseline: `rows` says which of the compared pairs, `place` where in the stay. `ahead`: as `Ahead.pairs`."""

    rows: Ints
    place: Ints
    ahead: tuple[Floats, Ints]


@dataclass(frozen=True, slots=True)
class Courses:
    """`weight`: how likely each course is. `departure`: by course and pair, how far its log ratio lies from the level that follows.
    `scale`: the standard error of that level over the one it has without a departure."""

    weight: Floats
    departure: Floats
    scale: Floats

    def reaching(self, least: float) -> float:
        """How likely a departure of more than this, as a log, is at any of the pairs."""
        return float(self.weight[np.abs(self.departure).max(axis=1, initial=0.0) > least].sum())


def courses(logs: Floats, looks: Sequence[Look]) -> Courses | None:
    """Of these log ratios, one for each pair; those that are not finite are not read. None where there is too little to read from."""
    read = [one for look in looks if (one := _Read.of(logs, look)) is not None]
    total = sum(float(one.logs @ one.logs) for one in read)
    if not read or total <= 0 or not any(len(look.place) for look in looks):
        return None
    within = [look.place for look in looks if len(look.place)]
    last = max(int(place.min()) + len(place) // 2 for place in within)
    shapes, prior = _family(last, max(int(place.max()) + 1 for place in within))
    n, left, terms = len(logs), np.full(len(prior), total), np.zeros(len(prior))
    departure, spread = np.zeros((len(prior), n)), np.ones(len(prior))
    rest: list[Floats] = []
    for one in read:
        shape = shapes(one.place)
        centred = shape - shape.mean(axis=1, keepdims=True)
        power = (centred**2).sum(axis=1)
        has = power > 1e-9
        size = np.where(has, centred @ one.logs, 0.0) / np.where(has, power, 1.0)
        left -= size**2 * power
        terms += has
        own = shapes(one.look.place)
        departure[:, one.look.rows] = size[:, np.newaxis] * own
        spread += np.where(has, own.sum(axis=1) ** 2 / n, 0.0) / np.where(has, power, 1.0)
        rest.append(one.logs - size[:, np.newaxis] * centred)
    worth = _worth(np.concatenate([part[int(np.argmin(left))] for part in rest]))
    free = worth - len(read)
    unexplained = np.clip(left / total, 0.0, 1.0)
    odds = (free - terms) / 2 * math.log1p(worth) - free / 2 * np.log1p(worth * unexplained)
    weight = np.concatenate([[math.log(ONE_LEVEL)], np.log((1 - ONE_LEVEL) * prior) + odds])
    weight = np.exp(weight - weight.max())
    weight /= weight.sum()
    likely = weight > LEAST_LIKELY
    shrunk = departure * worth / (1 + worth)
    return Courses(
        weight[likely] / weight[likely].sum(),
        np.vstack([np.zeros(n), shrunk])[likely],
        np.sqrt(np.concatenate([[1.0], spread]))[likely],
    )


@dataclass(frozen=True, slots=True)
class _Read:
    """What is read of a look: warm-up pairs and compared ones in order of time, around their mean."""

    logs: Floats
    place: Floats
    look: Look

    @classmethod
    def of(cls, logs: Floats, look: Look) -> _Read | None:
        mine = logs[look.rows]
        known = np.isfinite(mine)
        whole = np.concatenate([look.ahead[0], mine[known]])
        place = np.concatenate([look.ahead[1], look.place[known]]).astype(np.float64)
        if len(whole) < FEWEST:
            return None
        order = np.argsort(place, kind="stable")
        whole = whole[order]
        whole = without_outliers(whole) if len(whole) > AROUND else whole
        return cls(whole - whole.mean(), place[order], look)


def _family(last: int, length: int) -> tuple[Callable[[Floats | Ints], Floats], Floats]:
    """Shapes of a departure at given places, a row for each course: steps after up to `last` requests of the stay, then fading ones, by its
    `length`; and how likely each is beforehand, given that there is one."""
    steps, fading = _steps(last), np.array([after for after in FADING if SEEN_FADE * after <= length])
    prior = np.concatenate([np.full(len(kind), 0.5 / max(len(kind), 1)) for kind in (steps, fading)])

    def shapes(place: Floats | Ints) -> Floats:
        column = place[np.newaxis].astype(np.float64)
        return np.vstack([column < steps[:, np.newaxis], np.exp(-column / fading[:, np.newaxis])])

    return shapes, prior / prior.sum()


@lru_cache(maxsize=64)
def _steps(last: int) -> Floats:
    """From two requests on: a single slow one is an outlier."""
    found = list(range(2, min(last, EVERY) + 1))
    while found and found[-1] * FURTHER < last:
        found.append(math.ceil(found[-1] * FURTHER))
    return np.array(found, np.float64)


def _worth(rest: Floats) -> float:
    """How many independent pairs these are worth, dependence of neighbours suspected early."""
    return max(len(rest) / inflation(rest, DOUBT), float(FEWEST))


def averaged(
    found: Contrast, parts: Sequence[Series | Shares], logs: Floats, looks: Sequence[Look], confidence: float
) -> Contrast:
    """The contrast of (candidate, baseline), its intervals averaged over the courses of the pairs' log ratios `logs`. An end may move inwards
    too, never past the value, which stays where it was measured."""
    likely = courses(logs, looks)
    if likely is None or found.log is None:
        return found
    candidate, baseline = parts
    mine = _moved(candidate, np.exp(-likely.departure))
    yours = _moved(baseline, np.exp(likely.departure))
    with np.errstate(divide="ignore", invalid="ignore"):
        log = (np.log(mine / candidate.value()) - np.log(yours / baseline.value())) / 2
    plain = (mine - candidate.value() - yours + baseline.value()) / 2
    wider = _widened(found.log, log, likely, confidence)
    return replace(
        found,
        log=wider,
        warming=max(0.0, wider.half - found.log.half),
        difference=None if found.difference is None else _widened(found.difference, plain, likely, confidence),
    )


def _moved(part: Series | Shares, factor: Floats) -> Floats:
    """The statistic of this part with its times multiplied by each row of `factor`."""
    if isinstance(part, Series):
        return np.array([Series(part.values * row, part.p).value() for row in factor])
    return np.array([Shares(part.above, part.below * row).value() for row in factor])


def _widened(plain: Interval, shift: Floats, likely: Courses, confidence: float) -> Interval:
    """Ends of a mixture of normals around what each course moves the value by."""
    if not np.isfinite(shift).all() or plain.half <= 0:
        return plain
    error = plain.half / normal_point(confidence) * likely.scale
    ends = mixture_ends(likely.weight, shift, error, confidence)
    low, high = plain.low + ends[0] + plain.half, plain.high + ends[1] - plain.half
    return Interval(plain.value, min(low, plain.value), max(high, plain.value))
