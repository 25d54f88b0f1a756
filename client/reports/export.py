"""Per-request records -> CSV lines or a Parquet table, with the stamps and counts as they were recorded. An empty cell: it never happened."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from client.core.table import INT_COLUMNS, NEVER, OUTCOMES, PHASES, Codes, RecordTable
from client.errors import UsageError

if TYPE_CHECKING:
    from types import ModuleType

PARQUET_NEEDS = "pyarrow>=22"
HEAD = ("target", "phase", "image_id", "outcome", *INT_COLUMNS, "finish_reason", "error")


def csv_lines(table: RecordTable) -> Iterator[str]:
    """A header and one line for each request, in the order in which they ended."""
    yield _line(HEAD)
    columns = [table[name].tolist() for name in INT_COLUMNS]
    for row in range(len(table)):
        numbers = ("" if column[row] == NEVER else column[row] for column in columns)
        ended = _finish_reason(table, row) or ""
        yield _line(
            (
                _text(table.targets[int(table.target[row])]), str(PHASES[int(table.phase[row])]), _text(table.image_of(row)),
                str(table.outcome_of(row)), *numbers, _text(ended), _text(table.errors.get(row, "")),
            )
        )  # fmt: skip


def _text(value: str) -> str:
    """Text from outside must not be a formula in a spreadsheet."""
    return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _line(cells: tuple[object, ...]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()


def arrow() -> ModuleType:
    """pyarrow, an optional extra that is imported only here. Raises UsageError when it is not installed."""
    try:
        import pyarrow
    except ImportError:
        raise UsageError(
            "--export parquet needs the package pyarrow, which is not installed.",
            f"Install it with: {sys.executable} -m pip install '{PARQUET_NEEDS}'   or take --export csv.",
        ) from None
    found: ModuleType = pyarrow
    return found


def write_parquet(table: RecordTable, sink: BinaryIO) -> None:
    """The columns of the CSV, then `text` (the answer, where one was kept) and `chunk_ns` (arrival of each chunk with a token).

    What never happened is null. Raises UsageError without pyarrow, OSError when `sink` cannot be written.
    """
    pa = arrow()
    from pyarrow import parquet

    rows = range(len(table))
    columns: dict[str, Any] = {
        "target": _coded(pa, table.target, table.targets),
        "phase": _coded(pa, table.phase, tuple(str(phase) for phase in PHASES)),
        "image_id": _coded(pa, table.image, table.image_ids),
        "outcome": _coded(pa, table.outcome, tuple(str(outcome) for outcome in OUTCOMES)),
        **{name: pa.array(table[name], pa.int64(), mask=table[name] == NEVER) for name in INT_COLUMNS},
        "finish_reason": pa.array((_finish_reason(table, row) for row in rows), pa.string()),
        "error": pa.array((table.errors.get(row) for row in rows), pa.string()),
        "text": pa.array((table.texts.get(row) for row in rows), pa.string()),
        "chunk_ns": pa.LargeListArray.from_arrays(pa.array(table.chunk_start, pa.int64()), pa.array(table.chunk_ns)),
    }
    parquet.write_table(pa.table(columns), sink, compression="zstd")


def _coded(pa: ModuleType, codes: Codes, words: tuple[str, ...]) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(words, pa.string()))


def _finish_reason(table: RecordTable, row: int) -> str | None:
    """None where the answer never came to its end."""
    return table.finish_reasons.get(row, "stop" if table.outcome_of(row) == "ok" else None)
