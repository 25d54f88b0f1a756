"""What a fleet and its workers say to each other, over a socket pair that nobody else holds: length, then a pickle."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.core.records import ImageFact, Phase, PhaseWindow, RequestRecord, WorkerHealth
from client.core.schedule import Schedule
from client.errors import HalfweightError
from client.workers.kit import Recipe

# From the fleet to a worker.


@dataclass(frozen=True, slots=True)
class Hello:
    worker: int
    recipe: Recipe
    records: Path
    grace_s: float
    retries: int


@dataclass(frozen=True, slots=True)
class Prepare:
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


@dataclass(frozen=True, slots=True)
class Go:
    """The instant at which all workers start, on the clock that all processes of a host share."""

    start_ns: int


class Abort:
    """Send nothing new; end the block."""


class Leave:
    """Close everything and exit."""


# From a worker to its fleet.


@dataclass(frozen=True, slots=True)
class Ready:
    pid: int


class Armed:
    pass


@dataclass(frozen=True, slots=True)
class Seen:
    """Records written since the last message, without chunks, and without text except in quality passes: for the eye. Also the worker's heartbeat, when empty."""

    records: tuple[RequestRecord, ...]
    in_flight: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    window: PhaseWindow
    health: WorkerHealth
    facts: tuple[ImageFact, ...]
    """What is known of the pictures that were sent, and was not told before."""


@dataclass(frozen=True, slots=True)
class Failed:
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
