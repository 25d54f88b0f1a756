"""Runs a tool to its end, with the CPU time and the peak memory of all its processes. Nothing of it is left running."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Watched:
    """`cpu_s` is user and system time; `pss_mb` the peak of the proportional set size (pages that processes share count once)."""

    started_ns: int
    code: int
    timed_out: bool
    cpu_s: float
    pss_mb: float


def watch(command: list[str], folder: Path, environment: dict[str, str], log: Path, timeout_s: float) -> Watched:
    """`started_ns` is of CLOCK_MONOTONIC. What the tool prints goes to `log`."""
    with log.open("wb") as output:
        started_ns = time.monotonic_ns()
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    over = threading.Event()
    sampler = _Sampler(process.pid, over, timeout_s)
    sampler.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        over.set()
        sampler.join()
        end_session(process.pid)
    cpu_s = usage.ru_utime + usage.ru_stime
    return Watched(started_ns, process.returncode, sampler.timed_out, cpu_s, sampler.pss_mb)


class _Sampler(threading.Thread):
    def __init__(self, session: int, over: threading.Event, timeout_s: float) -> None:
        super().__init__(daemon=True)
        self.pss_mb = 0.0
        self.timed_out = False
        self._session, self._over, self._timeout_s = session, over, timeout_s

    def run(self) -> None:
        deadline = time.monotonic() + self._timeout_s
        while not self._over.wait(EVERY_S):
            self.pss_mb = max(self.pss_mb, sum(map(_pss_kb, members(self._session))) * 1024 / 1e6)
            if time.monotonic() > deadline:
                self.timed_out = True
                end_session(self._session)
                return


def members(session: int) -> list[int]:
    """The living processes of a session: `start_new_session` made the tool the leader of its own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z" and int(fields[3]) == session:
            found.append(int(path.parent.name))
    return found


def end_session(session: int) -> None:
    """Returns when they are gone, so that the next tool has the machine to itself; gives up after some seconds."""
    for _ in range(100):
        left = members(session)
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _pss_kb(pid: int) -> int:
    try:
        found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    except OSError:
        return 0
    return int(found.group(1)) if found else 0
