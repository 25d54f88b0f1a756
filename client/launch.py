"""Starts simulated servers as child processes, waits until they serve, and ends them. Knows nothing of load."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from client.core.plan import Target
from client.errors import TargetError

START_LIMIT_S = 60.0
STOP_LIMIT_S = 5.0
ROOT = Path(__file__).parent.parent


class SimulatedServers:
    """Context manager: enters with every server started at once, `address(name)` then tells where each one serves."""

    def __init__(self, profile: str, targets: tuple[Target, ...], logs: dict[str, Path], seed: int) -> None:
        self._profile = profile
        self._targets = targets
        self._logs = logs
        self._seed = seed
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._addresses: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._scratch = tempfile.TemporaryDirectory(prefix="halfweight-")
        try:
            for target in self._targets:
                self._start(target)
            for target in self._targets:
                self._addresses[target.name] = self._wait(target)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def address(self, name: str) -> str:
        return self._addresses[name]

    def pid(self, name: str) -> int:
        return self._children[name].pid

    def _port_file(self, name: str) -> Path:
        assert self._scratch is not None
        return Path(self._scratch.name) / f"{name}.port"

    def _start(self, target: Target) -> None:
        command = [
            sys.executable, "-m", "server.sim", "--profile", self._profile, "--precision", target.precision,
            "--port", "0", "--port-file", str(self._port_file(target.name)), "--seed", str(self._seed), "--die-with-parent",
        ]  # fmt: skip
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with self._logs[target.name].open("wb") as log:
            self._children[target.name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HALFWEIGHT_PARENT": str(os.getpid())},
                # A group of its own: Ctrl-C in the terminal is for the client, which still has requests in flight.
                process_group=0,
            )

    def _wait(self, target: Target) -> str:
        port_file = self._port_file(target.name)
        child = self._children[target.name]
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            text = port_file.read_text().strip() if port_file.exists() else ""
            if text:
                return f"http://127.0.0.1:{int(text)}"
            if child.poll() is not None:
                raise self._failed(target, f"ended with code {child.returncode} before it served")
            time.sleep(0.02)
        raise self._failed(target, f"did not serve within {START_LIMIT_S:.0f} s")

    def _failed(self, target: Target, what: str) -> TargetError:
        lines = self._logs[target.name].read_text(errors="replace").strip().splitlines()
        last = f" Its last line: {lines[-1][:200]}" if lines else ""
        return TargetError(f"the simulated server {target.name} {what}.{last}", f"Its log: {self._logs[target.name]}")

    def _stop(self) -> None:
        for child in self._children.values():
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_LIMIT_S
        for child in self._children.values():
            try:
                child.wait(max(0.05, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if self._scratch is not None:
            self._scratch.cleanup()
