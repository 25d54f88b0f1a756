"""Polls the health page of a RunPod serverless endpoint: how many workers there are, without starting one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import httpx

from client.core.plan import Target, TargetKind
from client.core.runpod import Workers, health_url, read_workers
from client.page import NoPage, get_page

POLL_EVERY_S = 2.0
SETTLE_LIMIT_S = 180.0
"""How long the measured phase waits for workers that are still starting."""

Poll = Callable[[str], Awaitable[Workers | None]]


class WorkersPoll:
    """`await poll(name)` for a target by its name; None when it is not serverless or does not tell."""

    def __init__(self, client: httpx.AsyncClient, targets: tuple[Target, ...], keys: Mapping[str, str]) -> None:
        self._client = client
        self._targets = {target.name: target for target in targets if target.kind is TargetKind.RUNPOD_SERVERLESS}
        self._keys = keys

    async def __call__(self, name: str) -> Workers | None:
        target = self._targets.get(name)
        if target is None:
            return None
        try:
            page = await get_page(self._client, health_url(target.base_url), self._keys.get(name))
        except NoPage:
            return None
        return read_workers(page.content, time.monotonic_ns()) if page.status == 200 else None


async def settled(
    poll: Poll, name: str, stop: Callable[[], bool], *, limit_s: float = SETTLE_LIMIT_S, every_s: float = POLL_EVERY_S
) -> Workers | None:
    """The workers of `name` once none is starting any more, or as they are after `limit_s` or when `stop` says so."""
    deadline = time.monotonic() + limit_s
    workers = await poll(name)
    while workers is not None and workers.initializing and time.monotonic() < deadline and not stop():
        await asyncio.sleep(every_s)
        workers = await poll(name)
    return workers
