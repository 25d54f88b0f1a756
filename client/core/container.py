"""What a container engine says of a server's container -> who it is, how its start went, how it ended. Pure: JSON and log lines in, values out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec

from client.core.loglines import clean
from client.core.plan import Target
from client.core.secrets import mask_args
from client.core.sidecar import LOOPBACK
from client.core.startup import mask

PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
ONE_OFF = "com.docker.compose.oneoff"

_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|\+00:00)")
_SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_WEIGHTS = ("Model loading took", "Loading weights took")
_ENGINE = ("init engine (",)
_POLLING = re.compile(r'"GET /(?:health|metrics|samples|ping|version)\b')
_SERVING = ("Application startup complete", "Uvicorn running on", "Starting vLLM API server", "Starting vLLM server")


START_STEPS = ("weights loaded", "engine ready", "serving", "healthy", "first token")
"""In the order in which they come."""


class StartMarks(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One start of a server, in wall-clock ns of the container's host. None: that moment was not seen.

    created ─ started ─ weights loaded ─ engine ready ─ serving ─ healthy (the health check's word) ─ first token (the client's clock)
    """

    created_ns: int | None = None
    """When the container was made; only the first of its starts comes right after it."""
    started_ns: int | None = None
    weights_ns: int | None = None
    engine_ns: int | None = None
    serving_ns: int | None = None
    healthy_ns: int | None = None
    first_token_ns: int | None = None

    def seconds(self) -> dict[str, float]:
        """What is known of START_STEPS, as seconds since the process started. A moment before that belongs to another start."""
        if self.started_ns is None:
            return {}
        marks = (self.weights_ns, self.engine_ns, self.serving_ns, self.healthy_ns, self.first_token_ns)
        since = {
            step: (at - self.started_ns) / 1e9 for step, at in zip(START_STEPS, marks, strict=True) if at is not None
        }
        return {step: seconds for step, seconds in since.items() if seconds >= 0}


class ContainerFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The container behind a target. `env` and `args` have their secrets masked."""

    target: str
    name: str
    id: str | None = None
    """The engine's id: what the sidecar finds in the control group of a GPU process."""
    project: str | None = None
    service: str | None = None
    image: str | None = None
    image_digest: str | None = None
    """The registry's digest where the image came from one, else the local image id."""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    starts: tuple[StartMarks, ...] = ()
    ended: str | None = None
    """How it ended while it was measured; None when it did not."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One container, as far as finding the right one needs."""

    id: str
    name: str
    project: str | None
    service: str | None
    running: bool
    host_ports: tuple[int, ...] = ()


def seen(attrs: Mapping[str, Any]) -> Seen | None:
    """From `docker inspect`; None for a one-off container (`docker compose run`)."""
    labels = (attrs.get("Config") or {}).get("Labels") or {}
    if labels.get(ONE_OFF, "False").lower() == "true":
        return None
    bound = (attrs.get("HostConfig") or {}).get("PortBindings") or {}
    live = (attrs.get("NetworkSettings") or {}).get("Ports") or {}
    ports = {
        int(one["HostPort"])
        for table in (bound, live)
        for entries in table.values()
        for one in entries or ()
        if str(one.get("HostPort", "")).isdigit()
    }
    return Seen(
        id=str(attrs["Id"]),
        name=str(attrs.get("Name", "")).lstrip("/"),
        project=labels.get(PROJECT),
        service=labels.get(SERVICE),
        running=bool((attrs.get("State") or {}).get("Running")),
        host_ports=tuple(sorted(ports)),
    )


def behind(target: Target, containers: Iterable[Seen], project: str | None = None) -> list[Seen]:
    """The containers that may serve the target: its Compose service (named as the target or as the host of its URL), reached at its address.

    At a loopback address the published port decides; at any other the host must be the service's or the container's name.
    """
    address = urlsplit(target.base_url)
    host, port = address.hostname or "", address.port or (443 if address.scheme == "https" else 80)
    found = []
    for one in containers:
        if project is not None and one.project != project:
            continue
        if host in LOOPBACK:
            if port in one.host_ports:
                found.append(one)
        elif host in (one.service, one.name):
            found.append(one)
    return found


def stamp_ns(text: str) -> int | None:
    """An RFC 3339 stamp of the engine, in ns since 1970. None for the engine's zero time (never happened) and for anything else."""
    match = _STAMP.match(text)
    if match is None or text.startswith("0001-"):
        return None
    seconds = datetime.strptime(match[1], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    return int(seconds.timestamp()) * 1_000_000_000 + int((match[2] or "0").ljust(9, "0"))


class StartReader:
    """Reads the marks of one start from stamped log lines, as they come. The first line that tells of a moment counts."""

    def __init__(self) -> None:
        self.weights_ns: int | None = None
        self.engine_ns: int | None = None
        self.serving_ns: int | None = None

    def take(self, at_ns: int | None, text: str) -> None:
        if self.serving_ns is not None:
            return
        message = clean(text).message
        if self.weights_ns is None and message.startswith(_WEIGHTS):
            self.weights_ns = at_ns
        elif self.engine_ns is None and message.startswith(_ENGINE):
            self.engine_ns = at_ns
        elif message.startswith(_SERVING):
            self.serving_ns = at_ns


REMEMBERED_PROBES = 5


def healthy_since(state: Mapping[str, Any]) -> int | None:
    """End of the first good probe of this start after the last bad one, in ns. None when it is further back than the engine remembers.

    The engine keeps the probes of the start before this one, too.
    """
    started = stamp_ns(str(state.get("StartedAt", ""))) or 0
    every = ((state.get("Health") or {}).get("Log")) or ()
    probes = [probe for probe in every if (stamp_ns(_utc(str(probe.get("End", "")))) or 0) >= started]
    good = [probe.get("ExitCode") == 0 for probe in probes]
    if not good or not good[-1] or (all(good) and len(good) >= REMEMBERED_PROBES):
        return None
    first = len(good) - next((n for n, well in enumerate(reversed(good)) if not well), len(good))
    return stamp_ns(_utc(str(probes[first].get("End", ""))))


def _utc(text: str) -> str:
    """The engine stamps probes in its own zone: the same moment in UTC."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?([+-]\d\d:\d\d)", text)
    if match is None:
        return text
    moment = datetime.fromisoformat(match[1] + match[3]).astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + (match[2] or "") + "Z"


def facts(target: str, attrs: Mapping[str, Any], digests: Iterable[str]) -> ContainerFacts:
    """From `docker inspect` of the container, and the digests that its image is known by."""
    config = attrs.get("Config") or {}
    labels = config.get("Labels") or {}
    return ContainerFacts(
        target=target,
        name=str(attrs.get("Name", "")).lstrip("/"),
        id=str(attrs["Id"]) if attrs.get("Id") else None,
        project=labels.get(PROJECT),
        service=labels.get(SERVICE),
        image=config.get("Image"),
        image_digest=next(iter(digests), None) or attrs.get("Image"),
        args=mask_args(attrs.get("Args") or ()),
        env=mask_env(config.get("Env") or ()),
    )


def mask_env(entries: Iterable[str]) -> dict[str, str]:
    found = {}
    for entry in entries:
        name, _, value = entry.partition("=")
        found[name] = "***" if value and _SECRET_NAME.search(name) else mask(value)
    return found


def tells(line: str) -> bool:
    """Whether a line can say anything about an end: the access lines of health checks and of our own polling cannot."""
    return bool(line.strip()) and _POLLING.search(line) is None


def ending(state: Mapping[str, Any]) -> str:
    """How a container ended, in words that complete `its container …`."""
    code = state.get("ExitCode")
    if state.get("OOMKilled"):
        return f"was killed for want of memory (OOM, exit code {code})"
    if state.get("Running"):
        return "was restarted"
    said = f": {state['Error']}" if state.get("Error") else ""
    meaning = {137: " (killed)", 139: " (segmentation fault)", 143: " (asked to stop)"}.get(
        code if isinstance(code, int) else -1, ""
    )
    return f"ended with code {code}{meaning}{said}"
