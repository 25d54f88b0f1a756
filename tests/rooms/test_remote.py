"""Addresses, keys and time-outs as a user gives them, and what RunPod's limits make of a plan."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from client.bench import plainly
from client.cli import build_parser
from client.config import build_plan
from client.core import runpod
from client.core.plan import Arrival, LoadProfile, RunPlan, Target, TargetKind, Timeouts
from client.core.secrets import Mask
from client.errors import UsageError
from client.remote import base_url, read_keys
from client.serverless import Poll, settled

KEY = "rpa_7Q2xVb0sKq/9LmN3"
POD = "https://abc123-8000.proxy.runpod.net"
SERVERLESS = "https://api.runpod.ai/v2/e7x9k2/openai/v1"


def plan(*argv: str, env: dict[str, str] | None = None) -> RunPlan:
    return build_plan(build_parser().parse_args(["--target", "fp8", *argv]), env or {})


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("http://h:8000", "http://h:8000"),
        ("h:8000", "http://h:8000"),
        ("http://h:8000/", "http://h:8000"),
        ("http://h:8000/v1", "http://h:8000"),
        ("http://h:8000/v1//", "http://h:8000"),
        (" http://h:8000/v1/chat/completions ", "http://h:8000"),
        ("https://gate.example/llm/a/v1/", "https://gate.example/llm/a"),
        ("http://[::1]:8000/v1", "http://[::1]:8000"),
        ("http://[2001:db8::7]", "http://[2001:db8::7]"),
        (f"{POD}/v1", POD),
        (SERVERLESS, "https://api.runpod.ai/v2/e7x9k2/openai"),
    ],
)
def test_any_form_of_an_address_becomes_one(given: str, base: str) -> None:
    assert base_url(given) == base


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("ftp://h", "no http"),
        ("http://", "no http"),
        ("http://h:port", "no address"),
        ("http://h:99999", "no address"),
        ("http://[::1", "no address"),
        (f"http://user:{KEY}@h", "--api-key-env"),
        (f"http://h/v1?api_key={KEY}", "query or fragment"),
        (f"http://h/v1#{KEY}", "query or fragment"),
        ("http://h/a b", "special letter"),
        ("http://h/a\x1b[2J", "special letter"),
    ],
)
def test_what_is_no_address_is_refused_without_telling_secrets(given: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        base_url(given)
    assert KEY not in str(caught.value)


def test_keys_come_from_a_variable_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    by_file = plan("--api-key-file", str(tmp_path / "key"), env={})
    by_name = plan("--api-key-env", "RUNPOD_KEY", env={"RUNPOD_KEY": f"{KEY}\n"})
    assert read_keys(by_file.targets, {}) == read_keys(by_name.targets, {"RUNPOD_KEY": KEY}) == {"fp8": KEY}
    for asked in (by_file, by_name):
        assert KEY.encode() not in msgspec.json.encode(asked)


@pytest.mark.parametrize(
    "content", [b"", b"\n", f"{KEY}\nX-Other: 1".encode(), f"Bearer {KEY}".encode(), b"\xff\xfe" + KEY.encode(), None]
)
def test_a_key_file_that_holds_no_key_alone_is_refused_without_telling_it(
    content: bytes | None, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match="key") as caught:
        plan("--api-key-file", str(file))
    assert KEY not in str(caught.value)


def test_a_key_given_in_place_of_its_variable_is_not_repeated() -> None:
    with pytest.raises(UsageError, match="never the key itself") as caught:
        plan("--api-key-env", KEY)
    assert KEY not in str(caught.value)
    assert KEY[:8] not in str(caught.value)


def test_time_outs_are_set_by_stage() -> None:
    asked = plan("--timeout", "first-byte=30", "--timeout", "total=90s").timeouts
    assert (asked.first_byte_s, asked.total_s, asked.idle_s) == (30.0, 90.0, Timeouts().idle_s)
    for wrong in ("read=3", "idle=0", "idle=-1", "idle=nan", "idle=inf", "idle=soon", "idle"):
        with pytest.raises(UsageError, match="--timeout"):
            plan("--timeout", wrong)


def test_runpod_is_known_by_its_address_or_by_name() -> None:
    assert plan("--url", POD).targets[0].kind is TargetKind.RUNPOD_POD
    for given in (SERVERLESS, "https://api.runpod.ai/v2/e7x9k2", "https://api.runpod.ai/v2/e7x9k2/runsync"):
        target = plan("--url", given).targets[0]
        assert (target.kind, target.base_url) == (
            TargetKind.RUNPOD_SERVERLESS,
            "https://api.runpod.ai/v2/e7x9k2/openai",
        )
        assert runpod.health_url(target.base_url) == "https://api.runpod.ai/v2/e7x9k2/health"
    assert plan("--url", "https://proxy.runpod.net.evil.example").targets[0].kind is TargetKind.PLAIN
    named = plan("--url", "http://127.0.0.1:5/v2/x", env={"HALFWEIGHT_FP8_KIND": "runpod-serverless"}).targets[0]
    assert named.base_url == "http://127.0.0.1:5/v2/x/openai"
    with pytest.raises(UsageError, match="kind"):
        plan(env={"HALFWEIGHT_FP8_KIND": "lambda"})


def warned(kind: TargetKind, load: LoadProfile, body: int | None = None) -> str:
    target = Target(name="fp8", base_url=POD, kind=kind)
    return "\n".join(runpod.warnings(target, RunPlan(targets=(target,), load=load), body))


def test_limits_are_told_before_they_are_met() -> None:
    pod, serverless, plain = TargetKind.RUNPOD_POD, TargetKind.RUNPOD_SERVERLESS, TargetKind.PLAIN
    open_loop = LoadProfile(arrival=Arrival.POISSON, rate_per_s=250.0)
    assert "100 s" in warned(pod, LoadProfile())
    assert "asks for no key" in warned(pod, LoadProfile())
    for keyed in ({"api_key_file": "key"}, {"api_key_env": "THE_KEY"}):
        target = Target(name="fp8", base_url=POD, kind=pod, **keyed)
        assert not [w for w in runpod.warnings(target, RunPlan(targets=(target,))) if "asks for no key" in w]
    assert warned(serverless, LoadProfile(concurrency=30)) == ""
    assert "MAX_CONCURRENCY" in warned(serverless, LoadProfile(concurrency=31))
    assert "429 above 400" in warned(serverless, LoadProfile(concurrency=401))
    assert "200 requests per second" in warned(serverless, open_loop)
    assert "10.1 MB" in warned(serverless, LoadProfile(), 10_100_000)
    assert warned(plain, LoadProfile(concurrency=5000), 99_000_000) == ""


def test_workers_of_a_serverless_endpoint_are_read() -> None:
    page = b'{"jobs":{"inQueue":2},"workers":{"idle":0,"initializing":1,"ready":0,"running":0,"throttled":0,"unhealthy":0}}'
    found = runpod.read_workers(page, 5)
    assert found is not None
    assert (found.warm, found.initializing, found.in_queue, found.mono_ns) == (0, 1, 2, 5)
    assert "no worker is ready, 1 starting" in runpod.workers_sentence("fp8", found)
    for bad in (b"", b"[]", b"<html>", b'{"workers":3}', b'{"workers":{}}', b"\xff", b"[" * 100_000):
        assert runpod.read_workers(bad, 0) is None
    odd = runpod.read_workers(b'{"workers":{"idle":"many","running":-1,"ready":true}}', 0)
    assert odd is not None
    assert odd.warm is None


def test_a_mask_covers_a_key_and_leaves_words_alone() -> None:
    mask = Mask([KEY, "EMPTY", "x"])
    told = f'"{KEY}" {KEY.replace("/", chr(92) + "/")} EMPTY x'
    assert mask.text(told) == '"***" *** EMPTY x'
    assert mask.data(told.encode()) == b'"***" *** EMPTY x'


def test_the_sidecar_of_the_file_is_not_asked_of_another_host() -> None:
    assert plan().targets[0].sidecar_url == "http://127.0.0.1:9401"
    assert plan("--url", "http://127.0.0.1:8123").targets[0].sidecar_url == "http://127.0.0.1:9401"
    assert plan("--url", POD).targets[0].sidecar_url is None
    assert plan("--url", POD, "--sidecar", "http://gpu:9401").targets[0].sidecar_url == "http://gpu:9401"


async def test_the_measured_phase_waits_for_workers_that_are_starting_but_not_for_ever() -> None:
    def telling(starting: list[int]) -> tuple[list[str], Poll]:
        asked: list[str] = []

        async def poll(name: str) -> runpod.Workers | None:
            asked.append(name)
            return runpod.Workers(ready=1, initializing=starting.pop(0) if len(starting) > 1 else starting[0])

        return asked, poll

    asked, poll = telling([2, 1, 0])
    found = await settled(poll, "fp8", lambda: False, every_s=0.0)
    assert (len(asked), found and found.initializing) == (3, 0)
    asked, poll = telling([1])
    found = await settled(poll, "fp8", lambda: False, limit_s=0.05, every_s=0.01)
    assert found
    assert found.initializing == 1, "as they are when the time is over"
    asked, poll = telling([1])
    await settled(poll, "fp8", lambda: True, every_s=0.0)
    assert len(asked) == 1, "a stop is not waited for"


@pytest.mark.parametrize(
    ("url", "keyed", "told"),
    [
        ("http://gpu.example:8000", True, True),
        ("http://10.0.0.4:8000", True, True),
        ("http://gpu.example:8000", False, False),
        ("https://gpu.example", True, False),
        ("http://localhost:8000", True, False),
        ("http://[::1]:8000", True, False),
    ],
)
def test_a_key_that_can_be_read_on_the_way_is_told(url: str, keyed: bool, told: bool) -> None:
    target = Target(name="t", base_url=url, api_key_env="THE_KEY" if keyed else None)
    assert [("not encrypted" in line) for line in plainly(target)] == [True] * told
