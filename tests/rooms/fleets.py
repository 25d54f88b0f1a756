"""A fleet of small worker processes, and what it left in its folder."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tiny_kit import TinyKit

from client.core.records import Phase, RequestRecord
from client.core.schedule import Schedule
from client.rundir import read_lines
from client.workers import Fleet

KEY = tuple[Phase, int]


@asynccontextmanager
async def fleet_of(
    workers: int,
    folder: Path,
    kit: TinyKit | None = None,
    see: Callable[[RequestRecord], None] = lambda record: None,
    silence_limit_s: float = 30.0,
    retries: int = 0,
) -> AsyncIterator[Fleet]:
    fleet = Fleet(workers, kit or TinyKit(), folder, see, grace_s=0.1, retries=retries, silence_limit_s=silence_limit_s)
    await fleet.start()
    try:
        yield fleet
    finally:
        await fleet.stop()
        assert all(pid is None or not alive(pid) for pid in fleet.processes)


def written(folder: Path) -> list[RequestRecord]:
    return [record for file in sorted(folder.glob("requests-*.jsonl")) for record in read_lines(file, RequestRecord)[0]]


def keys(records: list[RequestRecord]) -> list[KEY]:
    return sorted((record.phase, record.index) for record in records)


def all_of(schedule: Schedule) -> list[KEY]:
    return sorted((slot.phase, slot.index) for slot in schedule)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "zombie" not in Path(f"/proc/{pid}/status").read_text()


async def until(condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.01)
