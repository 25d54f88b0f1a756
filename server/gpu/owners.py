"""Which container a process belongs to, as far as /proc tells. Needs the host's PID namespace (`pid: host`)."""

from __future__ import annotations

import re
from pathlib import Path

# Docker, containerd, CRI-O and podman all name the cgroup by the container's 64 hex digits.
CONTAINER = re.compile(r"(?:^|[/:\-])([0-9a-f]{64})(?:\.scope)?(?:/|$)", re.MULTILINE)


def container_in(cgroup: str) -> str | None:
    """The short container id (12 digits) in the text of /proc/<pid>/cgroup. None: no container, or hidden by a cgroup namespace."""
    found = CONTAINER.findall(cgroup)
    return found[-1][:12] if found else None


def owner(pid: int, proc: Path = Path("/proc")) -> tuple[str | None, str | None]:
    """(container, process name) of a host PID. Both None where the process is not visible from here."""
    try:
        name: str | None = (proc / str(pid) / "comm").read_text(errors="replace").strip() or None
    except OSError:
        return None, None
    try:
        return container_in((proc / str(pid) / "cgroup").read_text(errors="replace")), name
    except OSError:
        return None, name
