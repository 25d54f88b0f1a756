"""Asks each target who it is before load is sent, so that a mistake costs a second and not an hour."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import httpx
import msgspec
from asyncio_throttle.throttler import Throttler

from client.core.evidence import ServerEvidence
from client.core.plan import Target
from client.core.records import ServerSnapshot
from client.errors import TargetError

ASK_LIMIT_S = 10.0
RETRY_EVERY_S = 1.0


class _Model(msgspec.Struct):
    id: str = ""
    max_model_len: int | None = None
    owned_by: str | None = None


class _Models(msgspec.Struct):
    data: list[_Model] = []


class _Version(msgspec.Struct):
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a target said. `target.model` is now the name to ask for; `simulated` when the server says so itself."""

    target: Target
    server: ServerEvidence
    simulated_note: str | None = None
    round_trip_ns: int | None = None
    missing: tuple[str, ...] = ()


class Preflight:
    """`snapshot` gives the /metrics page of a target by its name (`client.telemetry`)."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        keys: Mapping[str, str],
        snapshot: Callable[[str], Awaitable[ServerSnapshot]],
        wait_s: float = 0.0,
    ) -> None:
        self._client = client
        self._keys = keys
        self._snapshot = snapshot
        self._wait_s = wait_s

    async def meet_all(self, targets: tuple[Target, ...]) -> tuple[Introduction, ...]:
        """Raises TargetError for the first target, in order, that cannot be used."""
        met = tuple([await self.meet(target) for target in targets])
        _refuse_one_server_twice(met)
        return met

    async def meet(self, target: Target) -> Introduction:
        health = await self._healthy(target)
        response, round_trip = await self._get(target, "/v1/models")
        if response.status_code in (401, 403):
            hint = "Name the variable that holds the key with --api-key-env."
            raise TargetError(
                f"target {target.name} at {target.base_url} refuses us (HTTP {response.status_code}).", hint
            )
        model, served = _choose_model(target, response)
        version = await self._version(target)
        page = await self._snapshot(target.name)
        missing = [] if page.text is not None else ["server counters (/metrics)"]
        server = ServerEvidence(
            target=target.name,
            version=version,
            served_models=tuple(entry.id for entry in served),
            max_model_len=next((entry.max_model_len for entry in served if entry.id == model), None),
            before=page,
        )
        return Introduction(
            target=msgspec.structs.replace(target, model=model, simulated=target.simulated or _says_simulated(health)),
            server=server,
            simulated_note=health.headers.get("x-halfweight-simulated"),
            round_trip_ns=round_trip,
            missing=tuple(missing),
        )

    async def _healthy(self, target: Target) -> httpx.Response:
        deadline = time.monotonic() + self._wait_s
        # A cap is what is wanted here: a server that loads its model must not be busy with our questions.
        probes = Throttler(rate_limit=1, period=RETRY_EVERY_S)
        while True:
            try:
                async with probes:
                    response, _ = await self._get(target, "/health")
                # Endpoints without /health (a proxy, another server) answer 404: /v1/models decides for them.
                if response.status_code < 500:
                    return response
                problem = TargetError(
                    f"target {target.name} at {target.base_url} is not ready (HTTP {response.status_code} from /health).",
                    "It may still be loading its model: give --wait 900, or look at its log.",
                )
            except TargetError as error:
                problem = error
            if time.monotonic() >= deadline:
                raise problem

    async def _version(self, target: Target) -> str | None:
        try:
            response, _ = await self._get(target, "/version")
            return msgspec.json.decode(response.content, type=_Version).version if response.status_code == 200 else None
        except (TargetError, msgspec.DecodeError):
            return None

    async def _get(self, target: Target, path: str) -> tuple[httpx.Response, int]:
        key = self._keys.get(target.name)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        started = time.monotonic_ns()
        try:
            response = await self._client.get(target.base_url + path, headers=headers, timeout=ASK_LIMIT_S)
        except httpx.HTTPError as error:
            raise _unreachable(target, path, error) from None
        return response, time.monotonic_ns() - started


def _unreachable(target: Target, path: str, error: httpx.HTTPError) -> TargetError:
    start = "Start it (docker compose up), wait for it (--wait 900), or try without a server: --simulate h100."
    if isinstance(error, httpx.TimeoutException):
        return TargetError(
            f"target {target.name}: no answer from {target.base_url}{path} within {ASK_LIMIT_S:.0f} s.", start
        )
    what = str(error) or type(error).__name__
    return TargetError(f"target {target.name}: nothing serves at {target.base_url} ({what}).", start)


def _choose_model(target: Target, response: httpx.Response) -> tuple[str, list[_Model]]:
    try:
        served = msgspec.json.decode(response.content, type=_Models).data if response.status_code == 200 else []
    except msgspec.DecodeError:
        served = []
    names = [entry.id for entry in served]
    if target.model is not None:
        if names and target.model not in names:
            hint = f"Served there: {', '.join(names)}. Choose with --model {target.name}={names[0]}."
            raise TargetError(f"target {target.name} does not serve the model {target.model}.", hint)
        return target.model, served
    if len(names) == 1:
        return names[0], served
    if names:
        hint = f"Served there: {', '.join(names)}. Choose with --model {target.name}={names[0]}."
        raise TargetError(f"target {target.name} serves {len(names)} models and none was named.", hint)
    raise TargetError(
        f"target {target.name}: {target.base_url}/v1/models lists no model (HTTP {response.status_code}).",
        f"Is it an OpenAI-compatible server? If so, name the model: --model {target.name}=MODEL.",
    )


def _says_simulated(response: httpx.Response) -> bool:
    return "x-halfweight-simulated" in response.headers


def _refuse_one_server_twice(met: tuple[Introduction, ...]) -> None:
    """Two addresses of one process (a proxy, another name) would compare a server with itself."""
    seen: dict[tuple[str, ...], Introduction] = {}
    for one in met:
        marks = _birth_marks(one.server.before)
        if not marks:
            continue
        if marks in seen:
            other = seen[marks].target
            raise TargetError(
                f"targets {other.name} ({other.base_url}) and {one.target.name} ({one.target.base_url}) are one and the same server.",
                f"Give the address of the other one with --url {one.target.name}=http://HOST:PORT.",
            )
        seen[marks] = one


def _birth_marks(page: ServerSnapshot | None) -> tuple[str, ...]:
    """The creation times of a server's counters, to the microsecond: equal on two pages only if one process made both."""
    if page is None or page.text is None:
        return ()
    return tuple(
        line.rpartition(" ")[2] for line in page.text.splitlines() if "_created{" in line or "_created " in line
    )
