"""Each documented combination of Compose files is valid, and says what it must."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from composed import ROOT

pytestmark = pytest.mark.docker
PAIR = "docker-compose.yml"
COMBINATIONS = [
    (PAIR,),
    ("docker-compose.sim.yml",),
    ("docker-compose.cpu.yml",),
    (PAIR, "docker-compose.isolate.yml"),
    ("docker-compose.sim.yml", "docker-compose.isolate.yml"),
    ("docker-compose.cpu.yml", "docker-compose.isolate.yml"),
    (PAIR, "docker-compose.cdi.yml"),
    (PAIR, "docker-compose.cdi.yml", "docker-compose.isolate.yml"),
]


def config(files: tuple[str, ...], **environment: str) -> dict[str, Any]:
    flags = [part for file in files for part in ("-f", file)]
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    done = subprocess.run(
        [os.environ["HALFWEIGHT_COMPOSE"], *flags, "--profile", "*", "config", "--format", "json"],
        cwd=ROOT, env={**clean, **environment}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("files", COMBINATIONS, ids="+".join)
def test_valid_and_without_root_or_open_ports(files: tuple[str, ...]) -> None:
    found = config(files)
    assert {"bf16", "fp8", "client"} <= set(found["services"])
    client = found["services"]["client"]
    assert client["user"] == "1000:1000"
    assert client["read_only"] is True
    assert {port["host_ip"] for service in found["services"].values() for port in service.get("ports", ())} == {
        "127.0.0.1"
    }
    socket = any(mount["target"] == "/var/run/docker.sock" for mount in client["volumes"])
    assert socket == ("docker-compose.isolate.yml" in files), "only isolation gives the Docker socket to the client"


def test_the_pair_differs_in_quantization_alone_and_starts_in_order() -> None:
    services = config((PAIR,))["services"]
    bf16, fp8 = services["bf16"]["command"], services["fp8"]["command"]
    assert [arg for arg in fp8 if arg not in bf16] == ["--quantization=fp8"]
    assert [arg for arg in bf16 if arg not in fp8] == []
    assert "--gpu-memory-utilization=0.45" in bf16
    assert services["fp8"]["depends_on"]["bf16"]["condition"] == "service_healthy"
    assert services["bf16"]["depends_on"]["check"]["condition"] == "service_completed_successfully"
    assert services["bf16"]["image"] == services["fp8"]["image"] == "vllm/vllm-openai:v0.20.2"


def test_variables_reach_their_places() -> None:
    services = config(
        (PAIR,), VLLM_VERSION="0.11.0", GPU="GPU-8f2c", GPU_MEMORY_UTILIZATION="0.4", FP8_QUANTIZATION="fp8"
    )["services"]
    assert services["bf16"]["image"] == "vllm/vllm-openai:v0.11.0"
    for name in ("bf16", "fp8", "sidecar"):
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["device_ids"] == ["GPU-8f2c"]
    assert "--gpu-memory-utilization=0.4" in services["fp8"]["command"]


def test_cdi_takes_the_place_of_the_runtime() -> None:
    services = config((PAIR, "docker-compose.cdi.yml"), GPU="MIG-1a2b")["services"]
    for name in ("bf16", "fp8", "sidecar"):
        assert "deploy" not in services[name] or not services[name]["deploy"].get("resources")
        assert "nvidia.com/gpu=MIG-1a2b" in json.dumps(services[name]["devices"])


def test_the_pair_on_a_cpu_serves_our_own_model_without_a_download() -> None:
    services = config(("docker-compose.cpu.yml",))["services"]
    for name in ("bf16", "fp8"):
        assert "--model=/models/tiny" in services[name]["command"]
        (mount,) = (one for one in services[name]["volumes"] if one["target"] == "/models/tiny")
        assert mount["read_only"] is True
        assert (Path(mount["source"]) / "model.safetensors").is_file()


def test_every_knob_of_the_compose_files_is_in_the_example() -> None:
    used = {
        name for file in ROOT.glob("docker-compose*.yml") for name in re.findall(r"\$\{([A-Z0-9_]+)", file.read_text())
    }
    told = set(re.findall(r"^#?([A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert used - told == set()
