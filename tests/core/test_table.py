from __future__ import annotations

import made
import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from client.core.records import Outcome, Phase, RequestRecord
from client.core.table import NEVER, RecordTable

encode = msgspec.json.Encoder().encode


def test_lines_and_records_give_the_same_columns() -> None:
    records = [*made.campaign(), made.failed("fp8", 99, 1e6, Outcome.HTTP_ERROR, status=429)]
    a, torn = RecordTable.from_lines(encode(record) for record in records)
    b = RecordTable.from_records(records)
    assert torn == 0
    assert (a.targets, a.image_ids) == (b.targets, b.image_ids)
    assert all(np.array_equal(a[name], b[name]) for name in a.ints)
    assert np.array_equal(a.chunk_ns, b.chunk_ns)
    assert np.array_equal(a.chunk_start, b.chunk_start)
    assert a["first_token_ns"][-1] == NEVER


def test_torn_and_foreign_lines_are_counted_and_set_aside() -> None:
    good = encode(made.record("bf16", 0, 1.0))
    lines = [
        good,
        good[: len(good) // 2],
        b"",
        b"null",
        b"{}",
        b'{"target": 3}',
        b"\xff\xfe",
        good.replace(b'"ok"', b'"fine"'),
        good,
    ]
    huge = good.replace(b'"index":0', b'"index":' + b"9" * 40)
    table, torn = RecordTable.from_lines([*lines, huge])
    assert len(table) == 2
    assert torn == 7


def test_a_line_that_writes_null_is_like_one_that_leaves_the_key_out() -> None:
    line = encode(made.record("bf16", 0, 1.0)).replace(b'"status":200', b'"status":null')
    table, torn = RecordTable.from_lines([line])
    assert (torn, table["status"][0]) == (0, NEVER)


@given(
    st.lists(
        st.tuples(st.sampled_from(list(Outcome)), st.integers(0, 3), st.none() | st.integers(100, 599)), max_size=40
    )
)
def test_counts_agree_with_counting(kinds: list[tuple[Outcome, int, int | None]]) -> None:
    records = [
        RequestRecord(
            target=f"t{t}", phase=Phase.MEASURE, index=i, image_id="x", outcome=outcome, intended_ns=i, status=status
        )
        for i, (outcome, t, status) in enumerate(kinds)
    ]
    table = RecordTable.from_records(records)
    names = [f"http_{s}" if o is Outcome.HTTP_ERROR and s is not None else str(o) for o, t, s in kinds if t == 1]
    assert table.counts(table.where("t1")) == {name: names.count(name) for name in sorted(set(names))}


def test_answers_come_in_schedule_order_with_their_text() -> None:
    records = [made.record("bf16", k, 1.0 + k, phase=Phase.QUALITY, text=f"answer {k}") for k in (2, 0, 1)]
    table = RecordTable.from_records([*records, made.record("fp8", 0, 1.0, text="other")])
    assert [text for _, _, text in table.answers("bf16", Phase.QUALITY)] == ["answer 0", "answer 1", "answer 2"]
    assert list(table.answers("nobody", Phase.QUALITY)) == []


def test_an_empty_file_is_an_empty_table() -> None:
    table, torn = RecordTable.from_lines([])
    assert (len(table), torn, table.counts(table.where())) == (0, 0, {})
