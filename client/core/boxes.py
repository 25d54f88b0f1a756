"""Answer text -> boxes, and how well boxes agree.

Reading has two steps that never mix. `written_boxes` finds what the text *writes* as a box: four numbers in one of the forms below,
whatever they measure. `read_boxes` then reads those numbers in the one frame declared for the run. Nothing is guessed for a single
answer: a number that does not fit the frame makes its box unreadable.

    [x1, y1, x2, y2]                     also inside JSON ("bbox_2d": […]), fenced or not, and in lists of lists
    label(x1, y1, x2, y2)                four numbers in round brackets, with or without a label
    label(x1, y1),(x2, y2)               two points joined by a comma; also label<box(x1, y1),(x2, y2)>, <box>…</box>,
                                         <|box_start|>…<|box_end|>, [x1, y1], [x2, y2]
    <box>x1, y1, x2, y2</box>            bare numbers only between tags
    x_min: a, y_min: b, x_max: c, y_max: d      also xmin or x1, and in JSON with quotes

Not a box: numbers in prose, lists of three or of five, three or more points in a row (a polygon), an answer cut off before its closing
bracket. The scan is linear in the length of the text: no quantifier gives back what it took.

Frames (`client.core.plan.BoxFrame`): `unit` 0..1; `grid1000` 0..1000 on both sides (Qwen2-VL, Qwen3-VL); `pixels` of the picture as
sent; `resized-pixels` of the picture as Qwen's processor resizes it (Qwen2.5-VL).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from client.core.plan import BoxFrame
from client.core.vision import MAX_PIXELS, smart_resize
from client.errors import UsageError

Box = tuple[float, float, float, float]
"""(x_min, y_min, x_max, y_max) in 0..1 of the sent picture, with an area above zero."""

SLACK = 0.02
"""A coordinate may pass the border of its frame by this share of the side and is then cut to it (models overshoot by a few steps).
Anything further out belongs to another frame and is refused."""
_FIRST, _LAST = -SLACK, 1 + SLACK

_NUMBER = r"(?>[+-]?(?:[0-9]{1,7}+(?:\.[0-9]{0,30}+)?+|\.[0-9]{1,30}+)(?:[eE][+-]?[0-9]{1,2}+)?+)"
_COMMA = r"\s*+,\s*+"
_SOME = rf"\s*+({_NUMBER}(?:{_COMMA}{_NUMBER}){{1,3}}+)\s*+"
_FOUR = rf"\s*+({_NUMBER}(?:{_COMMA}{_NUMBER}){{3}}+)\s*+"


def _named(axis: str, end: str, number: int) -> str:
    return rf"""["']?+{axis}(?:_?{end}|{number})["']?+\s*+[:=]\s*+({_NUMBER})"""


_NAMED = r"\s*+[,;]?+\s*+".join(
    _named(axis, end, number) for number, end in ((1, "min"), (2, "max")) for axis in ("x", "y")
)
_WRITTEN = re.compile(
    rf"\({_SOME}\)|\[{_SOME}\]|<\|?+(?:b?box|box_start)\|?+>{_FOUR}<|(?<![A-Za-z0-9_]){_NAMED}(?=[^0-9.eE])"
)
_JOINED = re.compile(r"\s*+,\s*+")
_GOES_ON = re.compile(r"\s*+,\s*+[\[(]")
_CLOSES = re.compile(r"\s*+[\])]")


class _Run(NamedTuple):
    """Two to four numbers between brackets, between tags or behind names."""

    start: int
    end: int
    numbers: tuple[float, ...]


def _runs(text: str) -> Iterator[_Run]:
    for found in _WRITTEN.finditer(text):
        groups = [group for group in found.groups() if group is not None]
        parts = groups if len(groups) == 4 else _JOINED.split(groups[0])
        yield _Run(found.start(), found.end(), tuple(float(part) for part in parts))


def written_boxes(text: str | None, *, complete: bool = True) -> tuple[Box, ...]:
    """The four numbers of each box that the text writes, in order, corners sorted, in whatever unit the model meant. () for None.

    `complete` is False for an answer that was cut off: a number at its very end may lack digits.
    """
    if not text:
        return ()
    if complete:
        text += "\n"
    boxes: list[Box] = []
    points: list[_Run] = []
    for run in _runs(text):
        if points and (len(run.numbers) != 2 or _JOINED.fullmatch(text, points[-1].end, run.start) is None):
            boxes.extend(_two_points(text, points))
            points = []
        if len(run.numbers) == 4:
            boxes.append(_sorted(run.numbers))
        elif len(run.numbers) == 2:
            points.append(run)
    boxes.extend(_two_points(text, points))
    return tuple(boxes)


def _two_points(text: str, points: Sequence[_Run]) -> list[Box]:
    """One box for a row of exactly two points. A longer row is a polygon, and one whose list goes on or stays open is not finished."""
    if len(points) != 2:
        return []
    first, last = points
    opened = text[max(first.start - 1, 0) : first.start] in ("[", "(")
    if _GOES_ON.match(text, last.end) or (opened and not _CLOSES.match(text, last.end)):
        return []
    return [_sorted((*first.numbers, *last.numbers))]


def _sorted(four: Sequence[float]) -> Box:
    x1, y1, x2, y2 = four
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def frame_size(frame: BoxFrame, width: int, height: int, *, max_pixels: int = MAX_PIXELS) -> tuple[float, float] | None:
    """What counts as 1 on each side of this frame for a `width` x `height` picture; None for a shape that the processor refuses.

    Raises ValueError for `auto` (decide first: `client.core.answers.decide_frame`) and for a pixel frame without the picture's size.
    """
    if frame is BoxFrame.UNIT:
        return 1.0, 1.0
    if frame is BoxFrame.GRID1000:
        return 1000.0, 1000.0
    if frame is BoxFrame.AUTO:
        raise ValueError("the frame must be decided over the whole run before a box is read")
    if width < 1 or height < 1:
        raise ValueError(f"the frame {frame} needs the size of the picture")
    if frame is BoxFrame.PIXELS:
        return float(width), float(height)
    try:
        return smart_resize(width, height, max_pixels=max_pixels)
    except UsageError:
        return None


def to_unit(four: Sequence[float], size: tuple[float, float]) -> Box | None:
    """Four numbers of a frame of this size as a Box; None when they are not finite, lie outside the frame, or enclose no area."""
    x1, y1, x2, y2 = four[0] / size[0], four[1] / size[1], four[2] / size[0], four[3] / size[1]
    # Written so that NaN fails: it compares false with everything.
    if not (_FIRST <= x1 <= _LAST and _FIRST <= y1 <= _LAST and _FIRST <= x2 <= _LAST and _FIRST <= y2 <= _LAST):
        return None
    left, top = max(0.0, min(x1, x2)), max(0.0, min(y1, y2))
    right, bottom = min(1.0, max(x1, x2)), min(1.0, max(y1, y2))
    return (left, top, right, bottom) if right > left and bottom > top and (right - left) * (bottom - top) > 0 else None


def read_boxes(
    text: str | None,
    frame: BoxFrame,
    width: int = 0,
    height: int = 0,
    *,
    complete: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> tuple[Box, ...]:
    """Every box that can be read from an answer, in order; () when there is none. `width` and `height` are the sent picture's, in pixels."""
    written = written_boxes(text, complete=complete)
    size = frame_size(frame, width, height, max_pixels=max_pixels)
    if size is None:
        return ()
    boxes = (to_unit(four, size) for four in written)
    return tuple(box for box in boxes if box is not None)


def iou(a: Box, b: Box) -> float:
    """Area of the intersection over area of the union (Jaccard index), 0..1; 1.0 only for equal boxes.

    Raises ValueError for a box without area or with a coordinate that is not finite.
    """
    area_a, area_b = _area(a), _area(b)
    if a == b:
        return 1.0
    across = min(a[2], b[2]) - max(a[0], b[0])
    down = min(a[3], b[3]) - max(a[1], b[1])
    if across <= 0 or down <= 0:
        return 0.0
    inner = across * down
    # Boxes that differ in the last bit would round to 1.0.
    return min(inner / (area_a + area_b - inner), 1.0 - 2.0**-53)


def _area(box: Box) -> float:
    area = (box[2] - box[0]) * (box[3] - box[1])
    if not (box[2] > box[0] and box[3] > box[1] and 0 < area < math.inf):
        raise ValueError(f"not a box: {box}")
    return area


class Match(NamedTuple):
    """One prediction paired with one truth."""

    prediction: int
    truth: int
    iou: float


def match(predictions: Sequence[Box], truths: Sequence[Box], at_least: float = 0.0) -> list[Match]:
    """One-to-one pairs, taken greedily from the highest IoU down; pairs under `at_least` or without overlap are never made.

    The pairs made at 0.5 are the first of those made at 0: one call serves every threshold.
    """
    pairs = sorted(
        (
            Match(p, t, overlap)
            for p, a in enumerate(predictions)
            for t, b in enumerate(truths)
            if (overlap := iou(a, b)) > 0
        ),
        key=lambda pair: (-pair.iou, pair.prediction, pair.truth),
    )
    used_predictions: set[int] = set()
    used_truths: set[int] = set()
    made = []
    for pair in pairs:
        if pair.iou >= at_least and pair.prediction not in used_predictions and pair.truth not in used_truths:
            used_predictions.add(pair.prediction)
            used_truths.add(pair.truth)
            made.append(pair)
    return made
