"""Answers with a known box, a known way off the true one."""

from __future__ import annotations

import random

from client.core.answers import Answer
from client.core.boxes import Box
from client.core.findings import Quality

TABLE: Box = (0.2, 0.3, 0.6, 0.7)


def written(box: Box) -> str:
    return "[" + ", ".join(f"{value:.4f}" for value in box) + "]"


def answers(texts: list[str | None], truth: tuple[Box, ...] | None = (TABLE,)) -> list[Answer]:
    return [Answer(f"image-{k:04d}", text, truth, 1000, 800) for k, text in enumerate(texts)]


def moved(by: float) -> str:
    return written((TABLE[0] + by, TABLE[1], TABLE[2] + by, TABLE[3]))


def values(quality: Quality) -> dict[str, float | None]:
    return {name: estimate.value for name, estimate in quality.scores.items()}


def jittered(number: int, spread: float, shift: float, seed: int) -> tuple[list[Answer], list[Answer]]:
    """A baseline with box errors, and a candidate that differs by `spread` at random and by `shift` always."""
    draw = random.Random(seed)
    base, other = [], []
    for k in range(number):
        error = abs(draw.gauss(0.03, 0.01))
        base.append(Answer(f"{k}", moved(error), (TABLE,), 0, 0))
        other.append(Answer(f"{k}", moved(max(0.0, error + shift + draw.gauss(0, spread))), (TABLE,), 0, 0))
    return base, other
