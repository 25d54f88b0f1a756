"""Asks each target who it is before load is sent, so that a mistake costs a second and not an hour.

Nothing here touches the model, unless probes were asked for (`--preflight-only`): a chat request, however small, would take the cold
start away from the first measured one. For the same reason a serverless endpoint is not even asked for its models.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

import httpx
import msgspec
from asyncio_throttle.throttler import Throttler

from client.core.evidence import ServerEvidence
from client.core.greeting import (
    KEY_HINT,
    birth_marks,
    choose_model,
    clock_offset_s,
    read_version,
    refusal,
)
from client.core.outcomes import message_of, one_line
from client.core.plan import Target, TargetKind
from client.core.records import Outcome, RequestRecord, ServerSnapshot
from client.core.runpod import Workers, health_url, workers_sentence
from client.core.sidecar import sidecar_applies
from client.errors import TargetError
from client.page import ASK_LIMIT_S, NoPage, Page, get_page

RETRY_EVERY_S = 1.0
TRIPS = 7
WAKE_LIMIT_S = 300.0
"""A serverless endpoint may have to start a worker before it lists its models."""
_START = "Start it (docker compose up), wait for it (--wait 900), or try without a server: --simulate h100."
SIMULATED_HEADER = "x-halfweight-simulated"

Probe = Callable[[Target], Awaitable[tuple[RequestRecord, ...]]]


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a target said. `target.model` is now the name to ask for; `simulated` when the server says so itself."""

    target: Target
    server: ServerEvidence
    simulated_note: str | None = None
    missing: tuple[str, ...] = ()
    """What cannot be measured from here, each with its reason."""
    notes: tuple[str, ...] = ()
    probes: tuple[RequestRecord, ...] = ()
    """A tiny text and a tiny image request, where they were asked for."""


class Preflight:
    """`snapshot` gives the /metrics page of a target by its name (`client.telemetry`), `poll` its serverless workers."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        keys: Mapping[str, str],
        snapshot: Callable[[str], Awaitable[ServerSnapshot]],
        poll: Callable[[str], Awaitable[Workers | None]],
        wait_s: float = 0.0,
        probe: Probe | None = None,
    ) -> None:
        self._client = client
        self._keys = keys
        self._snapshot = snapshot
        self._poll = poll
        self._wait_s = wait_s
        self._probe = probe

    async def meet_all(self, targets: tuple[Target, ...]) -> tuple[Introduction, ...]:
        """Raises TargetError for the first target, in order, that cannot be used."""
        met = tuple([await self.meet(target) for target in targets])
        _refuse_one_server_twice(met)
        return met

    async def meet(self, target: Target) -> Introduction:
        if target.kind is TargetKind.RUNPOD_SERVERLESS:
            found = await self._meet_serverless(target)
        else:
            found = await self._meet_server(target)
        if self._probe is None:
            return found
        return replace(found, probes=await self._probe(found.target))

    async def _meet_server(self, target: Target) -> Introduction:
        health = await self._healthy(target)
        models = await self._get(target, "/v1/models")
        if (reason := refusal(target, models.status, models.headers.multi_items(), models.content)) is not None:
            raise reason
        model, served = choose_model(target, models.status, models.content)
        version = await self._version(target)
        page = await self._snapshot(target.name)
        round_trip, clock = await self._round_trips(target, "/health" if health.status == 200 else "/v1/models")
        server = ServerEvidence(
            target=target.name,
            version=version,
            served_models=tuple(entry.id for entry in served),
            max_model_len=next((entry.max_model_len for entry in served if entry.id == model), None),
            before=page,
            round_trip_ns=round_trip,
            clock_offset_s=clock,
        )
        simulated = health.headers.get(SIMULATED_HEADER)
        target = msgspec.structs.replace(target, model=model, simulated=target.simulated or simulated is not None)
        return Introduction(
            target=target,
            server=server,
            simulated_note=None if simulated is None else one_line(simulated),
            missing=_missing(target, server),
        )

    async def _meet_serverless(self, target: Target) -> Introduction:
        workers = await self._poll(target.name)
        if workers is None:
            await self._explain_silence(target)
        if target.model is None and self._probe is None:
            raise TargetError(
                f"target {target.name} is serverless, and asking for its models would start a worker: the cold start could not be measured.",
                f"Name the model: --model {target.name}=MODEL. --preflight-only lists what is served.",
            )
        served: tuple[str, ...] = ()
        if self._probe is not None:
            page = await self._get(target, "/v1/models", max(self._wait_s, WAKE_LIMIT_S))
            if (reason := refusal(target, page.status, page.headers.multi_items(), page.content)) is not None:
                raise reason
            model, entries = choose_model(target, page.status, page.content)
            target, served = msgspec.structs.replace(target, model=model), tuple(entry.id for entry in entries)
        server = ServerEvidence(
            target=target.name,
            served_models=served,
            before=await self._snapshot(target.name),
            workers=() if workers is None else (workers,),
        )
        notes = () if workers is None else (workers_sentence(target.name, workers),)
        return Introduction(target=target, server=server, missing=_missing(target, server), notes=notes)

    async def _explain_silence(self, target: Target) -> None:
        """Raises TargetError when the health page of an endpoint says why it tells nothing; a page without workers is no error."""
        try:
            page = await get_page(self._client, health_url(target.base_url), self._keys.get(target.name))
        except NoPage as error:
            raise _unreachable(target, "", error) from None
        if (reason := refusal(target, page.status, page.headers.multi_items(), page.content)) is not None:
            raise reason
        if page.status >= 400:
            said = one_line(message_of(page.content))
            raise TargetError(
                f"target {target.name}: RunPod knows no endpoint at {target.base_url} (HTTP {page.status}{f': {said}' if said else ''}).",
                f"Look at the id in its address. {KEY_HINT}"
                if not self._keys.get(target.name)
                else "Look at the id in its address.",
            )

    async def _healthy(self, target: Target) -> Page:
        deadline = time.monotonic() + self._wait_s
        # A cap is what is wanted here: a server that loads its model must not be busy with our questions.
        probes = Throttler(rate_limit=1, period=RETRY_EVERY_S)
        while True:
            try:
                async with probes:
                    page = await self._get(target, "/health")
                # Endpoints without /health (a proxy, another server) answer 404: /v1/models decides for them.
                if page.status < 500:
                    return page
                said = one_line(message_of(page.content))
                problem = TargetError(
                    f"target {target.name} at {target.base_url} is not ready (HTTP {page.status} from /health{f': {said}' if said else ''}).",
                    "It may still be loading its model: give --wait 900, or look at its log.",
                )
            except TargetError as error:
                problem = error
            if time.monotonic() >= deadline:
                raise problem

    async def _version(self, target: Target) -> str | None:
        try:
            page = await self._get(target, "/version")
        except TargetError:
            return None
        return read_version(page.content) if page.status == 200 else None

    async def _round_trips(self, target: Target, path: str) -> tuple[int | None, float | None]:
        """Median time of a request that costs the server nothing, in ns, on an open connection; and its clock against ours."""
        times: list[int] = []
        clock = None
        for _ in range(TRIPS):
            sent_wall_ns = time.time_ns()
            try:
                page = await self._get(target, path)
            except TargetError:
                break
            times.append(page.took_ns)
            clock = clock_offset_s(page.headers.get("date"), sent_wall_ns, time.time_ns())
        return (round(statistics.median(times)) if times else None), clock

    async def _get(self, target: Target, path: str, limit_s: float = ASK_LIMIT_S) -> Page:
        url = target.base_url + path
        try:
            return await get_page(self._client, url, self._keys.get(target.name), limit_s=limit_s)
        except NoPage as error:
            raise _unreachable(target, path, error) from None


def _unreachable(target: Target, path: str, error: NoPage) -> TargetError:
    why = one_line(str(error))
    if error.late:
        return TargetError(f"target {target.name}: {why} from {target.base_url}{path}.", _START)
    if why.startswith("TLS"):
        certificate = (
            "Name the authority of its certificate with --ca-file FILE: it is not checked any less for being your own."
        )
        hint = certificate if "certificate" in why.lower() else "Does it speak http:// on that port?"
        return TargetError(f"target {target.name}: no safe connection to {target.base_url} ({why}).", hint)
    if "cannot be resolved" in why:
        return TargetError(f"target {target.name}: {why}.", f"Look at the address: --url {target.name}=URL.")
    return TargetError(f"target {target.name}: nothing serves at {target.base_url} ({why}).", _START)


def _missing(target: Target, server: ServerEvidence) -> tuple[str, ...]:
    """What no report of this target will hold, said before the first request."""
    found = []
    if server.before is None or server.before.text is None:
        why = "" if server.before is None else f" ({server.before.why})"
        found.append(f"cache hits, preemptions and queueing: no /metrics{why}")
    if not target.simulated:
        url = target.sidecar_url
        applies, why = (False, "no sidecar was named (--sidecar)") if url is None else sidecar_applies(target, url)
        if not applies:
            found.append(f"GPU memory, power and clocks: {why}")
        if target.server_log is None:
            found.append("memory by part and the kernel in use: no start-up log (--server-log)")
    return tuple(found)


def _refuse_one_server_twice(met: tuple[Introduction, ...]) -> None:
    """Two addresses of one process (a proxy, another name) would compare a server with itself."""
    seen: dict[tuple[str, ...], Introduction] = {}
    for one in met:
        marks = birth_marks(one.server.before)
        if not marks:
            continue
        if marks in seen:
            other = seen[marks].target
            raise TargetError(
                f"targets {other.name} ({other.base_url}) and {one.target.name} ({one.target.base_url}) are one and the same server.",
                f"Give the address of the other one with --url {one.target.name}=http://HOST:PORT.",
            )
        seen[marks] = one


def told(one: Introduction) -> str:
    """The introduction for a person, several lines."""
    server = one.server
    known = ", ".join(one_line(name) for name in server.served_models[:8]) or "not told"
    lines = [
        f"{one.target.name}: {one.target.base_url}"
        + ("" if one.target.kind is TargetKind.PLAIN else f" ({one.target.kind})"),
        f"  model {one.target.model} (served: {known})",
        f"  server version {server.version or 'not told'}, context {server.max_model_len or 'not told'} tokens",
    ]
    if server.round_trip_ns is not None:
        lines.append(f"  round trip {server.round_trip_ns / 1e6:.1f} ms (median of {TRIPS}): a part of every latency")
    if server.clock_offset_s is not None:
        lines.append(f"  clock {clock_words(server.clock_offset_s)}")
    lines += [f"  {_probed(record)}" for record in one.probes]
    lines += [f"  {note}" for note in one.notes]
    lines += [f"  cannot be measured from here: {item}" for item in one.missing]
    return "\n".join(lines)


def clock_words(offset_s: float) -> str:
    if offset_s == 0.0:
        return "agrees with ours within a second (its Date header)"
    return f"is {abs(offset_s):.0f} s {'ahead of' if offset_s > 0 else 'behind'} ours (its Date header)"


def _probed(record: RequestRecord) -> str:
    kind = "a tiny text request" if record.image_id == "text" else "a tiny image request"
    if record.outcome is not Outcome.OK:
        return f"{kind}: {record.outcome}: {record.error}"
    took = (
        ""
        if record.sent_ns is None or record.done_ns is None
        else f" in {(record.done_ns - record.sent_ns) / 1e6:.0f} ms"
    )
    return f"{kind}: answered{took}"
