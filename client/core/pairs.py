"""Answers of two targets to the same pictures, side by side, and what differs on each image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from client.core import boxscores
from client.core.answers import Answer
from client.core.boxes import Box, match
from client.core.findings import Estimate
from client.core.plan import BoxFrame
from client.core.resample import Floats, Interval, Resampling, by_image, share_difference, wilson

FEWEST_IMAGES = 10
"""Below this no interval by image deserves its name: the number is not given at all."""


def too_few(n: int) -> Estimate:
    return Estimate(n=n, note=f"needs {FEWEST_IMAGES} different images or more, has {n}")


def unpaired(why: str) -> Estimate:
    return Estimate(note=f"not measured: {why}")


def places(keys: Iterable[str]) -> dict[str, int]:
    """A row number for each different key, in order of first sight."""
    found: dict[str, int] = {}
    for key in keys:
        found.setdefault(key, len(found))
    return found


class PairEstimates(NamedTuple):
    change: Estimate
    """IoU with the truth, second minus first, per true box."""
    between: Estimate
    """IoU of the two answers' boxes with one another, per pair in which either has a box; boxes without a partner count as 0."""
    same_text: Estimate
    change_error: float
    """Standard error of `change`; NaN without an interval."""


class Pairs:
    """Answers of two targets to the same pictures, and what differs on each image. Rows of `counts` are images, columns are sums."""

    PAIRS, SAME, CHANGE, TRUTHS, BETWEEN, BOXED, BOTH, FIRST, SECOND = range(9)

    def __init__(self, first: Sequence[Answer], second: Sequence[Answer], frame: BoxFrame) -> None:
        shared, both = paired(first, second), heard(first, second)
        self.unpaired = len(first) + len(second) - 2 * len(shared)
        self.failed = len(shared) - len(both)
        """Pairs left out, as a request of either failed."""
        self.pairs = len(both)
        place = places(key[0] for key, _, _ in both)
        self.counts = np.zeros((len(place), 9))
        self.answered = sum(a.text is not None and b.text is not None for _, a, b in both)
        """Pairs in which both gave an answer, readable or not."""
        self.lost = self.gained = 0
        seen: set[str] = set()
        for key, a, b in both:
            boxes = a.boxes(frame), b.boxes(frame)
            self._count(self.counts[place[key[0]]], a, b, *boxes)
            # One verdict for an image: McNemar's test knows no clusters.
            if a.truth and key[0] not in seen:
                seen.add(key[0])
                hit_a, hit_b = _hit(boxes[0], a.truth), _hit(boxes[1], a.truth)
                self.lost += hit_a and not hit_b
                self.gained += hit_b and not hit_a
        self.judged = len(seen)

    def _count(self, row: Floats, a: Answer, b: Answer, mine: Sequence[Box], yours: Sequence[Box]) -> None:
        row[self.PAIRS] += 1
        row[self.SAME] += a.text is not None and a.text == b.text
        row[self.BOTH] += not mine and not yours
        row[self.FIRST] += not mine and bool(yours)
        row[self.SECOND] += bool(mine) and not yours
        if mine or yours:
            row[self.BOXED] += 1
            row[self.BETWEEN] += sum(pair.iou for pair in match(mine, yours)) / max(len(mine), len(yours))
        if a.truth:
            row[self.TRUTHS] += len(a.truth)
            row[self.CHANGE] += boxscores.best_sum(yours, a.truth) - boxscores.best_sum(mine, a.truth)

    @property
    def images(self) -> int:
        return len(self.counts)

    @property
    def nothing(self) -> Estimate | None:
        """Why no number can be made of these pairs; None where one can. An answer that one side owes is wrong, but nothing that neither
        gave is alike."""
        if not self.images and not self.failed:
            return unpaired("no picture was put to both in the same pass")
        if not self.answered:
            return unpaired("there is no picture that both answered")
        return too_few(self.images) if self.images < FEWEST_IMAGES else None

    def estimates(self, how: Resampling) -> PairEstimates:
        """The three ratios of sums over images, from one bootstrap."""
        none = self.nothing
        if none is not None:
            return PairEstimates(none, none, none, math.nan)
        found = by_image(self.counts, _ratios, how)
        change, between, same = (
            self._estimate(k, below, found, how.confidence)
            for k, below in enumerate((self.TRUTHS, self.BOXED, self.PAIRS))
        )
        return PairEstimates(change, between, same, float(found.error[0]))

    def _estimate(self, k: int, below: int, found: Interval, confidence: float) -> Estimate:
        n = int(np.count_nonzero(self.counts[:, below]))
        if n == 0:
            what = {self.TRUTHS: "no true box is known", self.BOXED: "no answer holds a box"}.get(below, "no pairs")
            return unpaired(what)
        if below == self.TRUTHS and not self.counts[:, self.BOXED].any():
            return unpaired("no answer holds a box")
        if n < FEWEST_IMAGES:
            return too_few(n)
        value, low, high = float(found.value[k]), float(found.low[k]), float(found.high[k])
        # A share of images, or an overlap that is the same everywhere: the bootstrap would see no spread.
        if below == self.PAIRS or (below == self.BOXED and value in (0.0, 1.0)):
            low, high = wilson(value * n, n, confidence)
        return Estimate(value=value, low=low, high=high, n=n, unit="share" if below == self.PAIRS else "iou")

    def unreadable_difference(self, confidence: float) -> Estimate:
        none = self.nothing
        if none is not None:
            return none
        # Pairs of one image are not independent: scale the table to one observation an image.
        total = self.counts.sum(axis=0)
        both, first, second = (
            float(total[k]) * self.images / float(total[self.PAIRS]) for k in (self.BOTH, self.FIRST, self.SECOND)
        )
        low, high = share_difference(both, first, second, self.images - both - first - second, confidence)
        return Estimate(value=(second - first) / self.images, low=low, high=high, n=self.images, unit="share")


def paired(first: Sequence[Answer], second: Sequence[Answer]) -> list[tuple[tuple[str, str, int], Answer, Answer]]:
    """Key and both answers of each picture, pass and repetition that both have."""
    mine, yours = keyed(first), keyed(second)
    return [(key, answer, yours[key]) for key, answer in mine.items() if key in yours]


def heard(first: Sequence[Answer], second: Sequence[Answer]) -> list[tuple[tuple[str, str, int], Answer, Answer]]:
    """Pairs of which neither request failed: what the other model said alone compares nothing."""
    return [pair for pair in paired(first, second) if not pair[1].failed and not pair[2].failed]


def keyed(answers: Sequence[Answer]) -> dict[tuple[str, str, int], Answer]:
    """Answers by image, pass and how often the image came before within the pass."""
    keyed: dict[tuple[str, str, int], Answer] = {}
    times: dict[tuple[str, str], int] = {}
    for answer in answers:
        key = (answer.image_id, answer.pass_)
        times[key] = times.get(key, -1) + 1
        keyed[(*key, times[key])] = answer
    return keyed


def _hit(boxes: Sequence[Box], truth: Sequence[Box]) -> bool:
    return sum(value >= 0.5 for value in boxscores.matched(boxes, truth)) == len(truth)


def _ratios(sums: Floats) -> Floats:
    above, below = [Pairs.CHANGE, Pairs.BETWEEN, Pairs.SAME], [Pairs.TRUTHS, Pairs.BOXED, Pairs.PAIRS]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios: Floats = sums[..., above] / sums[..., below]
    return ratios
