"""What is read of a host: tables of nvidia-smi, containers, ports, the hub and the sidecar over real sockets."""

from __future__ import annotations

import http.server
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from client import hostcheck, ready
from client.core.readiness import HostFacts


@contextmanager
def serving(answers: dict[str, tuple[int, bytes]]) -> Iterator[tuple[str, list[Any]]]:
    """A server with fixed answers by path, and the list of what it was asked."""
    asked: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, dict(self.headers)))
            status, body = answers.get(self.path.split("?")[0], (404, b"{}"))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("row", "total", "free", "capability"),
    [
        ("NVIDIA H100 80GB HBM3, 81559, 81042, 9.0, 580.159.04", 79.65, 79.14, "9.0"),
        ("NVIDIA GB10, [N/A], [N/A], 12.1, 580.95", None, None, "12.1"),
        ("", None, None, None),
    ],
)
def test_rows_of_nvidia_smi(row: str, total: float | None, free: float | None, capability: str | None) -> None:
    gpu = hostcheck.gpu_of(row)
    assert gpu.total_gib == (None if total is None else pytest.approx(total, abs=0.01))
    assert gpu.free_gib == (None if free is None else pytest.approx(free, abs=0.01))
    assert gpu.capability == capability


@pytest.mark.parametrize(
    ("config", "holds"),
    [
        ({}, False),
        ({"Runtime": "nvidia"}, True),
        ({"DeviceRequests": [{"Capabilities": [["gpu"]]}]}, True),
        ({"DeviceRequests": [{"Capabilities": [["utility"]]}]}, False),
        ({"DeviceRequests": [{"Capabilities": None}]}, True),
        ({"DeviceRequests": None}, False),
    ],
)
def test_who_holds_a_gpu(config: dict[str, Any], holds: bool) -> None:
    assert hostcheck.holds_gpu({"HostConfig": config}) is holds


def test_a_port_on_which_something_listens_is_taken() -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        assert hostcheck.taken_ports((port,), {}) == {port: "another program"}
        assert hostcheck.taken_ports((port,), {port: "old-bf16-1"}) == {port: "the container old-bf16-1"}
    assert hostcheck.taken_ports((port,), {}) == {}


def test_the_hub_tells_size_and_gate() -> None:
    told = {"gated": "auto", "safetensors": {"parameters": {"BF16": 8_291_375_616}, "total": 8_291_375_616}}
    with serving({"/api/models/a/b": (200, json.dumps(told).encode())}) as (url, asked):
        host = hostcheck.hub_facts(HostFacts(), "a/b", "hf_x", url, None)
    assert (host.gated, host.model_status, host.token) == (True, 200, True)
    assert host.weights_gib == pytest.approx(15.44, abs=0.01)
    assert asked[0][1]["authorization"] == "Bearer hf_x"


@pytest.mark.parametrize("status", [401, 404])
def test_the_hub_refuses(status: int) -> None:
    with serving({"/api/models/a/b": (status, b"{}")}) as (url, _):
        assert hostcheck.hub_facts(HostFacts(), "a/b", None, url, None).model_status == status


def test_a_hub_that_is_not_reached_leaves_all_unknown() -> None:
    host = hostcheck.hub_facts(HostFacts(), "a/b", None, "http://127.0.0.1:9", None)
    assert (host.model_status, host.gated, host.weights_gib) == (None, None, None)


def test_weights_in_the_cache_need_no_hub(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub/models--a--b/snapshots/123"
    snapshot.mkdir(parents=True)
    (snapshot / "model-00001-of-00002.safetensors").write_bytes(b"")
    assert hostcheck.hub_facts(HostFacts(), "a/b", None, "http://127.0.0.1:9", tmp_path).weights_here
    assert not hostcheck.hub_facts(HostFacts(), "a/c", None, "http://127.0.0.1:9", tmp_path).weights_here


def test_the_sidecar_tells_of_the_gpu() -> None:
    info = {"gpus": [{"gpu": 0, "name": "NVIDIA H100", "total": 80 << 30, "compute_capability": "9.0"}]}
    samples = b'{"mono_ns":1,"wall_ns":1,"gpu":0,"used_v1":1}\n{"mono_ns":2,"wall_ns":2,"gpu":0,"used_v1":%d}\n' % (
        10 << 30
    )
    with serving({"/info": (200, json.dumps(info).encode()), "/samples": (200, samples)}) as (url, _):
        host = hostcheck.sidecar_facts(HostFacts(), url)
    assert host.gpus is not None
    (gpu,) = host.gpus
    assert (gpu.total_gib, gpu.free_gib, gpu.capability) == (80.0, 70.0, "9.0")


def test_a_sidecar_that_does_not_answer_is_no_gpu_with_a_reason() -> None:
    host = hostcheck.sidecar_facts(HostFacts(), "http://127.0.0.1:9")
    assert host.gpus is None
    assert host.gpus_why is not None


def test_a_results_folder_that_can_be_written(tmp_path: Path) -> None:
    host = hostcheck.results_facts(HostFacts(), tmp_path)
    assert (host.results, host.uid) == (None, os.getuid())
    assert list(tmp_path.iterdir()) == []
    file = tmp_path / "file"
    file.touch()
    assert hostcheck.results_facts(HostFacts(), file).results is not None


@pytest.mark.parametrize(
    ("version", "name"), [("0.11.0", "fp8"), ("0.20.2", "fp8_per_tensor"), ("0.33.0", "fp8_per_tensor")]
)
def test_the_command_names_fp8_by_version(version: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ready.main(["--fp8-name", version]) == 0
    assert capsys.readouterr().out.strip() == name


def test_the_command_in_compose_refuses_with_reasons_and_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    info = {"gpus": [{"gpu": 0, "name": "NVIDIA A100-SXM4-40GB", "total": 40 << 30, "compute_capability": "8.0"}]}
    told = {"gated": False, "safetensors": {"parameters": {"BF16": 8_291_375_616}, "total": 8_291_375_616}}
    answers = {
        "/info": (200, json.dumps(info).encode()),
        "/samples": (200, b""),
        "/api/models/a/b": (200, json.dumps(told).encode()),
    }
    with serving(answers) as (url, _):
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv("MODEL", "a/b")
        assert ready.main(["--gpu-from", url, "--weights", str(tmp_path)]) == 2
    out = capsys.readouterr().out
    assert "REFUSED: NVIDIA A100-SXM4-40GB is too small for the pair" in out
    assert "note: NVIDIA A100-SXM4-40GB (compute capability 8.0) has no FP8 arithmetic" in out


def test_a_variable_that_is_no_number_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPU_MEMORY_UTILIZATION", "half")
    assert ready.main(["--gpu-from", "http://127.0.0.1:9"]) == 2
    assert "GPU_MEMORY_UTILIZATION=half is no number" in capsys.readouterr().err
