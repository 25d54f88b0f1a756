"""Seeded timing noise: log-normal, with a slow part that neighbours in time share."""

from __future__ import annotations

import math
import random

SLOW_SHARE = 0.15
"""Share of the variance that belongs to the slow part."""
MEMORY = 0.9
"""Correlation of the slow part from one draw to the next."""


class Noise:
    """`factor()` has median 1 and log-standard-deviation `sigma`."""

    def __init__(self, seed: str, sigma: float) -> None:
        self._random = random.Random(seed)
        self._fast = sigma * math.sqrt(1 - SLOW_SHARE)
        self._slow = sigma * math.sqrt(SLOW_SHARE)
        self._state = self._random.gauss(0, 1)

    def factor(self) -> float:
        self._state = MEMORY * self._state + math.sqrt(1 - MEMORY**2) * self._random.gauss(0, 1)
        return math.exp(self._slow * self._state + self._fast * self._random.gauss(0, 1))
