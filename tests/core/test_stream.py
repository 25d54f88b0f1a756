"""Chat streams: any cut of the bytes gives the same marks; what the server said is what is read."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.core.stream import CHUNK_LIMIT, TEXT_LIMIT, ChatStream, LineTooLong, SseReader
from client.core.tokens import read_steps
from client.rundir import MAX_LINE_BYTES

GOLDEN = Path(__file__).parent.parent / "golden"
RECORDED = ["stream.http", "stream-continuous-usage.http", "stream-logprobs.http"]


def body_of(name: str) -> bytes:
    """The de-chunked body of a recorded HTTP answer."""
    rest = (GOLDEN / name).read_bytes().partition(b"\r\n\r\n")[2]
    body = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        if int(size, 16) == 0:
            return body
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]


def chunk(content: str | None = "x", finish: str | None = None, **more: object) -> bytes:
    delta: dict[str, object] = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return event({"object": "chat.completion.chunk", "choices": [choice], **more})


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


ROLE = event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
DONE = b"data: [DONE]\n\n"


def read(*pieces: bytes) -> ChatStream:
    """Piece number n is received at n ns, from 1."""
    chat = ChatStream()
    for number, piece in enumerate(pieces, 1):
        chat.feed(piece, number)
    chat.close(len(pieces))
    return chat


def said(chat: ChatStream) -> dict[str, object]:
    return {
        name: getattr(chat, name)
        for name in (
            "text",
            "finish_reason",
            "prompt_tokens",
            "completion_tokens",
            "cached_tokens",
            "error",
            "bad",
            "ended",
            "answer_bytes",
        )
    }


# Cuts


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_stream_reads_the_same_cut_at_any_position(name: str) -> None:
    body = body_of(name)
    whole = read(body)
    assert said(whole) == {
        "text": whole.text,
        "finish_reason": "length",
        "prompt_tokens": 454,
        "completion_tokens": whole.completion_tokens,
        "cached_tokens": None,
        "error": None,
        "bad": False,
        "ended": True,
        "answer_bytes": len(body),
    }
    assert len(whole.chunk_ns) == whole.completion_tokens
    ends = [at + 2 for at in range(len(body)) if body[at : at + 2] == b"\n\n"]
    tokens = ends[1 : 1 + len(whole.chunk_ns)]  # the role chunk comes first, usage and [DONE] last
    for cut in range(1, len(body)):
        chat = read(body[:cut], body[cut:])
        assert said(chat) == said(whole)
        assert chat.role_ns == (1 if cut >= ends[0] else 2)
        assert chat.chunk_ns == [1 if cut >= end else 2 for end in tokens]


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_stream_reads_the_same_byte_by_byte(name: str) -> None:
    body = body_of(name)
    chat = read(*(body[at : at + 1] for at in range(len(body))))
    assert said(chat) == said(read(body))
    ends = [at + 2 for at in range(len(body)) if body[at : at + 2] == b"\n\n"]
    assert chat.role_ns == ends[0]
    assert chat.chunk_ns == ends[1 : 1 + len(chat.chunk_ns)]
    assert (chat.first_token_ns, chat.last_token_ns) == (chat.chunk_ns[0], chat.chunk_ns[-1])


def cuts(body: bytes, places: list[int]) -> list[bytes]:
    borders = sorted({0, len(body), *(place % (len(body) + 1) for place in places)})
    return [body[a:b] for a, b in itertools.pairwise(borders)]


@settings(deadline=None, max_examples=200)
@given(
    name=st.sampled_from(RECORDED),
    ending=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    places=st.lists(st.integers(0, 10_000), max_size=40),
    bom=st.booleans(),
)
def test_line_ends_and_cuts_change_nothing(name: str, ending: bytes, places: list[int], bom: bool) -> None:
    plain = body_of(name)
    body = (b"\xef\xbb\xbf" if bom else b"") + plain.replace(b"\n", ending)
    pieces = cuts(body, places)
    chat = read(*pieces)
    whole = read(plain)
    assert {**said(chat), "answer_bytes": 0} == {**said(whole), "answer_bytes": 0}
    assert len(chat.chunk_ns) == len(whole.chunk_ns)
    assert chat.chunk_ns == sorted(chat.chunk_ns)


LINES = st.sampled_from(
    [
        "data: ",
        "data: ü€😀",
        "data:no space",
        "data:  two",
        "data",
        "data:",
        ": comment",
        ":",
        "event: x",
        "id: 7",
        "retry: 10",
        "nonsense",
        "",
        "",
        "data: a\u2028b\u2029c\x85d\x0be\x0cf\x1cg",
        "dat",
        " data: x",
    ]
)


def by_the_book(text: str) -> list[str]:
    """The standard's own algorithm, on whole lines that end in LF."""
    found, data = [], []
    for line in text.removeprefix("\ufeff").split("\n")[:-1]:
        if line == "":
            if any(data) or len(data) > 1:
                found.append("\n".join(data))
            data = []
        name, _, value = line.partition(":")
        if name == "data":
            data.append(value.removeprefix(" "))
    return found


@settings(deadline=None, max_examples=400)
@given(
    lines=st.lists(LINES, max_size=25),
    ending=st.sampled_from(["\n", "\r\n", "\r"]),
    places=st.lists(st.integers(0, 999)),
)
def test_the_reader_follows_the_standard(lines: list[str], ending: str, places: list[int]) -> None:
    text = "".join(line + "\n" for line in lines)
    pieces = cuts(text.replace("\n", ending).encode(), places)
    reader = SseReader()
    assert [e.decode() for piece in pieces for e in reader.feed(piece)] == by_the_book(text)


@pytest.mark.parametrize("empty", [b"data: \n\n", b"data:\n\n", b"data\n\n", b"\n\n", b": waiting\n\n"])
def test_an_event_without_data_is_no_event_and_spoils_nothing(empty: bytes) -> None:
    """The standard says so, and some servers send one to keep a slow answer's connection open."""
    chunks = [ROLE, chunk("a"), empty, chunk("b"), empty, chunk("c", "stop"), DONE]
    for pieces in (chunks, [b"".join(chunks)]):
        chat = read(*pieces)
        assert (chat.error, chat.text, len(chat.chunk_ns)) == (None, "abc", 3)


def test_events_of_one_read_share_its_stamp() -> None:
    chat = read(ROLE + chunk("a"), chunk("b") + chunk("c", "stop") + DONE)
    assert (chat.role_ns, chat.first_token_ns, chat.last_token_ns) == (1, 1, 2)
    assert chat.chunk_ns == [1, 2, 2]
    assert chat.text == "abc"


# Tokens and text


def test_the_role_chunk_is_no_token_and_an_empty_chunk_may_be_one() -> None:
    chat = read(ROLE, chunk(""), chunk("<"), chunk(""), chunk("", "stop"), DONE)
    assert (chat.role_ns, chat.first_token_ns, chat.first_text_ns, chat.last_token_ns) == (1, 2, 3, 5)
    assert len(chat.chunk_ns) == 4


def test_role_and_text_in_one_chunk_are_both() -> None:
    first = event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": None}]})
    chat = read(first, first, chunk(None, "stop"), DONE)
    assert (chat.role_ns, chat.chunk_ns, chat.text) == (1, [1, 2], "HiHi")


def test_a_closing_chunk_with_an_empty_delta_carries_no_token() -> None:
    chat = read(ROLE, chunk("a"), chunk(None, "stop"), DONE)
    assert (chat.finish_reason, chat.chunk_ns) == ("stop", [2])


def test_a_running_usage_decides_what_is_a_token() -> None:
    def counted(content: str, tokens: int, finish: str | None = None) -> bytes:
        return chunk(content, finish, usage={"prompt_tokens": 9, "completion_tokens": tokens})

    chat = read(ROLE, counted("", 0), counted("", 1), counted("ab", 3), counted("", 3), counted("", 4, "stop"), DONE)
    assert chat.chunk_ns == [3, 4, 6]
    assert (chat.prompt_tokens, chat.completion_tokens) == (9, 4)


def test_reasoning_and_tool_calls_are_tokens_without_text() -> None:
    thought = event({"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}, "finish_reason": None}]})
    call = event({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0}]}, "finish_reason": "tool_calls"}]})
    chat = read(ROLE, thought, call)
    assert (chat.chunk_ns, chat.first_text_ns, chat.text) == ([2, 3], None, "")


def test_other_choices_are_passed_over() -> None:
    other = event({"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "stop"}]})
    chat = read(ROLE, other, chunk("yes"), other)
    assert (chat.text, chat.finish_reason, chat.chunk_ns) == ("yes", None, [3])


def test_the_last_usage_holds_the_cached_tokens() -> None:
    usage = {"prompt_tokens": 454, "completion_tokens": 12, "prompt_tokens_details": {"cached_tokens": 448}}
    chat = read(ROLE, chunk("a", "stop"), event({"choices": [], "usage": usage}), DONE)
    assert (chat.prompt_tokens, chat.completion_tokens, chat.cached_tokens) == (454, 12, 448)


def test_line_separators_inside_json_stay_in_the_text() -> None:
    text = "a\u2028b\u2029c\x85d\u00e9😀"
    body = ROLE + chunk(text, "stop") + DONE
    assert "\u2028".encode() in body
    for cut in range(len(body)):
        assert read(body[:cut], body[cut:]).text == text


def test_several_data_lines_make_one_event() -> None:
    body = b'data: {"choices": [{"index": 0,\ndata: "delta": {"content": "x"}}]}\n\n'
    for cut in range(len(body)):
        assert read(body[:cut], body[cut:]).text == "x"


# Ends


def test_done_is_no_success() -> None:
    chat = read(
        ROLE, event({"error": {"message": "the engine\ndied", "type": "InternalServerError", "code": 500}}), DONE
    )
    assert (chat.error, chat.ended, chat.bad) == ("the engine died", True, False)
    assert (chat.finish_reason, chat.last_token_ns) == (None, None)


@pytest.mark.parametrize(
    "shape",
    [
        {"error": {"message": "no room"}},
        {"error": "no room"},
        {"object": "error", "message": "no room", "code": 400},
        {"detail": "no room"},
        {"choices": [{"index": 0, "delta": {"content": "x"}}], "error": {"message": "no room"}},
    ],
)
def test_errors_come_in_many_shapes(shape: object) -> None:
    for chat in (read(event(shape)), read(json.dumps(shape).encode())):
        assert chat.error == "no room"
        assert not chat.bad


def test_without_done_the_finish_reason_still_counts() -> None:
    chat = read(ROLE, chunk("a", "stop"))
    assert (chat.finish_reason, chat.ended, chat.error) == ("stop", False, None)


def test_a_last_event_without_its_blank_line_is_read_and_a_cut_one_is_not() -> None:
    assert read(ROLE, chunk("a", "stop").rstrip()).finish_reason == "stop"
    assert read(ROLE + chunk("a", "stop") + b"data: [DONE]").ended
    last = chunk("b", "stop")
    for cut in range(len(last) - 2):
        chat = read(ROLE, chunk("a"), last[:cut])
        assert (chat.finish_reason, chat.error, chat.text) == (None, None, "a")


@pytest.mark.parametrize("body", [b"<html>gateway</html>", b"hello\n\n", b": ping\n\n", b"event: x\nid: 1\n\n"])
def test_what_is_no_stream_is_said(body: bytes) -> None:
    chat = read(body)
    assert chat.bad
    assert chat.error == "the answer is neither a stream of events nor JSON"


@pytest.mark.parametrize(
    "payload", [b"{broken", b'{"choices": 7}', b'{"choices": [{"delta": {"content": "\xff"}}]}', b"[]"]
)
def test_an_event_that_is_no_chat_chunk_is_said(payload: bytes) -> None:
    chat = read(ROLE, b"data: " + payload + b"\n\n" + chunk("late"))
    assert chat.bad
    assert chat.error is not None
    assert chat.error.startswith("an event is not a chat chunk")
    assert chat.text == ""


def test_a_whole_json_answer() -> None:
    message = {"role": "assistant", "content": "[0, 0, 1, 1]"}
    answer = {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 12},
    }
    body = json.dumps(answer, indent=1).encode()
    for cut in range(1, len(body)):
        chat = read(body[:cut], body[cut:])
        assert (chat.text, chat.finish_reason, chat.completion_tokens) == ("[0, 0, 1, 1]", "stop", 12)
        assert (chat.first_token_ns, chat.last_token_ns, chat.chunk_ns) == (None, 2, [])


def test_a_cut_json_answer_is_bad() -> None:
    chat = read(b'{"choices": [{"index": 0, "mess')
    assert chat.bad
    assert chat.last_token_ns is None


# Limits and cost


def test_an_endless_line_has_a_limit() -> None:
    chat = ChatStream(limit=1000)
    for _ in range(100):
        chat.feed(b"data: " + b"x" * 100, 1)
    assert chat.bad
    assert chat.error == "a line of the stream is longer than 1000 bytes"
    reader = SseReader(limit=1000)
    with pytest.raises(LineTooLong, match="event"):
        reader.feed((b"data: " + b"x" * 100 + b"\n") * 100)
    with pytest.raises(LineTooLong, match="event"):
        SseReader(limit=1000).feed(b"data:\n" * 2000)
    with pytest.raises(LineTooLong):
        SseReader(limit=1000).feed(b"data: " + b"x" * 2000 + b"\n\n")


@pytest.mark.parametrize("size", [1, 7, 1024])
def test_time_is_linear_in_the_length_of_a_line(size: int) -> None:
    """Four times the bytes in the same cuts take about four times as long; quadratic buffering would take sixteen."""

    def seconds(length: int) -> float:
        line = chunk("x" * length, "stop")
        pieces = [line[at : at + size] for at in range(0, len(line), size)]
        best = 9e9
        for _ in range(3):
            chat = ChatStream()
            started = time.process_time()
            for piece in pieces:
                chat.feed(piece, 1)
            best = min(best, time.process_time() - started)
            assert len(chat.text) == length
        return best

    small = 100_000 if size == 1 else 250_000
    assert seconds(4 * small) < 8 * seconds(small) + 0.01


@settings(deadline=None, max_examples=300)
@given(st.lists(st.binary(max_size=60), max_size=8))
def test_no_bytes_make_it_raise(pieces: list[bytes]) -> None:
    chat = read(*pieces)
    assert chat.answer_bytes == sum(map(len, pieces))
    assert msgspec.json.encode(said(chat))


@pytest.mark.parametrize(
    "opening", [b'data: {"error":', b'{"error":', b'data: {"x":', b'data: {"choices":[{"delta":{"tool_calls":[']
)
def test_a_hundred_thousand_brackets_do_not_make_it_raise(opening: bytes) -> None:
    chat = read(opening + b"[" * 100_000 + b"\n\n")
    assert chat.bad


def test_an_answer_that_no_record_could_hold_is_bad() -> None:
    """Marks and text of one answer stand in one line of requests.jsonl, which is read back up to a limit."""
    many = read(*[chunk("") * 1000] * (CHUNK_LIMIT // 1000 + 1))
    assert many.bad
    assert many.error == "the answer has more than 262,144 token chunks"
    for long in (read(*[chunk("\x01" * 1000) * 100] * 12), read(json.dumps(whole("\x01" * 1_100_000)).encode())):
        assert long.bad
        assert long.error == "the answer has more than 1,048,576 characters of text"
        assert len(long.text) == TEXT_LIMIT
    fullest = {"chunk_ns": [2**63] * (CHUNK_LIMIT + 1), "text": long.text}
    assert len(msgspec.json.encode(fullest)) < MAX_LINE_BYTES - 10_000


def whole(content: str) -> dict[str, object]:
    return {"choices": [{"index": 0, "message": {"content": content}, "finish_reason": "stop"}]}


# Log probabilities


def test_log_probabilities_are_kept_only_when_asked_for_and_change_no_mark() -> None:
    body = body_of("stream-logprobs.http")
    without, asked = ChatStream(), ChatStream(logprobs=True)
    for chat in (without, asked):
        chat.feed(body, 5)
        chat.close(5)
    assert without.logprobs == []
    assert len(asked.logprobs) == asked.completion_tokens == 12
    assert [step.token for step in read_steps(asked.logprobs)[:2]] == ["", "\n"]
    assert said(asked) == said(without)
    assert asked.chunk_ns == without.chunk_ns


@pytest.mark.parametrize(
    "given", ["null", "7", '"no"', "[]", '{"content":null}', '{"content":{"a":1}}', '{"content":[7,null,{"token":3}]}']
)
def test_log_probabilities_in_another_form_spoil_no_answer(given: str) -> None:
    choice = f'{{"index":0,"delta":{{"content":"x"}},"logprobs":{given},"finish_reason":"stop"}}'
    chat = ChatStream(logprobs=True)
    chat.feed(f'data: {{"choices":[{choice}]}}\n\n'.encode() + DONE, 1)
    chat.close(1)
    assert (chat.text, chat.bad, chat.finish_reason) == ("x", False, "stop")
    assert read_steps(chat.logprobs) == ()


def test_a_whole_json_answer_has_its_log_probabilities_too() -> None:
    entry = {"token": "x", "logprob": -0.1, "top_logprobs": [{"token": "x", "logprob": -0.1}]}
    choice = {"index": 0, "message": {"content": "x"}, "logprobs": {"content": [entry]}, "finish_reason": "stop"}
    chat = ChatStream(logprobs=True)
    chat.feed(json.dumps({"choices": [choice]}).encode(), 1)
    chat.close(1)
    assert chat.logprobs == [entry]
