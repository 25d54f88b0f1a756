"""Request records as columns: what the analysis computes on, a million requests at a time.

JSON lines are read in bounded batches, so that peak memory is the columns plus one batch. Inside, a stamp or count that never
happened is -1 (`NEVER`), because numpy has no None for integers; it does not leave this module except through `Column.known`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from client.core.records import Outcome, Phase, RequestRecord

NEVER = -1
BATCH = 8192
"""Lines decoded before they become columns: some 15 MB of Python objects."""

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

PHASES: tuple[Phase, ...] = tuple(Phase)
OUTCOMES: tuple[Outcome, ...] = tuple(Outcome)
_PHASE_CODE = {phase: code for code, phase in enumerate(PHASES)}
_OUTCOME_CODE = {outcome: code for code, outcome in enumerate(OUTCOMES)}

_Int = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
_Maybe = _Int | None

INT_COLUMNS = (
    "index", "block", "level", "worker", "attempt", "status", "prompt_tokens", "completion_tokens", "cached_tokens",
    "intended_ns", "connect_start_ns", "connected_ns", "sent_ns", "headers_ns", "first_byte_ns", "role_ns",
    "first_token_ns", "first_text_ns", "last_token_ns", "done_ns", "recv_lag_ns",
)  # fmt: skip


class _Row(msgspec.Struct, gc=False):
    """`RequestRecord` as it is read: the same keys, with NEVER in the place of an absent number, so that columns need no test."""

    target: str
    phase: Phase
    index: _Int
    image_id: str
    outcome: Outcome
    intended_ns: _Int
    block: _Maybe = NEVER
    level: _Int = 0
    worker: _Int = 0
    attempt: _Int = 0
    connect_start_ns: _Maybe = NEVER
    connected_ns: _Maybe = NEVER
    sent_ns: _Maybe = NEVER
    headers_ns: _Maybe = NEVER
    first_byte_ns: _Maybe = NEVER
    role_ns: _Maybe = NEVER
    first_token_ns: _Maybe = NEVER
    first_text_ns: _Maybe = NEVER
    last_token_ns: _Maybe = NEVER
    done_ns: _Maybe = NEVER
    chunk_ns: tuple[_Int, ...] = ()
    stamps: str = "kernel"
    recv_lag_ns: _Maybe = NEVER
    status: _Maybe = NEVER
    finish_reason: str | None = None
    prompt_tokens: _Maybe = NEVER
    completion_tokens: _Maybe = NEVER
    cached_tokens: _Maybe = NEVER
    text: str | None = None
    error: str | None = None


_ints_of = attrgetter(*INT_COLUMNS)
_decoder = msgspec.json.Decoder(_Row)
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass(frozen=True, slots=True)
class RecordTable:
    """One row a request, in the order in which they ended. Codes index `targets`, `image_ids`, PHASES and OUTCOMES.

    `chunk_ns[chunk_start[i]:chunk_start[i + 1]]` are the token chunk stamps of row i.
    """

    targets: tuple[str, ...] = ()
    image_ids: tuple[str, ...] = ()
    target: Codes = field(default_factory=lambda: np.zeros(0, np.int32))
    phase: Codes = field(default_factory=lambda: np.zeros(0, np.int32))
    outcome: Codes = field(default_factory=lambda: np.zeros(0, np.int32))
    image: Codes = field(default_factory=lambda: np.zeros(0, np.int32))
    loop_stamped: Mask = field(default_factory=lambda: np.zeros(0, np.bool_))
    ints: dict[str, Ints] = field(default_factory=lambda: {name: np.zeros(0, np.int64) for name in INT_COLUMNS})
    chunk_ns: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    chunk_start: Ints = field(default_factory=lambda: np.zeros(1, np.int64))
    texts: dict[int, str] = field(default_factory=dict)
    """Row -> answer, only where one was kept."""
    finish_reasons: dict[int, str] = field(default_factory=dict)
    """Row -> finish_reason, only where it is not `stop`."""
    errors: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, name: str) -> Ints:
        """The column `name` of INT_COLUMNS; NEVER where the record had None."""
        return self.ints[name]

    @classmethod
    def from_lines(cls, lines: Iterable[bytes]) -> tuple[RecordTable, int]:
        """Reads JSON lines. Also gives the number of lines that were set aside as torn or unreadable; blank ones do not count."""
        builder = _Builder()
        torn = 0
        source = iter(lines)
        while batch := list(islice(source, BATCH)):
            rows: list[_Row] = []
            for line in batch:
                try:
                    rows.append(_decoder.decode(line))
                except UNREADABLE:
                    torn += bool(line.strip())
            builder.add(rows)
        return builder.table(), torn

    @classmethod
    def from_records(cls, records: Iterable[RequestRecord]) -> RecordTable:
        builder = _Builder()
        source = iter(records)
        while batch := list(islice(source, BATCH)):
            builder.add(batch)
        return builder.table()

    def where(
        self,
        target: str | None = None,
        phase: Phase | None = None,
        outcome: Outcome | None = None,
        level: int | None = None,
    ) -> Ints:
        """Row numbers that match, in the order of the file; an unknown target matches nothing."""
        keep = np.ones(len(self), np.bool_)
        if target is not None:
            code = self.targets.index(target) if target in self.targets else NEVER
            keep &= self.target == code
        if phase is not None:
            keep &= self.phase == _PHASE_CODE[phase]
        if outcome is not None:
            keep &= self.outcome == _OUTCOME_CODE[outcome]
        if level is not None:
            keep &= self.ints["level"] == level
        return np.flatnonzero(keep)

    def outcome_of(self, row: int) -> Outcome:
        return OUTCOMES[int(self.outcome[row])]

    def image_of(self, row: int) -> str:
        return self.image_ids[int(self.image[row])]

    def only(self, rows: Ints) -> RecordTable:
        """These rows, in this order; chunk stamps go with them."""
        sizes = self.chunk_start[rows + 1] - self.chunk_start[rows]
        start = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        place = np.repeat(self.chunk_start[rows] - start[:-1], sizes) + np.arange(int(start[-1]))
        new = {int(old): k for k, old in enumerate(rows.tolist())}

        def kept(values: dict[int, str]) -> dict[int, str]:
            return {new[row]: value for row, value in values.items() if row in new}

        return RecordTable(
            self.targets, self.image_ids, self.target[rows], self.phase[rows], self.outcome[rows], self.image[rows],
            self.loop_stamped[rows], {name: column[rows] for name, column in self.ints.items()}, self.chunk_ns[place], start,
            kept(self.texts), kept(self.finish_reasons), kept(self.errors),
        )  # fmt: skip

    def renamed(self, names: dict[str, str]) -> RecordTable:
        """Targets under new names; the others step aside, so that no name is there twice."""
        return replace(self, targets=tuple(names.get(name, f"not compared: {name}") for name in self.targets))

    def moved(self, by_ns: int) -> RecordTable:
        """All stamps later by `by_ns`: for records of another clock."""
        stamps = [name for name in INT_COLUMNS if name.endswith("_ns") and name != "recv_lag_ns"]
        ints = self.ints | {name: np.where(self.ints[name] == NEVER, NEVER, self.ints[name] + by_ns) for name in stamps}
        return replace(self, ints=ints, chunk_ns=self.chunk_ns + by_ns)

    def followed_by(self, other: RecordTable) -> RecordTable:
        """Both tables as one; the same image name in both is the same image."""
        targets, images = dict.fromkeys(self.targets), dict.fromkeys(self.image_ids)
        for name in other.targets:
            targets.setdefault(name)
        for name in other.image_ids:
            images.setdefault(name)
        target_code = {name: code for code, name in enumerate(targets)}
        image_code = {name: code for code, name in enumerate(images)}
        target_map = np.array([target_code[name] for name in other.targets], np.int32)
        image_map = np.array([image_code[name] for name in other.image_ids], np.int32)
        size = len(self)

        def both(mine: dict[int, str], theirs: dict[int, str]) -> dict[int, str]:
            return mine | {row + size: value for row, value in theirs.items()}

        def recoded(codes: Codes, to: Codes) -> Codes:
            return to[codes] if len(codes) else codes

        return RecordTable(
            tuple(targets), tuple(images), np.concatenate([self.target, recoded(other.target, target_map)]),
            np.concatenate([self.phase, other.phase]), np.concatenate([self.outcome, other.outcome]),
            np.concatenate([self.image, recoded(other.image, image_map)]), np.concatenate([self.loop_stamped, other.loop_stamped]),
            {name: np.concatenate([self.ints[name], other.ints[name]]) for name in INT_COLUMNS},
            np.concatenate([self.chunk_ns, other.chunk_ns]),
            np.concatenate([self.chunk_start, other.chunk_start[1:] + self.chunk_start[-1]]),
            both(self.texts, other.texts), both(self.finish_reasons, other.finish_reasons), both(self.errors, other.errors),
        )  # fmt: skip

    def answers(self, target: str, phase: Phase) -> Iterator[tuple[str, Outcome, str | None]]:
        """(image_id, outcome, text) of each request of that target and phase, in schedule order."""
        rows = self.where(target, phase)
        for row in rows[np.argsort(self.ints["index"][rows], kind="stable")].tolist():
            yield self.image_of(row), self.outcome_of(row), self.texts.get(row)

    def counts(self, rows: Ints) -> dict[str, int]:
        """Outcome -> count over `rows`; `http_error` is split by status as `http_429`."""
        found: dict[str, int] = {}
        pairs, sizes = np.unique(np.stack([self.outcome[rows], self.ints["status"][rows]]), axis=1, return_counts=True)
        for (code, status), size in zip(pairs.T.tolist(), sizes.tolist(), strict=True):
            outcome = OUTCOMES[code]
            split = outcome is Outcome.HTTP_ERROR and status != NEVER
            name = f"http_{status}" if split else str(outcome)
            found[name] = found.get(name, 0) + size
        return dict(sorted(found.items()))


class _Builder:
    """Turns batches of rows into columns; strings become codes in the order in which they are first seen."""

    def __init__(self) -> None:
        self.targets: dict[str, int] = {}
        self.images: dict[str, int] = {}
        self.parts: dict[str, list[npt.NDArray[Any]]] = {}
        self.texts: dict[int, str] = {}
        self.finish_reasons: dict[int, str] = {}
        self.errors: dict[int, str] = {}
        self.size = 0

    def add(self, rows: Sequence[_Row] | Sequence[RequestRecord]) -> None:
        if not rows:
            return
        keep = self._keep
        keep("target", [_code(self.targets, row.target) for row in rows], np.int32)
        keep("image", [_code(self.images, row.image_id) for row in rows], np.int32)
        keep("phase", [_PHASE_CODE[row.phase] for row in rows], np.int32)
        keep("outcome", [_OUTCOME_CODE[row.outcome] for row in rows], np.int32)
        keep("loop_stamped", [row.stamps != "kernel" for row in rows], np.bool_)
        keep("ints", _integers(rows), np.int64)
        sizes = np.fromiter((len(row.chunk_ns) for row in rows), np.int64, len(rows))
        keep("chunk_size", sizes, np.int64)
        keep(
            "chunk_ns",
            np.fromiter(chain.from_iterable(row.chunk_ns for row in rows), np.int64, int(sizes.sum())),
            np.int64,
        )
        everything: Iterable[_Row | RequestRecord] = rows
        for position, row in enumerate(everything, self.size):
            if row.text is not None:
                self.texts[position] = row.text
            if row.finish_reason is not None and row.finish_reason != "stop":
                self.finish_reasons[position] = row.finish_reason
            if row.error is not None:
                self.errors[position] = row.error
        self.size += len(rows)

    def _keep(self, name: str, values: Any, kind: type[np.generic]) -> None:
        self.parts.setdefault(name, []).append(np.asarray(values, kind))

    def _joined(self, name: str) -> npt.NDArray[Any]:
        return np.concatenate(
            self.parts.pop(name)
        )  # popped, so that parts and whole never exist for all columns at once

    def table(self) -> RecordTable:
        if self.size == 0:
            return RecordTable()
        ints = self.parts.pop("ints")
        columns = {
            name: np.concatenate([part[:, place] for part in ints]) for place, name in enumerate(INT_COLUMNS)
        }  # one copy a column: a slice of a row-wise matrix would be slow to walk
        del ints
        return RecordTable(
            targets=tuple(self.targets),
            image_ids=tuple(self.images),
            target=self._joined("target"),
            phase=self._joined("phase"),
            outcome=self._joined("outcome"),
            image=self._joined("image"),
            loop_stamped=self._joined("loop_stamped"),
            ints=columns,
            chunk_ns=self._joined("chunk_ns"),
            chunk_start=np.concatenate([np.zeros(1, np.int64), np.cumsum(self._joined("chunk_size"))]),
            texts=self.texts,
            finish_reasons=self.finish_reasons,
            errors=self.errors,
        )


def _code(codes: dict[str, int], name: str) -> int:
    return codes.setdefault(name, len(codes))


def _integers(rows: Sequence[_Row] | Sequence[RequestRecord]) -> Ints:
    flat = chain.from_iterable(map(_ints_of, rows))
    size = len(rows) * len(INT_COLUMNS)
    try:
        matrix = np.fromiter(flat, np.int64, size)
    except TypeError:  # a None: records of ours in memory, or a line that writes null where ours leave the key out
        filled = (NEVER if value is None else value for value in chain.from_iterable(map(_ints_of, rows)))
        matrix = np.fromiter(filled, np.int64, size)
    return matrix.reshape(len(rows), len(INT_COLUMNS))
