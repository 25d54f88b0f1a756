"""Boxes as somebody wrote them down, turned into boxes of the picture as it is sent."""

from __future__ import annotations

import math
from dataclasses import dataclass

from client.core.cases import Box
from client.errors import UsageError

_SLACK = 0.005
"""A box may leave the picture by so much of its side: annotations are often a pixel off. It is cut at the edge."""


@dataclass(frozen=True, slots=True)
class GivenBoxes:
    """`frame` unit, grid1000 or pixels (of the file as it lies on disk, before any resizing); `order` xyxy or yxyx.

    `stored` says that the boxes belong to the pixels as stored, before the EXIF orientation; else to the picture as displayed.
    `place` names file and line for an error.
    """

    boxes: tuple[Box, ...]
    frame: str
    order: str
    stored: bool
    place: str


def boxes_as_sent(
    given: GivenBoxes, stored: tuple[int, int], displayed: tuple[int, int], orientation: int
) -> tuple[Box, ...]:
    """(x_min, y_min, x_max, y_max) in 0..1 of the displayed picture; resizing changes nothing in this frame."""
    width, height = stored if given.stored else displayed
    divisors = {"unit": (1.0, 1.0), "grid1000": (1000.0, 1000.0), "pixels": (float(width), float(height))}[given.frame]
    return tuple(_one(box, given, divisors, orientation) for box in given.boxes)


def _one(box: Box, given: GivenBoxes, divisors: tuple[float, float], orientation: int) -> Box:
    x_min, y_min, x_max, y_max = (box[1], box[0], box[3], box[2]) if given.order == "yxyx" else box
    unit = (x_min / divisors[0], y_min / divisors[1], x_max / divisors[0], y_max / divisors[1])
    fits = all(math.isfinite(v) and -_SLACK <= v <= 1 + _SLACK for v in unit)
    if not fits or unit[0] >= unit[2] or unit[1] >= unit[3]:
        raise UsageError(
            f"{given.place}: the box {list(box)} is not inside the picture, or its corners are swapped "
            f"(frame {given.frame}, order {given.order}).",
            'Each line may say "frame": "unit" | "grid1000" | "pixels" and "order": "xyxy" | "yxyx".',
        )
    left, top, right, bottom = (min(1.0, max(0.0, v)) for v in unit)
    return _turned((left, top, right, bottom), orientation) if given.stored else (left, top, right, bottom)


def _turned(box: Box, orientation: int) -> Box:
    """A box of the stored pixels in the displayed picture (EXIF 2.3, tag 0x0112)."""
    x0, y0, x1, y1 = box
    if orientation in (5, 6, 7, 8):
        x0, y0, x1, y1 = y0, x0, y1, x1
    if orientation in (2, 3, 6, 7):
        x0, x1 = 1 - x1, 1 - x0
    if orientation in (3, 4, 7, 8):
        y0, y1 = 1 - y1, 1 - y0
    return (x0, y0, x1, y1)
