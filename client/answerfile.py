"""Saved answers with their true boxes, read from CSV or JSON Lines.

Columns of a row:
  prediction      the answer, raw as the model wrote it; empty or null: no answer, which counts as unreadable
  gt_boxes        JSON list of true boxes, four numbers each; []: known to hold none; empty or null: not known, not scored
  image_id        optional, the row number otherwise. Rows of one image count as one image, and pair two files
  width, height   optional: the picture as the model got it, in pixels; only the pixel frames need them
  finish_reason   optional: `length` marks an answer that was cut off
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, AnyStr, TypeVar

import msgspec

from client.core.answers import Answer
from client.core.boxes import Box, frame_size, to_unit
from client.core.plan import BoxFrame
from client.errors import UsageError

_LONGEST_FIELD = 16 * 2**20
_T = TypeVar("_T")
ORDERS = {"xyxy": (0, 1, 2, 3), "yxyx": (1, 0, 3, 2)}


class Columns(msgspec.Struct, frozen=True):
    """Where a row keeps its answer and its true boxes, and how the true boxes are written."""

    prediction: str = "prediction"
    truth: str = "gt_boxes"
    order: str = "xyxy"
    frame: BoxFrame = BoxFrame.UNIT


def read_answers(path: Path, columns: Columns) -> list[Answer]:
    """Raises UsageError with the line for anything that cannot be used."""
    found: list[Answer] = []
    try:
        for number, row in _rows(path):
            found.append(_answer(row, columns, f"{path}, line {number}", len(found)))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from error
    if not found:
        raise UsageError(f"{path} holds no answers.")
    return found


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    kind = path.suffix.lower()
    if kind == ".csv":
        csv.field_size_limit(_LONGEST_FIELD)
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(_lines(file, path))
            try:
                for row in reader:
                    yield reader.line_num, row
            except csv.Error as error:
                raise UsageError(f"{path}, line {reader.line_num}: not CSV: {error}.") from error
    elif kind in (".jsonl", ".ndjson"):
        with path.open("rb") as file:
            for number, line in enumerate(_lines(file, path), start=1):
                if line.strip():
                    yield number, _json(line, dict[str, object], f"{path}, line {number}")
    else:
        raise UsageError(
            f"{path}: the ending {kind or '(none)'} does not say what the file is.", "Give a .csv or a .jsonl file."
        )


def _lines(file: IO[AnyStr], path: Path) -> Iterator[AnyStr]:
    """Never more than the limit is read, however long a line is."""
    for number in itertools.count(1):
        line = file.readline(_LONGEST_FIELD + 1)
        if not line:
            return
        if len(line) > _LONGEST_FIELD:
            raise UsageError(f"{path}, line {number} is longer than {_LONGEST_FIELD >> 20} MiB: that is no answer.")
        yield line


def _json(text: str | bytes, kind: type[_T], place: str) -> _T:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise UsageError(f"{place}: {error}.") from error


def _answer(row: Mapping[str, object], columns: Columns, place: str, position: int) -> Answer:
    for name in (columns.prediction, columns.truth):
        if name not in row:
            raise UsageError(
                f"{place}: no column {name!r}; there are: {', '.join(str(key) for key in row if key)}.",
                "Name it with --prediction-column or --truth-column.",
            )
    text = row[columns.prediction]
    if text is not None and not isinstance(text, str):
        raise UsageError(f"{place}: {columns.prediction!r} must be text.")
    width, height = _side(row, "width", place), _side(row, "height", place)
    image_id = row.get("image_id")
    return Answer(
        image_id=str(position) if image_id in (None, "") else str(image_id),
        text=text or None,
        truth=_truth(row[columns.truth], columns, width, height, place),
        width=width,
        height=height,
        complete=row.get("finish_reason") != "length",
    )


def _side(row: Mapping[str, object], name: str, place: str) -> int:
    """Pixels; 0 where the row does not say."""
    value = row.get(name)
    if value in (None, ""):
        return 0
    try:
        side = int(value) if isinstance(value, (int, str)) else 0
    except ValueError:
        side = 0
    if not 0 < side < 1_000_000:
        raise UsageError(f"{place}: {name} is {value!r}.", "Give whole pixels, or leave the column out.")
    return side


def _truth(cell: object, columns: Columns, width: int, height: int, place: str) -> tuple[Box, ...] | None:
    if cell is None or cell == "":
        return None
    place = f"{place}, {columns.truth}"
    raw = _json(cell, list[object], place) if isinstance(cell, str) else cell
    if not isinstance(raw, list):
        raise UsageError(f"{place}: not a list.", "Give a JSON list of boxes, four numbers each.")
    if len(raw) == 4 and not any(isinstance(item, list) for item in raw):
        raw = [raw]
    if columns.frame in (BoxFrame.PIXELS, BoxFrame.RESIZED_PIXELS) and not (width and height):
        raise UsageError(f"{place}: true boxes in {columns.frame} need columns width and height.")
    size = frame_size(columns.frame, width, height)
    return tuple(_true_box(item, size, columns, place) for item in raw)


def _true_box(item: object, size: tuple[float, float] | None, columns: Columns, place: str) -> Box:
    if not isinstance(item, list) or len(item) != 4 or not all(type(value) in (int, float) for value in item):
        raise UsageError(f"{place}: {str(item)[:80]} is not a box of four numbers.")
    numbers: Sequence[float] = [float(item[k]) for k in ORDERS[columns.order]]
    box = to_unit(numbers, size) if size else None
    if box is None:
        raise UsageError(
            f"{place}: the true box {item} has no area or does not fit {columns.frame}.",
            "Say how the true boxes are written: --truth-frame unit, grid1000 or pixels.",
        )
    return box
