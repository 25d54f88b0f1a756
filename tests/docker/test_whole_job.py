"""`docker compose run client` with simulated servers: the verdict, the files on the host, and how tightly the containers are held."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from composed import CLIENT_UID, ISOLATED, Composed

pytestmark = pytest.mark.docker
SHORT = ["--requests", "6", "--warmup", "1", "--image-size", "320x240"]
MEASURED = {0, 4}
"""A busy machine may rightly make a run INVALID: these tests are about containers, not about the machine."""


def test_one_command_ends_in_a_verdict_with_the_files_on_the_host(composed: Callable[..., Composed]) -> None:
    pair = composed()
    done = pair("run", "--rm", "client", "--out", "/results", "--wait", "60", *SHORT)
    assert done.returncode in MEASURED, done.stderr
    assert "=>" in done.stdout
    run = pair.run_dir()
    assert run.stat().st_uid == CLIENT_UID
    assert {"manifest.json", "requests.jsonl", "findings.json", "report.md"} <= {file.name for file in run.iterdir()}
    findings = pair.read("findings.json")
    assert findings["simulated"] is True
    # The logs came through the volumes: weights are only told there.
    assert "Model loading took" in (run / "servers/fp8/server.log").read_text()
    # The servers stay up for the next measurement.
    assert {c.labels["com.docker.compose.service"]: c.status for c in pair.containers()} == {
        "bf16": "running",
        "fp8": "running",
    }


def test_fp8_starts_only_when_bf16_is_healthy(composed: Callable[..., Composed]) -> None:
    pair = composed()
    assert pair("up", "--detach", "--wait", "bf16", "fp8").returncode == 0
    first, second = (pair.container(name).attrs["State"] for name in ("bf16", "fp8"))
    good = [probe["End"] for probe in first["Health"]["Log"] if probe["ExitCode"] == 0]
    assert good
    assert min(good)[:19] <= second["StartedAt"][:19]


def test_the_client_is_no_root_and_cannot_write_its_image(composed: Callable[..., Composed]) -> None:
    pair = composed()
    script = "import os, importlib.util as u; print(os.getuid(), u.find_spec('pip')); open('/app/x', 'w')"
    done = pair("run", "--rm", "--no-deps", "--entrypoint", "python", "client", "-c", script)
    assert done.stdout.split() == ["1000", "None"]
    assert "Read-only file system" in done.stderr
    for image in ("halfweight-client:local", "halfweight-server:local"):
        assert pair.engine.images.get(image).attrs["Config"]["User"] == "1000:1000"


def test_ports_are_bound_to_this_host_alone(composed: Callable[..., Composed]) -> None:
    pair = composed()
    assert pair("create", "bf16", "fp8").returncode == 0
    for container in pair.containers():
        bindings = container.attrs["HostConfig"]["PortBindings"].values()
        assert {one["HostIp"] for ports in bindings for one in ports} == {"127.0.0.1"}


def test_isolation_starts_measures_and_stops_each_server_in_turn(composed: Callable[..., Composed]) -> None:
    pair = composed(files=ISOLATED)
    assert pair("create", "bf16", "fp8").returncode == 0
    assert {c.status for c in pair.containers()} == {"created"}
    done = pair("run", "--rm", "client", "--out", "/results", "--isolate", "--wait", "60", *SHORT)
    assert done.returncode in MEASURED, done.stderr
    assert {c.status for c in pair.containers()} == {"exited"}
    assert pair.read("manifest.json")["plan"]["design"] == "serial"
    kept = {name: pair.read(f"servers/{name}/container.json") for name in ("bf16", "fp8")}
    # fp8 is met and measured; bf16 is met and measured, and once more after fp8.
    assert {name: len(one["starts"]) for name, one in kept.items()} == {"bf16": 2, "fp8": 2}
    alive = sorted((start["started_ns"], name) for name, one in kept.items() for start in one["starts"])
    assert [name for _, name in alive] == ["fp8", "bf16", "fp8", "bf16"]
    for one in kept.values():
        for start in one["starts"]:
            assert (
                start["created_ns"]
                < start["started_ns"]
                < start["weights_ns"]
                < start["engine_ns"]
                < start["serving_ns"]
            )
            assert start["started_ns"] < start["healthy_ns"]
    assert kept["bf16"]["image_digest"].startswith("sha256:")
    start = pair.read("findings.json")["targets"]["bf16"]["cold_start"]["start_healthy_s"]
    assert (start["n"], start["unit"]) == (2, "s")
    assert start["value"] > 0
    assert "Server start to healthy" in done.stdout
