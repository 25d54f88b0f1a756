"""What a person is told when a server dies under the run, never becomes healthy, or cannot start."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from composed import HERE, ISOLATED, SIM, Composed

pytestmark = pytest.mark.docker
NEVER = str(HERE / "never-healthy.yml")
DIES = str(HERE / "dies-at-start.yml")


def wait_for(what: Callable[[], bool], client: subprocess.Popen[str], limit_s: float = 90) -> None:
    deadline = time.monotonic() + limit_s
    while not what():
        assert client.poll() is None, client.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def measured(results: Path, target: str) -> bool:
    return any(
        f'"target":"{target}","phase":"measure"' in file.read_text() for file in results.glob("*/requests.jsonl")
    )


@pytest.mark.parametrize(
    ("signal", "words"), [("SIGKILL", "ended with code 137 (killed)"), ("SIGTERM", "ended with code 0")]
)
def test_a_server_that_ends_under_the_run_is_named_with_its_last_lines(
    composed: Callable[..., Composed], signal: str, words: str
) -> None:
    pair = composed()
    assert pair("up", "--detach", "--wait", "bf16", "fp8").returncode == 0
    client = pair.bench("--duration", "120", "--warmup", "1", "--image-size", "320x240")
    wait_for(lambda: measured(pair.results, "bf16"), client)
    pair.container("fp8").kill(signal=signal)
    killed = time.monotonic()
    out, err = client.communicate(timeout=60)
    assert client.returncode == 3, (out, err)
    assert time.monotonic() - killed < 20, "the rest of the two minutes must not be waited for"
    assert f"target fp8: its container {pair.container('fp8').name} {words} under the run" in err
    assert "/v1/chat/completions" in err, "its last lines are shown"
    assert "What was measured before is kept" in err
    assert measured(pair.results, "bf16")
    assert pair.read("servers/fp8/container.json")["ended"] == words
    assert "Model loading took" in (pair.run_dir() / "servers/fp8/server.log").read_text()


def test_a_server_that_never_becomes_healthy_is_named_by_compose(composed: Callable[..., Composed]) -> None:
    pair = composed(files=(*SIM, NEVER))
    done = pair("up", "client")
    assert done.returncode != 0
    assert "fp8-1 is unhealthy" in done.stderr
    assert not list(pair.results.iterdir())


def test_a_server_that_never_becomes_healthy_is_named_by_isolation_with_its_last_lines(
    composed: Callable[..., Composed],
) -> None:
    pair = composed(files=(*ISOLATED, NEVER))
    assert pair("create", "bf16", "fp8").returncode == 0
    client = pair.bench("--isolate")
    out, err = client.communicate(timeout=60)
    assert client.returncode == 3, (out, err)
    assert "became unhealthy before it served" in err
    assert "SIMULATED server" in err, "its last lines are shown"
    assert {c.status for c in pair.containers()} == {"created", "exited"}, "what was started was stopped again"
    assert not list(pair.results.iterdir()), "a run that never began leaves nothing to explain"


def test_a_server_that_dies_at_start_is_named_with_its_reason(composed: Callable[..., Composed]) -> None:
    pair = composed(files=(*ISOLATED, DIES))
    assert pair("create", "bf16", "fp8").returncode == 0
    client = pair.bench("--isolate")
    out, err = client.communicate(timeout=60)
    assert client.returncode == 3, (out, err)
    assert "ended with code 2 before it was healthy" in err
    assert "the KV cache does not hold one request" in err


def test_waiting_for_a_server_ends_when_its_container_does(composed: Callable[..., Composed]) -> None:
    pair = composed(files=(*SIM, NEVER))
    assert pair("create", "bf16", "fp8").returncode == 0
    pair.container("bf16").start()
    pair.container("fp8").start()
    client = pair.bench("--wait", "600")
    time.sleep(4)
    assert client.poll() is None, client.communicate()
    pair.container("fp8").kill()
    _, err = client.communicate(timeout=30)
    assert client.returncode == 3
    assert "ended with code 137 (killed) before it answered" in err
    assert "What was measured" not in err


def test_isolation_without_containers_says_how_to_make_them(composed: Callable[..., Composed]) -> None:
    pair = composed()
    client = pair.bench("--isolate")
    _, err = client.communicate(timeout=30)
    assert client.returncode == 2
    assert "no container of a Compose service serves bf16" in err
    assert "create bf16 fp8" in err
