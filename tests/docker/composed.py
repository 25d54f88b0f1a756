"""One Compose project of a test: its own name, ports and results folder; taken down with all that it made."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import docker

ROOT = Path(__file__).parent.parent.parent
SIM = ("docker-compose.sim.yml",)
ISOLATED = (*SIM, "docker-compose.isolate.yml")
HERE = Path(__file__).parent
CLIENT_UID = 1000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Composed:
    def __init__(self, name: str, results: Path, *, files: tuple[str, ...] = SIM) -> None:
        self.project = f"hwtest-{name}"
        self.results = results
        self.files = files
        self.ports = {"bf16": free_port(), "fp8": free_port()}
        self.spare_port = free_port()
        results.mkdir(parents=True, exist_ok=True)
        # Compose must not be able to write there as root, so the folder belongs to the client's user alone.
        os.chown(results, CLIENT_UID, CLIENT_UID)
        self.engine = docker.from_env()
        self.environment = {
            **os.environ,
            "COMPOSE_PROJECT_NAME": self.project,
            "RESULTS": str(results),
            "BF16_PORT": str(self.ports["bf16"]),
            "FP8_PORT": str(self.ports["fp8"]),
            "TIME_SCALE": "0.1",
            "DOCKER_SOCKET": os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"),
        }
        socket_file = Path(self.environment["DOCKER_SOCKET"])
        self.environment["DOCKER_GID"] = str(socket_file.stat().st_gid) if socket_file.exists() else "0"

    def __call__(self, *argv: str, limit_s: float = 180) -> subprocess.CompletedProcess[str]:
        files = [part for file in self.files for part in ("-f", str(file))]
        return subprocess.run(
            [os.environ["HALFWEIGHT_COMPOSE"], *files, *argv],
            cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=limit_s,
        )  # fmt: skip

    def bench(self, *argv: str) -> subprocess.Popen[str]:
        """The client on the host, against the published ports."""
        urls = [part for name, port in self.ports.items() for part in ("--url", f"{name}=http://127.0.0.1:{port}")]
        return subprocess.Popen(
            [sys.executable, "-m", "client.bench", "--out", str(self.results), "--sidecar", "none", *urls, *argv],
            cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def container(self, service: str) -> Any:
        (found,) = [c for c in self.containers() if c.labels["com.docker.compose.service"] == service]
        return found

    def containers(self) -> list[Any]:
        return list(self.engine.containers.list(all=True, filters=self._ours()))

    def run_dir(self) -> Path:
        (run,) = self.results.iterdir()
        return run

    def read(self, name: str) -> Any:
        return json.loads((self.run_dir() / name).read_text())

    def left(self) -> list[str]:
        """Names of all that the project still has on the engine."""
        things = [
            *self.containers(),
            *self.engine.networks.list(filters=self._ours()),
            *self.engine.volumes.list(filters=self._ours()),
        ]
        return [thing.name for thing in things]

    def down(self) -> None:
        self("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "5")

    def _ours(self) -> dict[str, Any]:
        return {"label": [f"com.docker.compose.project={self.project}"]}
