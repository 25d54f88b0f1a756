"""Good answers and what was sent for them, over real sockets: one record each, with its whole time line."""

from __future__ import annotations

import asyncio

import httpx
import msgspec
import pytest
from asking import KEY, PREPARED, SHORT, ask, ask_script, check, send
from raw_server import CHUNKED, DONE, GOOD, ROLE, RawServer, Wire, answering, chunk, event, http, usage

from client.core.plan import Target
from client.core.records import Outcome, Phase, RequestRecord
from client.core.schedule import Slot
from client.endpoint import Endpoint
from client.transport import new_client


async def test_a_good_stream_has_its_whole_time_line() -> None:
    async def script(wire: Wire) -> None:
        await wire.send(CHUNKED)
        for piece in (ROLE, event(""), event("a"), event("b", finish="stop"), usage(cached=7), DONE):
            await asyncio.sleep(0.005)
            await wire.send(chunk(piece))
        await wire.send(b"0\r\n\r\n")

    record = await ask_script(script)
    check(record, Outcome.OK)
    line = [
        record.intended_ns,
        record.connect_start_ns,
        record.connected_ns,
        record.sent_ns,
        record.headers_ns,
        record.first_byte_ns,
        record.first_token_ns,
        record.first_text_ns,
        record.last_token_ns,
        record.done_ns,
    ]
    assert line == sorted(t for t in line if t is not None)
    assert record.role_ns == record.first_byte_ns
    assert record.uploaded_ns is not None
    assert len(record.chunk_ns) == 3
    assert (record.first_token_ns, record.last_token_ns) == (record.chunk_ns[0], record.chunk_ns[-1])
    assert (record.done_ns or 0) - (record.last_token_ns or 0) > 5_000_000, (
        "done is the end of the answer, not its last token"
    )
    assert (record.prompt_tokens, record.completion_tokens, record.cached_tokens) == (1044, 3, 7)
    assert (record.target, record.index, record.image_id) == ("fp8", 3, "image-7")
    assert (record.phase, record.block, record.level, record.worker) == (Phase.MEASURE, 1, 2, 4)
    assert (record.status, record.finish_reason, record.text) == (200, "stop", "ab")
    assert record.body_bytes == len(PREPARED.body)
    assert record.answer_bytes == sum(
        map(len, (ROLE, event(""), event("a"), event("b", finish="stop"), usage(cached=7), DONE))
    )
    assert record.stamps == "kernel"
    assert record.recv_lag_ns is not None


async def test_the_text_is_kept_only_when_asked_for() -> None:
    record = await ask_script(answering(http(GOOD)), keep_text=False)
    check(record, Outcome.OK)
    assert record.text is None


async def test_an_answer_that_is_no_stream_is_read_too() -> None:
    body = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"[1]"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2}}'
    record = await ask_script(answering(http(body, kind="application/json")))
    check(record, Outcome.OK)
    assert (record.text, record.completion_tokens, record.finish_reason) == ("[1]", 2, "stop")
    assert record.first_token_ns is None, "a whole answer has no first token"


async def test_another_httpx_transport_works_with_stamps_of_the_loop() -> None:
    async with RawServer(answering(http(GOOD))) as server:
        record = await ask(server.url, client=httpx.AsyncClient(trust_env=False))
    check(record, Outcome.OK)
    assert record.stamps == "loop"
    assert record.recv_lag_ns is None
    assert record.sent_ns is not None
    assert record.intended_ns <= record.sent_ns <= (record.first_token_ns or 0) <= (record.done_ns or 0)


async def test_the_connection_is_used_again() -> None:
    async with RawServer(answering(http(GOOD))) as server, new_client() as client:
        endpoint = Endpoint(client, Target(name="fp8", base_url=server.url), SHORT)
        records: list[RequestRecord] = []
        for _ in range(5):
            await send(endpoint, records)
        assert server.connections == 1
    assert [record.connected_ns is not None for record in records] == [True] + [False] * 4


async def test_the_request_on_the_wire() -> None:
    async with RawServer(answering(http(GOOD))) as server:
        await ask(server.url + "/v2/abc/openai/")
        (wire,) = server.requests
    assert wire.head.startswith(b"POST /v2/abc/openai/v1/chat/completions HTTP/1.1\r\n")
    assert wire.header("authorization") == f"Bearer {KEY}"
    assert wire.header("host") == f"127.0.0.1:{server.port}"
    assert wire.header("content-type") == "application/json"
    assert wire.header("accept-encoding") == "identity"
    assert wire.body == PREPARED.body


@pytest.mark.parametrize(("phase", "asks"), [(phase, phase is Phase.QUALITY) for phase in Phase])
async def test_log_probabilities_are_asked_for_in_quality_passes_alone(phase: Phase, asks: bool) -> None:
    entry = {"token": "token_id:7", "logprob": -0.5, "top_logprobs": [{"token": "token_id:7", "logprob": -0.5}]}
    choice = {"index": 0, "delta": {"content": "x"}, "logprobs": {"content": [entry]}, "finish_reason": "stop"}
    answer = http(ROLE + b"data: " + msgspec.json.encode({"choices": [choice]}) + b"\n\n" + DONE)
    async with RawServer(answering(answer)) as server, new_client() as door:
        endpoint = Endpoint(door, Target(name="fp8", base_url=server.url), SHORT, logprobs=5)
        slot = Slot(0, 0, phase)
        record = await endpoint.send(
            PREPARED, slot, phase=phase, block=0, level=0, worker=0, intended_ns=1, sink=lambda _: None
        )
        (wire,) = server.requests
    assert record.outcome is Outcome.OK
    assert (wire.body != PREPARED.body) == asks
    assert (b'"top_logprobs": 5' in wire.body) == asks
    assert record.body_bytes == len(wire.body)
    assert [step.top for step in record.tokens] == ([{"token_id:7": -0.5}] if asks else [])


async def test_without_a_key_there_is_no_authorization() -> None:
    async with RawServer(answering(http(GOOD))) as server:
        await ask(server.url, api_key=None)
        assert server.requests[0].header("authorization") is None


async def test_a_key_that_the_server_echoes_is_not_kept() -> None:
    record = await ask_script(answering(http(ROLE + event(f"you are {KEY}!", finish=f"\x1b{KEY}") + DONE)))
    check(record, Outcome.OK)
    assert (record.text, record.finish_reason) == ("you are ***!", "***")
    assert KEY.encode() not in msgspec.json.encode(record)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
async def test_a_redirect_is_an_error_and_the_key_does_not_follow_it(status: str) -> None:
    async with RawServer(answering(http(GOOD))) as elsewhere:
        target = f"{elsewhere.url}/v1/chat/completions"
        record = await ask_script(answering(http(b"", status, location=target)))
        check(record, Outcome.HTTP_ERROR, f"redirect to {target} not followed")
        assert elsewhere.connections == 0
