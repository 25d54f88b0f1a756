"""What a client sees on the wire has the shape of vLLM's own answers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulated import ROOT, Simulated, body, events, photo, simulated, streaming

GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    with simulated(tmp_path_factory.mktemp("sim"), "--time-scale", "0.02", "--seed", "7") as one:
        yield one


def test_stream_has_role_tokens_end_usage_and_done(server: Simulated) -> None:
    role, *tokens, usage, done = events(server.chat(streaming(photo(1))))
    assert done == "[DONE]"
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["finish_reason"] for chunk in tokens] == [None] * (len(tokens) - 1) + ["stop"]
    assert usage["choices"] == []
    assert usage["usage"]["prompt_tokens"] == 1044
    assert usage["usage"]["completion_tokens"] >= len(tokens)


def test_whole_answer_says_the_same_as_the_stream(server: Simulated) -> None:
    chunks = events(server.chat(streaming(photo(1))))
    streamed = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks[:-2])
    assert server.chat(body(photo(1))).json()["choices"][0]["message"]["content"] == streamed


def test_everything_is_marked_simulated(server: Simulated) -> None:
    version = server.client.get("/version")
    assert version.json()["version"].endswith("+simulated")
    assert version.headers["x-halfweight-simulated"] == "rtx-6000-ada"
    assert server.client.get("/v1/models").json()["data"][0]["owned_by"] == "halfweight-sim"
    assert "SIMULATED" in server.log.read_text().splitlines()[0]


def test_port_file_holds_the_port(server: Simulated) -> None:
    assert server.client.get("/health").status_code == 200
    assert Path(server.log.parent / "port").read_text() == f"{server.port}\n"


def shape(value: Any) -> Any:
    """Keys in their order, and the kinds of the leaves (a null is one kind, a text another)."""
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items()}
    return [shape(part) for part in value] if isinstance(value, list) else type(value).__name__


def recorded(name: str) -> list[Any]:
    lines = (GOLDEN / name).read_text().splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


@pytest.mark.parametrize(("name", "continuous"), [("stream.http", False), ("stream-continuous-usage.http", True)])
def test_chunks_have_the_keys_of_the_recorded_stream_in_order(server: Simulated, name: str, continuous: bool) -> None:
    options = {"include_usage": True, "continuous_usage_stats": continuous}
    data = body(photo(1), stream=True, stream_options=options, max_tokens=12, ignore_eos=True)
    mine, real = events(server.chat(data))[:-1], recorded(name)
    for position in (0, 1, -2, -1):  # role, token, last token, totals
        assert json.dumps(shape(mine[position])) == json.dumps(shape(real[position]))
    assert mine[-2]["choices"][0]["finish_reason"] == real[-2]["choices"][0]["finish_reason"] == "length"


def test_log_probabilities_have_the_form_of_the_recorded_ones(server: Simulated) -> None:
    fields = {"stream_options": {"include_usage": True}, "max_tokens": 12, "ignore_eos": True, "logprobs": True}
    mine = events(server.chat(body(photo(1), stream=True, top_logprobs=2, **fields)))[:-1]
    real = recorded("stream-logprobs.http")
    for position in (0, 1, -2, -1):
        # A token of no bytes has an empty list, which has no leaves to compare.
        assert json.dumps(shape(mine[position])).replace('["int"]', "[]") == json.dumps(shape(real[position])).replace(
            '["int"]', "[]"
        )
    for chunk in mine[1:-1]:
        choice = chunk["choices"][0]
        (entry,) = choice["logprobs"]["content"]
        assert entry["token"] == choice["delta"]["content"] == entry["top_logprobs"][0]["token"]
        assert entry["logprob"] == max(item["logprob"] for item in entry["top_logprobs"]) < 0
        assert entry["bytes"] == list(entry["token"].encode())


def test_log_probabilities_of_a_whole_answer_by_token_ids(server: Simulated) -> None:
    ids = {"logprobs": True, "top_logprobs": 20, "return_tokens_as_token_ids": True}
    choice = server.chat(body(photo(1), **ids)).json()["choices"][0]
    content = choice["logprobs"]["content"]
    assert content[-1]["token"] == "token_id:151645"
    digits = {f"token_id:{15 + int(c)}" for c in choice["message"]["content"] if c.isdigit()}
    assert digits <= {entry["token"] for entry in content}
    for entry in content:
        assert sum(math.exp(item["logprob"]) for item in entry["top_logprobs"]) == pytest.approx(1, abs=0.05)
    none = server.chat(body(photo(1), logprobs=True)).json()["choices"][0]["logprobs"]["content"]
    assert all(entry["top_logprobs"] == [] for entry in none)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"top_logprobs": 3}, "when using `top_logprobs`, `logprobs` must be set to true"),
        (
            {"logprobs": True, "top_logprobs": 21},
            "Requested sample logprobs of 21, which is greater than max allowed: 20",
        ),
        ({"logprobs": True, "top_logprobs": -2}, "`top_logprobs` must be a positive value or -1"),
    ],
)
def test_log_probabilities_that_cannot_be_given_are_refused(
    server: Simulated, fields: dict[str, Any], said: str
) -> None:
    answer = server.chat(body(photo(1), **fields))
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


def test_the_heads_of_an_answer_are_vllms(server: Simulated) -> None:
    response = server.chat(streaming(photo(1)))
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["transfer-encoding"] == "chunked"
    assert response.text.startswith('data: {"id":"chatcmpl-')


def test_the_same_picture_gets_the_same_answer(server: Simulated) -> None:
    texts = {server.chat(body(photo(9))).json()["choices"][0]["message"]["content"] for _ in range(3)}
    assert len(texts) == 1
    assert texts.pop().startswith("[0.")


def test_min_tokens_stop_and_max_completion_tokens(server: Simulated) -> None:
    def ask(**fields: Any) -> tuple[str, int, str, str | None]:
        answer = server.chat(body(photo(1), **fields)).json()
        choice = answer["choices"][0]
        return (
            choice["message"]["content"],
            answer["usage"]["completion_tokens"],
            choice["finish_reason"],
            choice["stop_reason"],
        )

    assert ask(max_tokens=60, max_completion_tokens=5)[1:] == (5, "length", None)
    assert ask(min_tokens=40)[1:3] == (40, "stop")
    text, _, reason, stop = ask(stop=[","])
    assert (reason, stop) == ("stop", ",")
    assert "," not in text
