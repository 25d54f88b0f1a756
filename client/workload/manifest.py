"""JSONL manifests: one picture a line, with its true boxes and the frame they are in.

    {"image": "photos/a.jpg", "boxes": [[0.1, 0.2, 0.5, 0.9]]}
    {"image": "photos/b.jpg", "boxes": [[120, 80, 640, 700]], "frame": "pixels"}
    {"image": "off/c.jpg", "boxes": [[0.2, 0.1, 0.9, 0.5]], "order": "yxyx"}          as Open Food Facts writes them

`boxes` missing: the truth is not known. An empty list: the picture is known to show no table.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.core.cases import Box
from client.errors import UsageError
from client.workload.truth import GivenBoxes

MAX_LINE = 1024 * 1024
"""Bytes. A line of a thousand boxes has about 50,000."""


class ManifestLine(BaseModel):
    """One line as a user writes it. Unknown fields are refused: a misspelt `frame` would move every box."""

    model_config = ConfigDict(extra="forbid", strict=False)

    image: str = Field(min_length=1, max_length=4096)
    boxes: list[tuple[float, float, float, float]] | None = None
    frame: Literal["unit", "grid1000", "pixels"] = "unit"
    order: Literal["xyxy", "yxyx"] = "xyxy"
    orientation: Literal["displayed", "stored"] = "displayed"
    width: int | None = None
    height: int | None = None
    """Told for other readers; the file itself is asked."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A line that was understood. `name` is the path as the manifest writes it."""

    path: Path
    name: str
    boxes: GivenBoxes | None


def read_manifest(place: Path, wanted: int, *, allow_outside: bool = False) -> list[Listed]:
    """The first `wanted` pictures of a manifest; blank lines are passed over. Later lines are not looked at."""
    try:
        listed = list(itertools.islice(_listed(place, allow_outside), wanted))
    except OSError as error:
        raise UsageError(f"{place} cannot be read: {error.strerror}.", "Check the path and its permissions.") from None
    if not listed:
        raise UsageError(
            f"{place} lists no picture.", 'Write one JSON object a line: {"image": "a.jpg", "boxes": [...]}.'
        )
    return listed


def _listed(place: Path, allow_outside: bool) -> Iterator[Listed]:
    home = place.parent.resolve()
    with place.open("rb") as file:
        for number in itertools.count(1):
            # Never more than the limit is read, however long a line is.
            line = file.readline(MAX_LINE + 1)
            if not line:
                return
            where = f"{place}, line {number}"
            if len(line) > MAX_LINE:
                raise UsageError(
                    f"{where} is longer than {MAX_LINE:,} bytes.", "A manifest has one small JSON object a line."
                )
            if line.strip():
                yield _one(line, where, home, allow_outside)


def _one(line: bytes, where: str, home: Path, allow_outside: bool) -> Listed:
    try:
        parsed = ManifestLine.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the line"
        raise UsageError(
            f"{where}: {field}: {first['msg']}.", "A line has image, boxes, frame, order and orientation (see docs)."
        ) from None
    if "://" in parsed.image:
        raise UsageError(f"{where}: {parsed.image} is a web address; only local files are sent.", "Download it first.")
    if "\x00" in parsed.image:
        raise UsageError(f"{where}: the image path has a zero byte.", "")
    path = (home / parsed.image).resolve()
    if not allow_outside and not path.is_relative_to(home):
        raise UsageError(
            f"{where}: {parsed.image} lies outside the manifest's folder {home}.",
            "Move the manifest or the picture, or allow it explicitly (--allow-outside).",
        )
    if not path.is_file():
        raise UsageError(f"{where}: there is no file {path}.", "Paths are relative to the manifest's folder.")
    return Listed(path, parsed.image, _given(parsed, where))


def _given(parsed: ManifestLine, where: str) -> GivenBoxes | None:
    if parsed.boxes is None:
        return None
    boxes: tuple[Box, ...] = tuple(parsed.boxes)
    return GivenBoxes(boxes, parsed.frame, parsed.order, parsed.orientation == "stored", where)
