"""One request through the endpoint, and its record."""

from __future__ import annotations

import time
from typing import Any

import httpx
from raw_server import RawServer, Script

from client.core.cases import PreparedRequest
from client.core.plan import Target, Timeouts
from client.core.records import Outcome, Phase, RequestRecord
from client.core.schedule import Slot
from client.endpoint import Endpoint
from client.transport import new_client

KEY = "sk-very-secret-0123456789"


PREPARED = PreparedRequest("image-7", 7, b'{"messages": []}' + b" " * 100_000)


SHORT = Timeouts(connect_s=0.5, write_s=0.5, first_byte_s=0.2, idle_s=0.2, total_s=5.0)


async def ask(
    url: str,
    *,
    timeouts: Timeouts = SHORT,
    api_key: str | None = KEY,
    keep_text: bool = True,
    prepared: PreparedRequest = PREPARED,
    client: httpx.AsyncClient | None = None,
) -> RequestRecord:
    records: list[RequestRecord] = []
    async with client or new_client() as door:
        endpoint = Endpoint(door, Target(name="fp8", base_url=url), timeouts, api_key, keep_text)
        returned = await send(endpoint, records, prepared)
    assert records == [returned]
    return returned


async def send(endpoint: Endpoint, records: list[RequestRecord], prepared: PreparedRequest = PREPARED) -> RequestRecord:
    return await endpoint.send(
        prepared,
        Slot(3, 7, Phase.MEASURE),
        phase=Phase.MEASURE,
        block=1,
        level=2,
        worker=4,
        intended_ns=time.monotonic_ns(),
        sink=records.append,
    )


async def ask_script(script: Script, **settings: Any) -> RequestRecord:
    async with RawServer(script) as server:
        return await ask(server.url, **settings)


def check(record: RequestRecord, outcome: Outcome, part: str = "") -> None:
    assert record.outcome is outcome, (record.outcome, record.error)
    if outcome is Outcome.OK:
        assert record.error is None
    else:
        assert record.error is not None
        assert part in record.error
        assert len(record.error) <= 200
        assert record.error.isprintable()
        assert KEY not in record.error
