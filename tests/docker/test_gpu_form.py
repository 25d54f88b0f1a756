"""docker-compose.yml itself, with simulated servers and a recorded GPU in the places of what this machine does not have."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from composed import HERE, Composed

pytestmark = pytest.mark.docker
FILES = ("docker-compose.yml", str(HERE / "pretend-gpu.yml"))


def the_pair(composed: Callable[..., Composed], **environment: str) -> Composed:
    pair = composed(files=FILES)
    pair.environment |= {"RECORDING": "h100.gpu.jsonl", "SIDECAR_PORT": str(pair.spare_port), **environment}
    return pair


def test_the_gpu_form_checks_starts_measures_and_keeps_the_servers(composed: Callable[..., Composed]) -> None:
    # The recording is of an H100 on which 32.5 GiB are in use: two shares of 0.25 fit beside that.
    pair = the_pair(composed, GPU_MEMORY_UTILIZATION="0.25")
    done = pair(
        "run",
        "--rm",
        "client",
        "--out",
        "/results",
        "--wait",
        "60",
        "--requests",
        "6",
        "--warmup",
        "1",
        "--image-size",
        "320x240",
    )
    assert done.returncode in {0, 4}, (done.stdout, done.stderr)
    states = {c.labels["com.docker.compose.service"]: c.attrs["State"] for c in pair.containers()}
    assert {name: state["Status"] for name, state in states.items()} == {
        "check": "exited", "sidecar": "running", "bf16": "running", "fp8": "running",
    }  # fmt: skip
    assert states["check"]["FinishedAt"] <= states["bf16"]["StartedAt"] < states["fp8"]["StartedAt"]
    assert "Nothing speaks against the pair on one GPU" in pair.container("check").logs().decode()
    run = pair.run_dir()
    assert "Model loading took" in (run / "servers/bf16/server.log").read_text()
    again = pair("run", "--rm", "check", "--servers", "http://bf16:8000", "--gpu-from", "http://sidecar:9401")
    assert again.returncode == 0, "our own servers do not stand in the way of the next run"


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({}, "71.7 GiB are asked for and"),
        ({"GPU_MEMORY_UTILIZATION": "0.9"}, "twice is 180% of the card"),
        ({"GPU_MEMORY_UTILIZATION": "0.2"}, "too small for the pair"),
        (
            {"GPU_MEMORY_UTILIZATION": "0.25", "VLLM_VERSION": "0.11.0", "FP8_QUANTIZATION": "fp8_per_tensor"},
            "Set FP8_QUANTIZATION=fp8.",
        ),
        ({"GPU_MEMORY_UTILIZATION": "0.25", "HOST_UID": "4321"}, "results folder cannot be written by user 4321"),
    ],
    ids=["in-use", "sum", "too-small", "name", "results"],
)
def test_what_cannot_work_is_refused_before_a_server_starts(
    composed: Callable[..., Composed], environment: dict[str, str], reason: str
) -> None:
    pair = the_pair(composed, **environment)
    done = pair("up", "client")
    assert done.returncode != 0
    assert reason in pair.container("check").logs().decode()
    states = {c.labels["com.docker.compose.service"]: c.status for c in pair.containers()}
    assert (states["bf16"], states["fp8"]) == ("created", "created")
