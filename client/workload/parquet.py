"""The data set openfoodfacts/nutrition-table-detection (Hugging Face) as it lies on disk: Parquet files with pictures and true boxes.

Columns that are read: `image_id` (string), `image` (struct with `bytes`), `objects` (struct with `bbox`: lists of y_min, x_min, y_max,
x_max in 0..1). A picture is read from its row group when its turn comes, so that a large file never lies in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.core.cases import Box
from client.errors import UsageError
from client.workload.truth import GivenBoxes

if TYPE_CHECKING:
    import pyarrow.parquet as pq

SUFFIX = ".parquet"
INSTALL = "Install it into this environment: pip install 'pyarrow>=22' (or halfweight[parquet])."
COLUMNS = {"image_id": "string", "image.bytes": "binary", "objects.bbox": "lists of four numbers"}
_AT_ONCE = 16
"""Rows decoded together while a file is looked through; a photo has about half a megabyte."""


@dataclass(frozen=True, slots=True)
class Row:
    """Where a picture lies in its file."""

    group: int
    index: int


@dataclass(frozen=True, slots=True)
class Found:
    """A picture with its true boxes. `digest` is the SHA-256 of its bytes."""

    path: Path
    name: str
    row: Row
    digest: bytes
    boxes: GivenBoxes


def read_rows(files: list[Path], wanted: int) -> list[Found]:
    """The first `wanted` pictures of the files, in order. UsageError names the file and row that cannot be used."""
    found: list[Found] = []
    taken: dict[str, int] = {}
    for path in files:
        for name, row, digest, boxes in _rows(path):
            seen = taken[name] = taken.get(name, 0) + 1
            place = f"{path.name}, {name}"
            # An id that comes again would make two pictures one in every later table.
            unique = name if seen == 1 else f"{name}#{seen}"
            found.append(Found(path, unique, row, digest, GivenBoxes(boxes, "unit", "yxyx", False, place)))
            if len(found) == wanted:
                return found
    if not found:
        raise UsageError(f"{files[0]} has no rows.", "Download the data set again.")
    return found


def read_image(path: Path, row: Row, name: str) -> bytes:
    """The picture file of one row. UsageError when it cannot be read."""
    images = _group(path, row.group)
    data = images[row.index].as_py() if row.index < len(images) else None
    if not isinstance(data, bytes):
        raise UsageError(
            f"{path}: the row of {name} holds no picture any more.", "Do not change the file during a run."
        )
    return data


@lru_cache(maxsize=2)
def _group(path: Path, group: int) -> Any:  # a pyarrow array
    return _column(_open(path), path, group, "image", "bytes")


def _rows(path: Path) -> Iterator[tuple[str, Row, bytes, tuple[Box, ...]]]:
    file = _open(path)
    for group in range(file.num_row_groups):
        index = 0
        try:
            for batch in file.iter_batches(_AT_ONCE, row_groups=[group], columns=list(COLUMNS)):
                for row in batch.to_pylist():
                    place = f"{path}, row group {group}, row {index}"
                    yield _name(row, place), Row(group, index), _digest(row, place), _boxes(row, place)
                    index += 1
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from None


def _name(row: dict[str, Any], place: str) -> str:
    name = row["image_id"]
    if not isinstance(name, str) or not name:
        raise UsageError(f"{place}: image_id is no text.", "Use the data set's own files.")
    return name


def _digest(row: dict[str, Any], place: str) -> bytes:
    data = (row["image"] or {}).get("bytes")
    if not isinstance(data, bytes):
        raise UsageError(
            f"{place}: the picture itself is not in the file (image.bytes is empty).",
            "Download the Parquet files of the data set, not a table of links.",
        )
    return hashlib.sha256(data).digest()


def _boxes(row: dict[str, Any], place: str) -> tuple[Box, ...]:
    boxes = (row["objects"] or {}).get("bbox") or []
    if any(box is None or len(box) != 4 or None in box for box in boxes):
        raise UsageError(f"{place}: a box of objects.bbox has not four numbers.", "Use the data set's own files.")
    return tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in boxes)


def _open(path: Path) -> pq.ParquetFile:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise UsageError(f"Reading {path} needs the package pyarrow, which is not installed.", INSTALL) from None
    try:
        file = pq.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise _unreadable(path, error) from None
    have = {file.schema.column(i).path for i in range(len(file.schema))}
    missing = [name for name in COLUMNS if not any(part == name or part.startswith(f"{name}.") for part in have)]
    if missing:
        raise UsageError(
            f"{path} has no column {missing[0]}: it is not the data set openfoodfacts/nutrition-table-detection.",
            f"It needs {', '.join(f'{name} ({kind})' for name, kind in COLUMNS.items())}; other data can be listed in a JSONL manifest.",
        )
    return file


def _column(file: pq.ParquetFile, path: Path, group: int, *field: str) -> Any:
    try:
        column = file.read_row_group(group, columns=[".".join(field)]).column(field[0]).combine_chunks()
        return column.field(field[1])
    except (OSError, ValueError, IndexError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UsageError:
    return UsageError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}.", "Download it again.")
