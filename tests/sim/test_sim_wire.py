"""What a client sees on the wire has the shape of vLLM's own answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from simulated import Simulated, body, events, photo, simulated, streaming


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
