"""The sidecar's HTTP side: /info /clock /samples /energy /metrics /health. Reads the hub; only /energy touches the GPU."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.gpu.hub import Hub
from server.gpu.poller import Poller
from server.gpu.prom import page
from server.gpu.wire import EVERYTHING, Info, Sample, line, now

STALE_NS = 3_000_000_000
ENERGY_TIMEOUT_S = 2.0
Energy = Callable[[], Awaitable[list[Sample]]]


def energy_of(pollers: Sequence[Poller]) -> Energy:
    """Reads every GPU's energy counter, each in its own thread; a GPU that does not answer in time is absent with that reason."""
    pools = [ThreadPoolExecutor(1, thread_name_prefix=f"energy{p.device.gpu}") for p in pollers]

    async def one(pool: ThreadPoolExecutor, poller: Poller) -> Sample:
        asked = now()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(pool.submit(poller.energy)), ENERGY_TIMEOUT_S)
        except TimeoutError:
            why = f"no answer in {ENERGY_TIMEOUT_S:g} s"
        return Sample(
            mono_ns=asked.mono_ns,
            wall_ns=asked.wall_ns,
            gpu=poller.device.gpu,
            uuid=poller.device.uuid,
            absent={"energy_mj": why},
        )

    async def read() -> list[Sample]:
        return list(await asyncio.gather(*map(one, pools, pollers)))

    return read


def recorded_energy(hub: Hub) -> Energy:
    """For a replay: the newest counter of the recording."""

    async def read() -> list[Sample]:
        stamp = now()
        return [
            Sample(
                mono_ns=stamp.mono_ns,
                wall_ns=stamp.wall_ns,
                gpu=s.gpu,
                uuid=s.uuid,
                energy_mj=s.energy_mj,
                absent={} if s.energy_mj is not None else {"energy_mj": "the recording holds no energy counter"},
                fake=True,
            )
            for s in hub.newest()
        ]

    return read


def health(hub: Hub, info: Info, now_ns: int) -> tuple[int, dict[str, object]]:
    """200 while at least one GPU gives fresh samples; 503 otherwise. The body names each GPU's state."""
    gpus: list[dict[str, object]] = []
    for s in hub.newest():
        age = now_ns - s.mono_ns
        state = s.absent.get(EVERYTHING) or ("ok" if age < STALE_NS else "silent")
        gpus.append({"gpu": s.gpu, "uuid": s.uuid, "state": state, "age_ms": max(0, age // 1_000_000)})
    good = any(g["state"] == "ok" for g in gpus)
    body: dict[str, object] = {
        "ok": good,
        "fake": info.fake,
        "lines": hub.lines,
        "file_error": hub.write_error,
        "gpus": gpus,
    }
    return (200 if good else 503), body


def _number(request: Request, name: str) -> int | None:
    """A query parameter as an integer; None when it is not given. Raises ValueError."""
    text = request.query_params.get(name)
    return None if text is None else int(text)


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value) + b"\n", status, media_type="application/json")


def make_app(hub: Hub, info: Callable[[], Info], energy: Energy) -> Starlette:
    async def samples(request: Request) -> Response:
        try:
            since, limit = _number(request, "since"), _number(request, "limit")
        except ValueError:
            return _json({"error": "since and limit are integers: ?since=<mono_ns>&limit=<lines>"}, 400)
        if limit is not None and limit < 1:
            return _json({"error": "limit is at least 1"}, 400)
        data = hub.since(-1 if since is None else since, limit)
        return Response(
            data, media_type="application/x-ndjson", headers={"x-dropped-until-ns": str(hub.dropped_until_ns)}
        )

    async def clock(_: Request) -> Response:
        stamp = now()
        return _json({"mono_ns": stamp.mono_ns, "wall_ns": stamp.wall_ns, "boot_id": info().boot_id})

    async def energies(_: Request) -> Response:
        return Response(b"".join(map(line, await energy())), media_type="application/x-ndjson")

    async def metrics(_: Request) -> Response:
        return Response(page(hub.newest, info()), media_type=CONTENT_TYPE_LATEST)

    async def state(_: Request) -> Response:
        status, body = health(hub, info(), now().mono_ns)
        return _json(body, status)

    async def about(_: Request) -> Response:
        return _json(info())

    return Starlette(
        routes=[
            Route("/samples", samples),
            Route("/clock", clock),
            Route("/energy", energies),
            Route("/metrics", metrics),
            Route("/health", state),
            Route("/info", about),
        ]
    )
