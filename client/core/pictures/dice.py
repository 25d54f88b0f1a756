"""Seeded chance, built on the two draws of a numpy generator that keep their meaning: uniform doubles and bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Colour = tuple[int, int, int]


class Dice:
    """Every decision about a picture, in a fixed order, from one seed and one number."""

    def __init__(self, seed: int, number: int) -> None:
        self._source = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, number])))

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(self._source.random())

    def integer(self, low: int, high: int) -> int:
        """From low to high, both included."""
        return min(high, low + int(self._source.random() * (high - low + 1)))

    def chance(self, probability: float) -> bool:
        return float(self._source.random()) < probability

    def sign(self) -> float:
        return 1.0 if self.chance(0.5) else -1.0

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.integer(0, len(choices) - 1)]

    def some(self, choices: Sequence[T], count: int) -> list[T]:
        """`count` different ones of `choices`, in their own order."""
        ranked = sorted(range(len(choices)), key=lambda _: float(self._source.random()))
        return [choices[i] for i in sorted(ranked[:count])]

    def bell(self, spread: float) -> float:
        """Near a normal deviate of standard deviation `spread` (a sum of four uniforms): never beyond 3.5 spreads."""
        total = sum(float(self._source.random()) for _ in range(4))
        return (total - 2.0) * spread * math.sqrt(3.0)

    def bytes(self, count: int) -> bytes:
        return self._source.bytes(count)

    def colour(self, low: int = 0, high: int = 255) -> Colour:
        return (self.integer(low, high), self.integer(low, high), self.integer(low, high))

    def near(self, colour: Colour, spread: int) -> Colour:
        return tuple(max(0, min(255, c + self.integer(-spread, spread))) for c in colour)  # type: ignore[return-value]  # three stay three
