"""The data set openfoodfacts/nutrition-table-detection (Hugging Face) as it lies on disk: Parquet files with pictures and true boxes.

Columns that are read: `image_id` (string), `image` (struct with `bytes`), `objects` (struct with `bbox`: lists of y_min, x_min, y_max,
x_max in 0..1). A picture is read from its row group when its turn comes, so that a large file never lies in memory.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
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
"""Rows decoded together; a photo has about half a megabyte."""
_BUFFER_BYTES = 1 << 20
"""Read ahead in a column of the file."""


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
    data = _TAPE.image(path, row)
    if not isinstance(data, bytes):
        raise UsageError(
            f"{path}: the row of {name} holds no picture any more.", "Do not change the file during a run."
        )
    return data


class _Tape:
    """The pictures of one row group in order, a few batches at a time, and wound back when an earlier one is wanted.

    A row group may be as large as its file, and is not decoded whole; pyarrow itself holds one page, which many writers make as large as the
    group. One tape a process; threads take turns.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._place: tuple[Path, int] | None = None
        self._batches: Iterator[Any] = iter(())
        self._kept: deque[tuple[int, list[Any]]] = deque(maxlen=2)
        self._next = 0

    def image(self, path: Path, row: Row) -> Any:
        """Whatever the row holds as image.bytes; None past the end. UsageError when it cannot be read."""
        with self._lock:
            behind = all(row.index < first for first, _ in self._kept) and row.index < self._next
            if self._place != (path, row.group) or behind:
                self._kept.clear()
                self._place, self._next = (path, row.group), 0
                batches = _open(path).iter_batches(_AT_ONCE, row_groups=[row.group], columns=["image.bytes"])
                self._batches = iter(batches)
            while row.index >= self._next and self._wind(path):
                pass
            return next((b[row.index - first] for first, b in self._kept if 0 <= row.index - first < len(b)), None)

    def _wind(self, path: Path) -> bool:
        try:
            batch = next(self._batches, None)
        except (OSError, ValueError) as error:
            self._place = None
            raise _unreadable(path, error) from None
        if batch is None:
            return False
        images = batch.column("image").field("bytes").to_pylist()
        self._kept.append((self._next, images))
        self._next += len(images)
        return True


_TAPE = _Tape()


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
        # A buffer: without one, pyarrow reads a whole row group before its first row.
        file = pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False)
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


def _unreadable(path: Path, error: Exception) -> UsageError:
    return UsageError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}.", "Download it again.")
