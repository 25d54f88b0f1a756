"""What a fleet and its workers say to each other, over a socket pair that nobody else holds: length, then a pickle."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path
from typing import Any

import msgspec

from client.core.records import ImageFact, Phase, PhaseWindow, RequestRecord, WorkerHealth
from client.core.schedule import Schedule
from client.errors import HalfweightError
from client.workers.kit import Recipe

# From the fleet to a worker.


class Hello(msgspec.Struct, frozen=True):
    worker: int
    recipe: Recipe
    records: Path
    grace_s: float
    retries: int


class Prepare(msgspec.Struct, frozen=True):
    """Share `k` of `n` of a block. The worker derives it alone, builds its first bodies, and says Armed."""

    target: str
    schedule: Schedule
    k: int
    n: int
    phase: Phase
    block: int | None
    level: int
    likely: int | None = None
    """How many slots the whole block will probably send; None: all of them."""


class Go(msgspec.Struct, frozen=True):
    """The instant at which all workers start, on the clock that all processes of a host share."""

    start_ns: int


class Abort:
    """Send nothing new; end the block."""


class Leave:
    """Close everything and exit."""


# From a worker to its fleet.


class Ready(msgspec.Struct, frozen=True):
    pid: int


class Armed:
    pass


class Seen(msgspec.Struct, frozen=True):
    """Records written since the last message, without chunks, and without text except in quality passes: for the eye. Also the worker's heartbeat, when empty."""

    records: tuple[RequestRecord, ...]
    in_flight: int = 0


class Finished(msgspec.Struct, frozen=True):
    window: PhaseWindow
    health: WorkerHealth
    facts: tuple[ImageFact, ...]
    """What is known of the pictures that were sent, and was not told before."""


class Failed(msgspec.Struct, frozen=True):
    """The block, or the worker's own start, ended with an exception. `error` is one that a person may cause, else None."""

    error: HalfweightError | None
    text: str
    aborted: bool = False
    """The fleet said so, before the start: no failure of this worker's own."""


_LENGTH_BYTES = 8


async def receive(reader: asyncio.StreamReader) -> Any:
    """The next message; None when the other side is gone."""
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES))
        return pickle.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def post(writer: asyncio.StreamWriter, message: object) -> None:
    """Queue a message. One to a side that is gone is dropped: its end is noticed by `receive`."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    if not writer.is_closing():
        writer.write(len(data).to_bytes(_LENGTH_BYTES) + data)
