"""Per-request records -> CSV lines, with the stamps and counts as they were recorded. An empty cell: it never happened."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from client.core.table import INT_COLUMNS, NEVER, PHASES, RecordTable

HEAD = ("target", "phase", "image_id", "outcome", *INT_COLUMNS, "finish_reason", "error")


def csv_lines(table: RecordTable) -> Iterator[str]:
    """A header and one line for each request, in the order in which they ended."""
    yield _line(HEAD)
    columns = [table[name].tolist() for name in INT_COLUMNS]
    for row in range(len(table)):
        numbers = ("" if column[row] == NEVER else column[row] for column in columns)
        failed = table.finish_reasons.get(row, "stop" if table.outcome_of(row) == "ok" else "")
        yield _line(
            (
                _text(table.targets[int(table.target[row])]), str(PHASES[int(table.phase[row])]), _text(table.image_of(row)),
                str(table.outcome_of(row)), *numbers, _text(failed), _text(table.errors.get(row, "")),
            )
        )  # fmt: skip


def _text(value: str) -> str:
    """Text from outside must not be a formula in a spreadsheet."""
    return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _line(cells: tuple[object, ...]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()
