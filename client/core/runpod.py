"""What is known of RunPod's two ways to a server, and what its limits mean for a plan. Pure.

    pod          https://<id>-<port>.proxy.runpod.net        a proxy in front of the server itself, without auth of its own
    serverless   https://api.runpod.ai/v2/<id>/openai/v1     a queue in front of workers that come and go

Numbers are RunPod's documentation of 2025 (expose-ports, send-requests, operation-reference) and the README of its vLLM worker.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec

from client.core.plan import Arrival, LoadProfile, RunPlan, Target, TargetKind

FIRST_BYTE_LIMIT_S = 100.0
"""The pod proxy answers 524 when a server has sent nothing for so long."""
WORKER_CONCURRENCY = 30
"""MAX_CONCURRENCY of the vLLM worker, unless its owner chose another: what is above waits at RunPod."""
CONCURRENT_LIMIT = 400
"""Requests at once on /openai/* of one endpoint; more are answered 429."""
RATE_LIMIT_PER_S = 200.0
"""2000 requests in 10 s on /openai/*; more are answered 429."""
PAYLOAD_LIMIT_BYTES = 10_000_000
"""The smaller of the documented limits (/run 10 MB, /runsync 20 MB): a larger body may be refused."""


def kind_of(base_url: str) -> TargetKind:
    """By the host alone; a server elsewhere is PLAIN."""
    host = (urlsplit(base_url).hostname or "").rstrip(".")
    if host == "proxy.runpod.net" or host.endswith(".proxy.runpod.net"):
        return TargetKind.RUNPOD_POD
    return TargetKind.RUNPOD_SERVERLESS if host == "api.runpod.ai" else TargetKind.PLAIN


def openai_base(base_url: str) -> str:
    """`…/v2/<id>`, with or without `/run`, `/runsync` or `/openai` behind it -> `…/v2/<id>/openai`; any other address as it is."""
    found = re.fullmatch(r"(.*/v2/[^/]+)(?:/(?:run|runsync|health|openai))?", base_url)
    return f"{found[1]}/openai" if found else base_url


def health_url(base_url: str) -> str:
    """Where a serverless endpoint tells its workers and jobs; asking does not start a worker."""
    return base_url.removesuffix("/openai") + "/health"


class Workers(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Workers and jobs of a serverless endpoint at one moment. None: not told."""

    mono_ns: int = 0
    ready: int | None = None
    running: int | None = None
    idle: int | None = None
    initializing: int | None = None
    throttled: int | None = None
    unhealthy: int | None = None
    in_queue: int | None = None

    @property
    def warm(self) -> int | None:
        """Workers that can answer at once. `ready` counts idle and running ones where it is told."""
        if self.ready is not None:
            return self.ready
        known = [count for count in (self.idle, self.running) if count is not None]
        return sum(known) if known else None


class _Health(msgspec.Struct):
    workers: dict[str, Any] = {}
    jobs: dict[str, Any] = {}


def read_workers(page: bytes, mono_ns: int) -> Workers | None:
    """The answer of /health; None when it is none."""
    try:
        found = msgspec.json.decode(page, type=_Health)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not found.workers:
        return None
    names = ("ready", "running", "idle", "initializing", "throttled", "unhealthy")
    counts = {name: _count(found.workers.get(name)) for name in names}
    return Workers(mono_ns=mono_ns, in_queue=_count(found.jobs.get("inQueue")), **counts)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def workers_sentence(name: str, workers: Workers) -> str:
    """What the first request will meet."""
    warm, starting = workers.warm, workers.initializing or 0
    if warm:
        return f"{name}: {warm} worker{'s' if warm > 1 else ''} ready: the first request is no cold start of a worker."
    coming = f", {starting} starting" if starting else ""
    return (
        f"{name}: no worker is ready{coming}: the first request waits for one, and is counted as the cold start alone."
    )


def warnings(target: Target, plan: RunPlan, largest_body_bytes: int | None = None) -> tuple[str, ...]:
    """What RunPod's limits will do to this run, one sentence each; nothing for a target that is elsewhere."""
    if target.kind is TargetKind.RUNPOD_POD:
        return tuple(_pod(target, plan))
    if target.kind is TargetKind.RUNPOD_SERVERLESS:
        return tuple(_serverless(target, plan.load, largest_body_bytes))
    return ()


def _pod(target: Target, plan: RunPlan) -> Iterator[str]:
    if plan.timeouts.first_byte_s > FIRST_BYTE_LIMIT_S:
        yield (
            f"{target.name}: RunPod's proxy gives up after {FIRST_BYTE_LIMIT_S:.0f} s without a first byte: longer waits are "
            "counted as http_524, not as time-outs. A TCP port of the pod has no such limit."
        )
    if target.api_key_env is None and target.api_key_file is None:
        yield f"{target.name}: a pod's proxy asks for no key: without --api-key on the server anybody may use it during the run."


def _serverless(target: Target, load: LoadProfile, largest: int | None) -> Iterator[str]:
    levels = load.sweep.values if load.sweep is not None else ()
    at_once = load.max_in_flight if load.arrival is not Arrival.CLOSED else load.concurrency
    rate = load.rate_per_s
    if load.sweep is not None and load.sweep.knob == "concurrency":
        at_once = round(max(levels))
    elif load.sweep is not None:
        rate = max(levels)
    if at_once is not None and at_once > WORKER_CONCURRENCY:
        yield (
            f"{target.name}: {at_once} requests at once, and a RunPod worker takes {WORKER_CONCURRENCY} unless MAX_CONCURRENCY "
            "says otherwise: the others wait at RunPod, and their latency is that of its queue."
        )
    if at_once is not None and at_once > CONCURRENT_LIMIT:
        yield f"{target.name}: RunPod answers 429 above {CONCURRENT_LIMIT} requests at once."
    if rate is not None and rate > RATE_LIMIT_PER_S:
        yield f"{target.name}: RunPod answers 429 above {RATE_LIMIT_PER_S:.0f} requests per second (2000 in 10 s)."
    if largest is not None and largest > PAYLOAD_LIMIT_BYTES:
        yield (
            f"{target.name}: a request has {largest / 1e6:.1f} MB, and RunPod takes {PAYLOAD_LIMIT_BYTES / 1e6:.0f} to 20 MB: "
            "send smaller pictures (--max-side)."
        )
