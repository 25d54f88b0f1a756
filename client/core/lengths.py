"""How long the answers of two arms are: paired by picture where both answered the same ones, as lengths differ most from picture to picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from client.core.metrics import Arm
from client.core.pairing import LEAST_PAIRS
from client.core.stats import Floats
from client.core.table import NEVER

LEAST_COUNTED = 0.9
"""Share of an arm's answers whose output tokens are known. Below it nothing is known of the lengths of an arm."""
CERTAIN = 99.0
"""Standard errors of a difference that is the same for every request: there is no error to divide by."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean output tokens of both arms, and by how many standard errors they differ."""

    baseline: float
    candidate: float
    z: float

    @property
    def share(self) -> float:
        """Relative difference of the candidate's from the baseline's, which is above zero."""
        return self.candidate / self.baseline - 1


def compared(baseline: Arm, candidate: Arm) -> Lengths | None:
    """Over answered requests whose tokens were counted. None where one arm has fewer than two, or the baseline gave no token at all."""
    a, b = (_per_picture(arm) for arm in (baseline, candidate))
    common = a.keys() & b.keys()
    if len(common) >= max(2.0, LEAST_PAIRS * max(len(a), len(b))):
        pairs = np.array([(a[picture], b[picture]) for picture in sorted(common)])
        gap = pairs[:, 1] - pairs[:, 0]
        return _lengths(pairs[:, 0], pairs[:, 1], float(gap.var(ddof=1) / len(gap)))
    one, other = counted(baseline), counted(candidate)
    if min(len(one), len(other)) < 2:
        return None
    return _lengths(one, other, float(one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other)))


def counted(arm: Arm) -> Floats:
    """Output tokens of the answered requests of which they are known."""
    found: Floats = arm.tokens[arm.ok & (arm.tokens != NEVER)].astype(np.float64)
    return found


def mean_prompt(arm: Arm) -> float | None:
    """Mean prompt tokens of the answered requests of which they are known; None where none is."""
    known = arm.prompt_tokens[arm.ok & (arm.prompt_tokens != NEVER)]
    return float(known.mean()) if len(known) else None


def _per_picture(arm: Arm) -> dict[int, float]:
    """Picture -> mean output tokens of its answers."""
    known = arm.ok & (arm.tokens != NEVER)
    pictures, which, counts = np.unique(arm.image[known], return_inverse=True, return_counts=True)
    sums = np.bincount(which, weights=arm.tokens[known].astype(np.float64), minlength=len(pictures))
    return dict(zip(pictures.tolist(), (sums / counts).tolist(), strict=True))


def _lengths(a: Floats, b: Floats, variance: float) -> Lengths | None:
    """`variance`: of the difference of the means."""
    means = float(a.mean()), float(b.mean())
    if means[0] == 0:
        return None
    gap = abs(means[1] - means[0])
    return Lengths(*means, gap / variance**0.5 if variance > 0 else (CERTAIN if gap else 0.0))
