"""Where the client ran: facts for the manifest, nothing that identifies a person."""

from __future__ import annotations

import os
import platform
import resource
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from client.core.records import ClockAnchor

PACKAGES = ("httpx", "httptools", "numpy", "scipy", "pillow", "msgspec", "pydantic")

MOST_DESCRIPTORS = 1 << 20


def facts() -> dict[str, str]:
    return {
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": str(os.cpu_count() or "unknown"),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    found = {"halfweight": "0.1.0"}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def has_engine() -> bool:
    """Whether it is worth asking a container engine: there is the socket of this host's. Ports of another host's engine are not ours."""
    place = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    return place.startswith("unix://") and Path(place.removeprefix("unix://")).exists()


def anchor() -> ClockAnchor:
    """Both clocks, read as close together as they can be: the closest of a few tries."""
    best = min(_both() for _ in range(20))
    return ClockAnchor(mono_ns=best[1], wall_ns=best[2])


def _both() -> tuple[int, int, int]:
    before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
    return after - before, (before + after) // 2, wall


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def raise_descriptor_limit() -> int:
    """Takes as many descriptors as the system lets us have without asking; returns how many. Children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft if soft != resource.RLIM_INFINITY else MOST_DESCRIPTORS
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft
    return wanted
