"""What the engine's JSON and the stamped log lines are read as."""

from __future__ import annotations

from typing import Any

import pytest

from client.core.container import (
    Seen,
    StartMarks,
    StartReader,
    behind,
    ending,
    facts,
    healthy_since,
    mask_env,
    seen,
    stamp_ns,
    tells,
)
from client.core.plan import Target
from client.core.secrets import mask_args, secrets_in

S = 1_000_000_000


def inspected(**changes: Any) -> dict[str, Any]:
    """As `docker inspect` of Engine 20.10 tells it, shortened."""
    base: dict[str, Any] = {
        "Id": "abc",
        "Name": "/halfweight-fp8-1",
        "Args": ["--model", "m", "--api-key", "s3cret"],
        "Image": "sha256:1111",
        "Config": {
            "Image": "vllm/vllm-openai:v0.20.2",
            "Env": ["HF_TOKEN=hf_abc", "VLLM_NO_USAGE_STATS=1", "PATH=/usr/bin"],
            "Labels": {
                "com.docker.compose.project": "halfweight",
                "com.docker.compose.service": "fp8",
                "com.docker.compose.oneoff": "False",
            },
        },
        "State": {"Running": True},
        "HostConfig": {"PortBindings": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8001"}]}},
        "NetworkSettings": {"Ports": {"8000/tcp": None}},
    }
    return {**base, **changes}


def target(url: str, name: str = "fp8") -> Target:
    return Target(name=name, base_url=url)


def a_container(name: str, service: str, port: int, project: str = "halfweight", running: bool = True) -> Seen:
    return Seen(id=name, name=name, project=project, service=service, running=running, host_ports=(port,))


def test_a_container_is_seen_with_its_labels_and_published_ports() -> None:
    found = seen(inspected())
    assert found == Seen(
        id="abc", name="halfweight-fp8-1", project="halfweight", service="fp8", running=True, host_ports=(8001,)
    )


def test_a_port_that_the_system_chose_stands_in_the_live_table_alone() -> None:
    found = seen(
        inspected(
            HostConfig={"PortBindings": {"8000/tcp": [{"HostPort": ""}]}},
            NetworkSettings={"Ports": {"8000/tcp": [{"HostPort": "49153"}]}},
        )
    )
    assert found is not None
    assert found.host_ports == (49153,)


def test_one_off_containers_are_no_servers() -> None:
    labels = {**inspected()["Config"]["Labels"], "com.docker.compose.oneoff": "True"}
    assert seen(inspected(Config={"Labels": labels})) is None


@pytest.mark.parametrize(
    ("url", "names"),
    [
        ("http://127.0.0.1:8001", ["halfweight-fp8-1"]),
        ("http://localhost:8001", ["halfweight-fp8-1"]),
        ("http://127.0.0.1:8000", ["halfweight-bf16-1"]),
        ("http://127.0.0.1:9999", []),
        ("http://fp8:8000", ["halfweight-fp8-1"]),
        ("http://halfweight-fp8-1:8000", ["halfweight-fp8-1"]),
        # The same service name on another machine is not our container.
        ("https://pod-8000.proxy.runpod.net", []),
    ],
)
def test_the_address_decides_which_container_is_behind_a_target(url: str, names: list[str]) -> None:
    both = [a_container("halfweight-bf16-1", "bf16", 8000), a_container("halfweight-fp8-1", "fp8", 8001)]
    assert [one.name for one in behind(target(url), both)] == names


def test_a_project_narrows_the_choice() -> None:
    both = [a_container("a-fp8-1", "fp8", 8001, "a"), a_container("b-fp8-1", "fp8", 8001, "b", running=False)]
    assert len(behind(target("http://fp8:8000"), both)) == 2
    assert [one.name for one in behind(target("http://fp8:8000"), both, "b")] == ["b-fp8-1"]


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:01Z", S),
        ("1970-01-01T00:00:01.5Z", S + 500_000_000),
        ("1970-01-01T00:00:01.000000007Z", S + 7),
        ("0001-01-01T00:00:00Z", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_stamps_of_the_engine(text: str, ns: int | None) -> None:
    assert stamp_ns(text) == ns


def read(lines: list[tuple[int, str]]) -> StartReader:
    reader = StartReader()
    for at, text in lines:
        reader.take(at, text)
    return reader


def test_the_moments_of_a_start() -> None:
    marks = read(
        [
            (1, "(APIServer pid=1) INFO 11-25 03:19:37 [utils.py:299] version 0.20.2 model m"),
            (
                2,
                "(EngineCore pid=2) INFO 11-25 03:19:38 [gpu_model_runner.py:4879] Model loading took 8.79 GiB memory and 3.1 seconds",
            ),
            (
                3,
                "(EngineCore pid=2) INFO 11-25 03:19:39 [core.py:299] init engine (profile, create kv cache, warmup model) took 20.1 s",
            ),
            (
                4,
                "(APIServer pid=1) INFO 11-25 03:19:40 [api_server.py:602] Starting vLLM server on http://0.0.0.0:8000",
            ),
            (5, "(APIServer pid=1) INFO:     Application startup complete."),
        ]
    )
    assert (marks.weights_ns, marks.engine_ns, marks.serving_ns) == (2, 3, 4)


def test_old_logs_with_colours_and_two_weight_lines_count_the_first() -> None:
    marks = read(
        [
            (
                1,
                "\x1b[1;36m(EngineCore_DP0 pid=7)\x1b[0;0m INFO 09-20 10:00:00 [default_loader.py:268] Loading weights took 2.10 seconds",
            ),
            (
                2,
                "\x1b[1;36m(EngineCore_DP0 pid=7)\x1b[0;0m INFO 09-20 10:00:01 [gpu_model_runner.py:2653] Model loading took 15.5271 GiB and 9.1 seconds",
            ),
        ]
    )
    assert marks.weights_ns == 1
    assert marks.serving_ns is None


def test_words_of_a_request_are_no_start() -> None:
    marks = read(
        [
            (1, "INFO:     Application startup complete."),
            (2, "INFO: Model loading took 1 GiB and 1 seconds, said a user"),
        ]
    )
    assert marks.weights_ns is None


def probe(end: str, code: int) -> dict[str, Any]:
    return {"End": end, "ExitCode": code}


def test_healthy_since_the_first_good_probe_after_the_last_bad_one() -> None:
    log = [probe("1970-01-01T00:00:01Z", 1), probe("1970-01-01T00:00:02Z", 0), probe("1970-01-01T00:00:03Z", 0)]
    assert healthy_since({"Health": {"Log": log}}) == 2 * S
    flapped = [*log, probe("1970-01-01T00:00:04Z", 1), probe("1970-01-01T00:00:05Z", 0)]
    assert healthy_since({"Health": {"Log": flapped}}) == 5 * S


def test_probes_of_an_earlier_start_say_nothing_of_this_one() -> None:
    log = [probe("1970-01-01T00:00:01Z", 0), probe("1970-01-01T00:00:02Z", 0), probe("1970-01-01T00:00:09Z", 0)]
    assert healthy_since({"StartedAt": "1970-01-01T00:00:05Z", "Health": {"Log": log}}) == 9 * S


def test_healthy_for_longer_than_the_engine_remembers_is_unknown() -> None:
    five = [probe(f"1970-01-01T00:00:0{n}Z", 0) for n in range(1, 6)]
    assert healthy_since({"Health": {"Log": five}}) is None
    assert healthy_since({"Health": {"Log": five[:3]}}) == S


@pytest.mark.parametrize(
    "state", [{}, {"Health": None}, {"Health": {"Log": None}}, {"Health": {"Log": [probe("1970-01-01T00:00:01Z", 1)]}}]
)
def test_without_a_good_probe_there_is_no_healthy_moment(state: dict[str, Any]) -> None:
    assert healthy_since(state) is None


def test_probes_are_stamped_in_the_zone_of_the_engine() -> None:
    assert healthy_since({"Health": {"Log": [probe("1970-01-01T01:00:02.25+01:00", 0)]}}) == 2 * S + 250_000_000


def test_facts_mask_secrets_and_prefer_the_registry_digest() -> None:
    found = facts("fp8", inspected(), ["vllm/vllm-openai@sha256:2222"])
    assert found.args == ("--model", "m", "--api-key", "***")
    assert found.env == {"HF_TOKEN": "***", "VLLM_NO_USAGE_STATS": "1", "PATH": "/usr/bin"}
    assert found.image_digest == "vllm/vllm-openai@sha256:2222"
    assert facts("fp8", inspected(), []).image_digest == "sha256:1111"


def test_masking() -> None:
    assert mask_args(["--api-key=abc", "--api-key", "x", "--port", "1"]) == (
        "--api-key=***",
        "--api-key",
        "***",
        "--port",
        "1",
    )
    several = ["-tp", "1", "--api-key", "one", "two", "--port", "1", "--hf-token", "three", "--api-key"]
    assert mask_args(several) == (
        "-tp",
        "1",
        "--api-key",
        "***",
        "***",
        "--port",
        "1",
        "--hf-token",
        "***",
        "--api-key",
    )
    assert secrets_in([*several, "--api-key=four"]) == ("one", "two", "three", "four")
    assert mask_env(["AWS_SECRET_ACCESS_KEY=x", "EMPTY_TOKEN=", "NAME=v"]) == {
        "AWS_SECRET_ACCESS_KEY": "***",
        "EMPTY_TOKEN": "",
        "NAME": "v",
    }


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"OOMKilled": True, "ExitCode": 137}, "was killed for want of memory (OOM, exit code 137)"),
        ({"ExitCode": 137}, "ended with code 137 (killed)"),
        ({"ExitCode": 1, "Error": "no such device"}, "ended with code 1: no such device"),
        ({"Running": True, "ExitCode": 0}, "was restarted"),
        ({"ExitCode": 0}, "ended with code 0"),
    ],
)
def test_endings(state: dict[str, Any], words: str) -> None:
    assert ending(state) == words


def test_seconds_since_the_process_started() -> None:
    marks = StartMarks(created_ns=0, started_ns=S, weights_ns=3 * S, healthy_ns=5 * S)
    assert marks.seconds() == {"weights loaded": 2.0, "healthy": 4.0}
    assert StartMarks(weights_ns=1).seconds() == {}


def test_polling_tells_nothing() -> None:
    assert not tells('INFO: 127.0.0.1:1 - "GET /health HTTP/1.1" 200 OK')
    assert tells('INFO: 127.0.0.1:1 - "POST /v1/chat/completions HTTP/1.1" 200 OK')
    assert not tells("   ")
