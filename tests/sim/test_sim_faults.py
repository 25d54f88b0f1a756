"""Each fault does what `--help` says of it, at the request that it names."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest
from simulated import Simulated, events, photo, simulated, streaming

from server.simulator.faults import KINDS, read_fault

JPEG = photo(1, 256, 190)
FAST = ("--time-scale", "0.02")


def reasons(response: httpx.Response) -> list[str | None]:
    return [e["choices"][0]["finish_reason"] for e in events(response) if e != "[DONE]" and e.get("choices")]


def test_stream_faults_strike_their_requests_alone(tmp_path: Path) -> None:
    """One server, faults on the 2nd, 3rd, 5th, 7th and 11th request (and their multiples, which are not sent)."""
    faults = ("truncate:2", "stream-error:3", "http-500:5", "empty:7", "reset:11")
    with simulated(tmp_path, *FAST, *(part for f in faults for part in ("--fault", f))) as server:
        answers: dict[int, httpx.Response | Exception] = {}
        for number in range(1, 12):
            try:
                answers[number] = server.chat(streaming(JPEG))
            except httpx.TransportError as error:
                answers[number] = error
    good = answers[1]
    assert isinstance(good, httpx.Response)
    assert reasons(good)[-1] == "stop"
    torn = answers[2]
    assert isinstance(torn, httpx.Response)
    assert "[DONE]" not in events(torn)
    assert set(reasons(torn)) == {None}
    failed = answers[3]
    assert isinstance(failed, httpx.Response)
    assert events(failed)[-1] == "[DONE]"
    assert events(failed)[-2]["error"]["code"] == 500
    refusal = answers[5]
    assert isinstance(refusal, httpx.Response)
    assert refusal.status_code == 500
    empty = answers[7]
    assert isinstance(empty, httpx.Response)
    assert reasons(empty) == [None, "stop"]
    assert events(empty)[-2]["usage"]["completion_tokens"] == 0
    assert isinstance(answers[11], httpx.ReadError), answers[11]


def test_stall_pauses_the_stream(tmp_path: Path) -> None:
    with simulated(tmp_path, *FAST, "--fault", "stall:2:0.7") as server:
        times = []
        for _ in range(2):
            start = time.monotonic()
            assert reasons(server.chat(streaming(JPEG)))[-1] == "stop"
            times.append(time.monotonic() - start)
    assert times[1] >= 0.7 > 0.1 + times[0]


def test_early_stop_halves_the_answer(tmp_path: Path) -> None:
    with simulated(tmp_path, *FAST, "--fault", "early-stop:2") as server:
        usages = [events(server.chat(streaming(JPEG)))[-2]["usage"]["completion_tokens"] for _ in range(2)]
    assert usages[1] == usages[0] // 2


def test_counters_begin_anew(tmp_path: Path) -> None:
    with simulated(tmp_path, *FAST, "--fault", "restart-counters:2") as server:
        seen = []
        for _ in range(3):
            server.chat(streaming(JPEG))
            seen.append(server.metric("vllm:request_success_total"))
        hits = server.metric("vllm:mm_cache_hits_total")
    assert (seen, hits) == ([1, 2, 1], 0)


def test_a_server_may_be_unhealthy_and_hide_its_metrics(tmp_path: Path) -> None:
    with simulated(tmp_path, *FAST, "--fault", "unhealthy", "--fault", "drop-metrics") as server:
        answers = {path: server.client.get(path).status_code for path in ("/health", "/ping", "/metrics", "/version")}
        chat = server.chat(streaming(JPEG)).status_code
    assert answers == {"/health": 503, "/ping": 503, "/metrics": 404, "/version": 200}
    assert chat == 500


def last_clock(server: Simulated) -> int:
    return int(
        httpx.Response(200, content=server.client.get("/samples?since=0").text.splitlines()[-1]).json()["sm_mhz"]
    )


def test_throttle_slows_the_gpu_and_its_clock(tmp_path: Path) -> None:
    with simulated(tmp_path, "--time-scale", "0.1", "--profile", "h100", "--fault", "throttle:3:1.5") as server:
        ready = time.monotonic()

        def timed() -> float:
            start = time.monotonic()
            server.chat(streaming(JPEG, max_tokens=200, ignore_eos=True))
            return time.monotonic() - start

        timed()
        before, clock = timed(), last_clock(server)
        time.sleep(max(0.0, ready + 1.8 - time.monotonic()))
        assert timed() > 1.8 * before
        assert last_clock(server) < 0.5 * clock


def test_slow_start_is_slow(tmp_path: Path) -> None:
    start = time.monotonic()
    with simulated(tmp_path, "--fault", "slow-start:1"):
        assert time.monotonic() - start > 1


@pytest.mark.parametrize(
    ("text", "words"),
    [("explode:3", "unknown fault"), ("stall:3", "stall:N:SECONDS"), ("truncate:x", "numbers"), ("empty:0", "from 1")],
)
def test_wrong_faults_are_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_fault(text)


def test_every_fault_is_explained() -> None:
    assert all(text.startswith(kind) and len(text) > 30 for kind, text in KINDS.items())
