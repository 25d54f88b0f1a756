"""What the simulated model says: the detector's box with noise that belongs to the picture, the seed and the precision."""

from __future__ import annotations

import random
from collections.abc import Sequence

from server.simulator.tokens import split_text

Box = tuple[float, float, float, float]

MODEL_SIGMA = 0.003
"""How far any answer of the model lies beside the detector's box: the same in both precisions."""
FP8_SIGMA = 0.0017
"""Rounding of weights moves an answer a little: about two texts of five change (42 of 100 on a real fp8 server)."""
FP8_JUMP_SHARE = 0.04
FP8_JUMP_SIGMA = 0.012
GUESS: Box = (0.25, 0.25, 0.75, 0.75)
"""The answer where no table is seen: a model always says something."""
SMALL_TALK = "I see no picture in this conversation, so there is no nutrition table to box."
FORMS = ("unit", "grid")


def noisy(box: Box, picture: str, precision: str, seed: int, temperature: float, request_seed: int | None) -> Box:
    """`picture` is the picture's digest: the same picture gets the same answer, unless a temperature asks for chance."""
    common = random.Random(f"{seed}:{picture}:model")
    values = [v + common.gauss(0, MODEL_SIGMA) for v in box]
    if precision == "fp8":
        fp8 = random.Random(f"{seed}:{picture}:fp8")
        sigma = FP8_JUMP_SIGMA if fp8.random() < FP8_JUMP_SHARE else FP8_SIGMA
        values = [v + fp8.gauss(0, sigma) for v in values]
    if temperature >= 0.05:
        chance = random.Random(None if request_seed is None else f"{request_seed}:{picture}:{precision}")
        values = [v + chance.gauss(0, 0.01 * temperature) for v in values]
    x0, y0, x1, y1 = (min(1.0, max(0.0, v)) for v in values)
    return (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))


def write_boxes(boxes: Sequence[Box], form: str) -> str:
    return "\n".join(_write(box, form) for box in boxes)


def _write(box: Box, form: str) -> str:
    if form == "grid":
        x0, y0, x1, y1 = (round(v * 1000) for v in box)
        return f"nutrition-table({x0},{y0}),({x1},{y1})"
    return "[" + ", ".join(str(round(v, 2)) for v in box) + "]"


def as_tokens(text: str, max_new: int, min_new: int, ignore_eos: bool) -> tuple[list[str], str]:
    """(pieces, finish reason). The end-of-text token is an empty last piece; with `ignore_eos` the model rambles on to `max_new`."""
    pieces = [*split_text(text), ""]
    if ignore_eos or len(pieces) < min_new:
        wanted = max_new if ignore_eos else min_new
        rest = ["\n", *pieces]
        while len(pieces) < wanted:
            pieces += rest
        pieces = pieces[:wanted]
        if not ignore_eos:
            pieces[-1] = ""
    if len(pieces) > max_new or (ignore_eos and len(pieces) == max_new):
        return pieces[:max_new], "length"
    return pieces, "stop"


def cut_at_stop(pieces: list[str], stops: Sequence[str]) -> tuple[list[str], str | None]:
    """(pieces up to the first stop string, the stop string or None). The stop string itself is not given out."""
    text = "".join(pieces)
    found = min(((text.find(s), s) for s in stops if s in text), default=None)
    if found is None:
        return pieces, None
    left, kept = found[0], []
    for piece in pieces:
        kept.append(piece[:left])
        left -= len(piece)
        if left < 0:
            break
    return kept, found[1]
